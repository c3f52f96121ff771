# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The pages of results: tables are what their command writes, and the text says what they say."""

import json
import re
from math import ceil
from statistics import fmean

import cv2
import pytest

from bvit_mm.compare import ABLATIONS, METHODS, by_setting, paired_difference, read_records
from bvit_mm.compare.amounts import is_time, size_of
from bvit_mm.compare.tables import OURS

from .support import claims
from .support.configs import planned
from .support.scripts import load_script
from .support.tools import ROOT, script

SCRIPT = ROOT / '.dev_scripts' / 'results_tables.py'
page = load_script(SCRIPT)
DATA = ('digits', 'letters')
FINER = load_script(ROOT / '.dev_scripts' / 'slim_finer.py')
RECORDS = sorted({*(ROOT / 'results').glob('*.jsonl')} - {FINER.RECORDS})


PARAGRAPHS = claims.paragraphs((ROOT / 'docs' / 'results.md').read_text())
CLAIMS = [claim for _, stated in PARAGRAPHS for claim in stated]


def test_tables_are_what_their_command_writes(tmp_path):
    script(SCRIPT, tmp_path / 'results_tables.md', cwd=tmp_path)
    written = (tmp_path / 'results_tables.md').read_text()
    assert written == (ROOT / 'docs' / 'results_tables.md').read_text()
    pictures = {file.name for file in (ROOT / 'docs').glob('results_*.png')}
    # Drawn from checkpoints by tools/analyze.py, and kept.
    pictures -= {'results_attention.png'}
    assert {file.name for file in tmp_path.glob('*.png')} == pictures
    for drawn in tmp_path.glob('*.png'):
        kept, new = cv2.imread(str(ROOT / 'docs' / drawn.name)), cv2.imread(str(drawn))
        assert kept.shape == new.shape and (kept != new).mean() < 0.01, drawn.name


@pytest.mark.parametrize('stated, expression', CLAIMS)
def test_page_says_what_the_records_say(stated, expression):
    assert claims.holds(stated, expression)


@pytest.mark.parametrize('text, stated', PARAGRAPHS)
def test_every_number_of_the_page_is_claimed(text, stated):
    """And what is claimed stands there; of words, it is enough that they do."""
    named = {number for number, _ in stated}
    assert set(claims.numbers(text)) == {n for n in named if n[0].isdigit()}
    assert not [n for n in named if n != 'true' and not re.search(rf'\b{re.escape(n)}\b', text)]


def test_wrong_claims_are_noticed():
    assert len(CLAIMS) > 60
    assert claims.holds('75.9', "mean('digits', 'bvit', 25)")
    assert not claims.holds('75.8', "mean('digits', 'bvit', 25)")
    assert not claims.holds('75.9', "mean('digits', 'bvit', 50)")
    assert not claims.holds('three', "gain('digits', 'bvit', 'alpha=5', 50)")
    assert not claims.holds('true', "decided('letters', 'bvit', 'rex', 100)")
    assert not claims.holds('third', '0.39') and claims.holds('third', '0.3')
    assert claims.numbers('Table 3 has 12.5 at 25 and 50 %, and 25 epochs') == ['12.5', '25']


def test_records_are_whole():
    """Each has spent its budget, and kept what it reached."""
    assert RECORDS
    for file in RECORDS:
        for record in read_records(file):
            if is_time(record.budget):  # the last step and the last file may end after it
                assert 0 < record.took <= size_of(record.budget) + 1
            else:
                assert 0 < record.cost <= record.budget * (1 + 1e-9)
            assert record.value == record.history[-1][1] and 0 <= record.value <= 100
            assert record.history[-1][0] == ceil(sum(record.epochs) - 1e-9)
            assert record.seconds['training'] > 0


@pytest.mark.parametrize(
    'name, data',
    [
        *zip(DATA, DATA),
        ('digits_confirmed', 'digits'),
        *((f'{d}_scaled', d) for d in DATA),
        *((d, d) for d in page.FRONTIER),
        *((f'{d}_slimmed', d) for d in ('digits', 'photographs')),
    ],
)
def test_records_are_of_the_config(name, data):
    """Each method's plan is the one that its config has now."""
    settings = by_setting(read_records(ROOT / 'results' / f'{name}.jsonl'))
    assert settings
    for (method, budget), runs in settings.items():
        config = ROOT / 'configs' / 'compare' / f'deit-{data}.py'
        plan, _, full, _ = planned(config, {**ABLATIONS, **METHODS}[method], budget)
        for run in runs.values():
            assert run.epochs == list(plan.epochs)
            # which units stay is not known before, so slimmed networks cost a little less
            rel = 2e-3 if 'slim' in method else 1e-6
            assert run.cost == pytest.approx(plan.cost / full, rel=rel)


def test_sizes_of_one_search_are_the_measured_ones():
    page = (ROOT / 'docs' / 'slimming.md').read_text()
    rows = json.loads((ROOT / 'results' / 'slim_sizes.json').read_text())
    assert len(rows) >= 4
    for row in rows:
        cells = [
            f'{row["share"]:.0%}',
            *(f'{row[name]:.1f}' for name in ('cut', 'retrained', 'uniform')),
        ]
        assert f'| {" | ".join(cells)} |' in page


def test_finer_gates_are_the_measured_ones():
    """All of a seed begin with the same network, and have as many FLOPs."""
    runs = FINER.records()
    page = (ROOT / 'docs' / 'slimming.md').read_text()
    assert FINER.table(runs) in page
    settings = {(run.data, run.seed, run.variant): run for run in runs}
    assert len(settings) == len(runs) == 2 * 6 * 4
    for data in FINER.SETS:  # what dimensions keep before retraining
        dims, heads = (
            {
                seed: settings[data, seed, name]._replace(value=settings[data, seed, name].before)
                for seed in range(6)
            }
            for name in ('dims', 'heads')
        )
        _, low, high, _ = paired_difference(dims, heads)
        assert f'[{low:.1f}, {high:.1f}]' in page
    for (data, seed, _), run in settings.items():
        assert run.whole == settings[data, seed, 'heads'].whole
        assert 0.499 < run.share <= 0.5


def test_confirming_seeds_are_new():
    used, new, scaled = (
        {record.seed for record in read_records(ROOT / 'results' / f'{name}.jsonl')}
        for name in ('digits', 'digits_confirmed', 'digits_scaled')
    )
    assert used and new and scaled and not (used & new or (used | new) & scaled)


@pytest.mark.parametrize(
    'intervals, expected',
    [
        ([(0.1, 2), (1, 2)], 'better'),
        ([(-0.1, 2), (1, 2)], 'undecided'),
        ([(0.1, 2), (-2, -1)], 'worse than one'),
    ],
)
def test_verdicts(intervals, expected):
    assert page.verdict(intervals, 3) == expected
    assert page.verdict(intervals, 2) == 'too few seeds'


def test_wrong_folder(tmp_path):
    error = script(SCRIPT, tmp_path / 'nowhere' / 'results.md', cwd=tmp_path, fails=True)
    assert 'nowhere is no folder' in error
    error = script(SCRIPT, 'a.md', '--records', tmp_path, cwd=tmp_path, fails=True)
    assert f'--records {tmp_path} has none of digits, letters' in error
    (tmp_path / 'digits.jsonl').write_text('{"method": 1')
    error = script(SCRIPT, 'a.md', '--records', tmp_path, cwd=tmp_path, fails=True)
    assert f'error: line 1 of {tmp_path / "digits.jsonl"} is no record' in error
    assert not (tmp_path / 'a.md').exists()


README = ' '.join((ROOT / 'README.md').read_text().split())


@pytest.mark.parametrize('name', DATA)
def test_readme_has_the_numbers_of_the_records(name):
    settings = by_setting(read_records(ROOT / 'results' / f'{name}.jsonl'))
    for method in page.BASELINES:
        for budget in (0.25, 0.5, 0.75, 1.0):  # rex is the best, as it says
            ours, theirs = (settings[m, budget].values() for m in ('rex', method))
            assert fmean(run.value for run in ours) >= fmean(run.value for run in theirs)
    for method in (OURS, 'rex'):
        runs = (settings[method, budget].values() for budget in (0.25, 0.5, 0.75, 1.0))
        assert f'| {" | ".join(map(accuracy, runs))} |' in README


@pytest.mark.parametrize('method', ['recommended', 'etpp', 'rex'])
@pytest.mark.parametrize('name, seeds', [('photographs', 5), ('pictograms', 3)])
def test_readme_has_the_numbers_of_images_with_detail(name, seeds, method):
    settings = by_setting(read_records(ROOT / 'results' / f'{name}.jsonl'))
    runs = [settings[method, budget].values() for budget in (0.1, 0.25, 0.5)]
    assert re.search(rf'\| {name}, [^|]+ \| {" [|] ".join(map(accuracy, runs))} \|', README)
    assert {len(each) for each in runs} == {seeds}  # as it says


def test_readme_says_what_the_full_cost_buys():
    settings = by_setting(read_records(ROOT / 'results' / 'photographs.jsonl'))
    runs = [settings[method, 1.0].values() for method in ('recommended', 'etpp', 'rex')]
    assert_says_together([accuracy(each) for each in runs])
    assert {len(each) for each in runs} == {3}  # as it says


def test_demo_says_what_its_records_say():
    """Of the config that make demo runs, and the docs say the same."""
    runs = by_setting(read_records(ROOT / 'results' / 'demo.jsonl'))
    grown, whole = runs['bvit', 0.25], runs['rex', 0.25]
    assert grown.keys() == whole.keys() == {0, 1, 2}
    config = ROOT / 'configs' / 'demo' / 'deit-digits_recommended-b25.py'
    plan, *_ = planned(config, METHODS['bvit'], 0.25)
    assert all(run.epochs == list(plan.epochs) for run in grown.values())
    values = [accuracy(each.values()) for each in (grown, whole)]
    said = load_script(ROOT / '.dev_scripts' / 'demo_beside_whole.py').text()
    assert re.findall(r'\d+\.\d', said) == values
    start = (ROOT / 'docs' / 'start.md').read_text()
    assert all(f'| {value} % |' in start for value in values)


def accuracy(runs):
    """As a page prints it: the mean over seeds."""
    return f'{fmean(run.value for run in runs):.1f}'


def assert_says_together(numbers):
    """Within a sentence or two of README."""
    assert re.search('.{1,80}'.join(map(re.escape, numbers)), README), numbers


def test_readme_says_what_smaller_images_reach():
    """Of the digits and of the letters, at a quarter of the cost."""
    settings = (by_setting(read_records(ROOT / 'results' / f'{n}.jsonl')) for n in DATA)
    assert_says_together([accuracy(each['downsample', 0.25].values()) for each in settings])


def test_readme_says_what_the_best_setting_reaches():
    settings = by_setting(read_records(ROOT / 'results' / 'digits_confirmed.jsonl'))
    runs = (settings[method, 0.25].values() for method in (OURS, 'half-rex'))
    assert_says_together([accuracy(each) for each in runs])
