# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What docs/results.md claims, recomputed from the records in results/.

A paragraph of that page is followed by a comment with a line for each claim, such as
``95.0 = mean('digits', 'downsample', 25)`` or ``true = decided('digits', 'bvit', 'rex', 75)``.
The functions here are what such a line may call. Budgets are in percent, as on the page.
"""

import functools
import json
import re
from math import ceil  # noqa: F401  of a claim
from statistics import fmean

from bvit_mm.compare import ABLATIONS, METHODS, by_setting, paired_difference, read_records
from bvit_mm.compare.ablations import TABLE_13  # noqa: F401  of a claim

from .configs import planned
from .scripts import ROOT, load_script

RESULTS = ROOT / 'results'
BUDGETS = (25, 50, 75, 100)
CHEAPER = (
    'downsample',
    'scale-whole',
    'scale-whole-rex',
    'epochs<=1',
)  # than their budget, by more than others
PAGE = load_script(ROOT / '.dev_scripts' / 'results_tables.py')
SECTION = load_script(ROOT / '.dev_scripts' / 'redundancy_section.py')
BASELINES = PAGE.BASELINES
DATA = ('digits', 'letters')
# The files that a name stands for.
FILES = {
    'digits': ['digits'],
    'letters': ['letters'],
    'confirmed': ['digits_confirmed'],
    'all digits': ['digits', 'digits_confirmed'],
    'first try': ['digits_first_try'],
    'digits scaled': ['digits_scaled'],
    'letters scaled': ['letters_scaled'],
    'photographs': ['photographs'],
    'pictograms': ['pictograms'],
    'photographs times': ['photographs_times'],
    'slimmed digits': ['digits_slimmed'],
    'slimmed photographs': ['photographs_slimmed'],
}
WORDS = dict(one=1, two=2, three=3, four=4, five=5, six=6, eight=8, ten=10)
PARTS = dict(half=1 / 2, third=1 / 3)


@functools.cache
def settings(data):
    """The runs of a name, by method and budget, then by seed."""
    return by_setting(r for f in FILES[data] for r in read_records(RESULTS / f'{f}.jsonl'))


def runs(data, method, budget):
    """Of a share of the full cost, in percent, or of a time."""
    return settings(data)[method, budget if isinstance(budget, str) else budget / 100]


def mean(data, method, budget):
    """The mean accuracy over seeds."""
    return fmean(run.value for run in runs(data, method, budget).values())


def gain(data, ours, theirs, budget):
    """How much better ours is, paired by seed."""
    return _difference(data, ours, theirs, budget)[0]


def interval(data, ours, theirs, budget):
    """The 95 % interval of how much better ours is, paired by seed."""
    return _difference(data, ours, theirs, budget)[1:3]


def pairs(data, ours, theirs, budget):
    """How many seeds both have."""
    return _difference(data, ours, theirs, budget)[3]


def decided(data, ours, theirs, budget):
    """Whether the interval of the difference leaves out 0."""
    _, low, high, _ = _difference(data, ours, theirs, budget)
    return low > 0 or high < 0


def decided_without(seed, data, ours, theirs, budget):
    """The same without a seed, such as one that a method was chosen by."""
    ours, theirs = (
        {each: run for each, run in runs(data, method, budget).items() if each != seed}
        for method in (ours, theirs)
    )
    _, low, high, _ = paired_difference(ours, theirs)
    return low > 0 or high < 0


def of_three(method):
    """Of seeds 0 to 2 of the photographs at 25 %: a method's mean; recommended minus it."""
    ours, theirs = (
        {seed: run for seed, run in runs('photographs', each, 25).items() if seed < 3}
        for each in ('recommended', method)
    )
    return fmean(run.value for run in theirs.values()), *paired_difference(ours, theirs)[:3]


def _difference(data, ours, theirs, budget):
    return paired_difference(runs(data, ours, budget), runs(data, theirs, budget))


def loses(data, method, budget):
    """Whether a method is decided to be worse than the default."""
    return gain(data, method, 'bvit', budget) < 0 and decided(data, method, 'bvit', budget)


def beats_all(data, budget):
    """Whether growing is decided to be better than each baseline."""
    return (
        PAGE.verdict([_difference(data, 'bvit', m, budget)[1:3] for m in BASELINES], 3) == 'better'
    )


def best(data, budget, *methods):
    """Of methods, the one with the highest mean."""
    return max(methods, key=lambda method: mean(data, method, budget))


def share_of_lead(data, method, budget):
    """Which part of growing's lead over ``rex`` a method makes up for."""
    return gain(data, method, 'rex', budget) / gain(data, 'bvit', 'rex', budget)


def paper(budget):
    """The gain of the paper's Table 1, of DeiT-S."""
    return PAGE.PAPER[budget / 100]


def epochs(data, method, budget):
    """The epochs of each training stage, which all seeds have."""
    (found,) = {tuple(run.epochs) for run in runs(data, method, budget).values()}
    return found


def off(data):
    """By method and share of the cost, by which percentage costs differ from it, at most."""
    return {
        (method, 100 * budget): max(abs(100 * run.cost / budget - 100) for run in found.values())
        for (method, budget), found in settings(data).items()
        if not isinstance(budget, str)
    }


def side(data, budget):
    """The side of the images of ``downsample``."""
    return _planned(data, 'downsample', budget)[3].model.backbone.img_size


def selections(data, budget):
    """What GradMatch pays for its selections, in percent of the budget."""
    plan, *_ = _planned(data, 'gradmatch', budget)
    return 100 * sum(plan.charged.values()) / plan.cost


@functools.cache
def _planned(data, method, budget):
    config = ROOT / 'configs' / 'compare' / f'deit-{data}.py'
    return planned(config, {**METHODS, **ABLATIONS}[method], budget / 100)


@functools.cache
def measured():
    """What was measured of the run of the whole network, by epoch."""
    return {r['epoch']: r for r in json.loads((RESULTS / 'digits_redundancy.json').read_text())}


def blocks():
    """The blocks of the network that was measured."""
    return list(measured()[1]['cka'])


def cka(epoch, block):
    """The mean CKA of pairs of heads."""
    return measured()[epoch]['cka'][block]['mean']


def components(epoch, block):
    """The share of components that hold 99 % of the variance of hidden units."""
    return measured()[epoch]['pca'][block]['share']


def patches():
    """How many patches an image has."""
    (rows, columns) = measured()[1]['attention']['grid']
    return rows * columns


def attended(epoch):
    """Over how many patches the class token's attention is spread."""
    return SECTION.attended(measured()[epoch]['attention']['maps'])


def holds(stated, expression):
    """Whether a claim is what its expression says."""
    return agrees(stated, eval(expression, dict(globals())))


def agrees(stated, value):
    """Whether a number, to as many decimals as it has, or a word says what a value is."""
    if stated == 'true':
        return value is True
    if stated in PARTS:
        return abs(PARTS[stated] - value) < 0.05
    if stated in WORDS:
        return WORDS[stated] == round(value)
    return f'{value:.{len(stated.partition(".")[2])}f}' == stated


def paragraphs(page):
    """The text of a page before each comment, and its claims; the text after the last has none."""
    *pairs, rest = re.split(r'<!--\n(.*?)-->', page, flags=re.S)
    texts, comments = pairs[::2], pairs[1::2]
    claims = [
        [tuple(line.strip().split(' = ', 1)) for line in comment.splitlines() if line.strip()]
        for comment in comments
    ]
    return [*zip(texts, claims), (rest, [])]


# Numbers that state no result: names of tables, budgets, what Student's intervals are.
NO_RESULT = re.compile(
    r'`[^`]*`|\]\([^)]*\)|(Table|Fig\.) \d+|\b(10|25|50|75|100)( and (50|75|100))? %|95 %|x86-64|'
    r'leaves? out 0'
)


def numbers(text):
    """The numbers of a text that state a result."""
    return re.findall(r'\d+(?:\.\d+)?', NO_RESULT.sub('', ' '.join(text.split())))
