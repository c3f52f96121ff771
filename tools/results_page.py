# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Writes the page of results and its figures from the records of runs.

    python tools/results_page.py docs/results.md

Records lie in ``results/<data>.jsonl``, as ``tools/compare.py`` writes them, and what was run with
settings found by them, on seeds not used before, in ``results/<data>_confirmed.jsonl``.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from _comparison import OURS, difference, draw, markdown, tables
from _redundancy_section import redundancy_section
from _runs import Record, by_setting, paired_difference, read_records, spread
from ablations import FIG_6, SCHEDULES, TABLE_2, TABLE_4, TABLE_5, TABLE_11, TABLE_13
from methods import METHODS

ROOT = Path(__file__).parent.parent
BASELINES = ('linear', 'rex', 'cosine')  # Table 1: the whole network for fewer epochs
DATA = {
    'digits': (
        'Handwritten digits',
        '4,000 images of 28 x 28 pixels to train and 1,000 to validate, ten classes '
        '(`tools/make_digits.py`), shifted and turned. `configs/compare/deit-digits.py`: a DeiT '
        'with 4 blocks, 48 channels, 3 heads and 49 tokens; stages of 1, 2, 3 heads, 48, 96, 192 '
        'hidden units, 25, 49, 49 tokens. The full cost is 32 epochs of the whole network.',
    ),
    'letters': (
        'Letters of unseen typefaces',
        '5,486 images of 28 x 28 pixels to train, and 4,002 to validate, of other typefaces; 26 '
        'classes (`tools/make_letters.py`), shifted and turned. '
        '`configs/compare/deit-letters.py`: the same network. The full cost is 32 epochs of it.',
    ),
}
ABLATIONS = {
    'What grows (Table 13)': TABLE_13,
    'How new weights and their moments start (Table 11)': TABLE_11,
    'Bias of the stage lengths (Table 4; the default is 2)': TABLE_4,
    'Families of stage lengths (Table 5)': TABLE_5,
    'Number of training stages (Fig. 6; the default states three)': FIG_6,
    'A cap on the epochs (Table 2)': TABLE_2,
    'Learning rates of the growing network: linear, REX, and over the spent budget': SCHEDULES,
}
INTRODUCTION = """# Does growing buy accuracy?

Written by `python tools/results_page.py docs/results.md` from the records in `results/`, which
`tools/compare.py` wrote ([comparing.md](comparing.md)); a test compares. The claim is that of
Table 1: at equal cost, growing a network beats training the whole one for fewer epochs. It was
tested on small data with a small network; **nothing here was run on ImageNet**.

`bvit` grows. `linear`, `rex` and `cosine` train the whole network for fewer epochs, with the
learning rate named so; `downsample`, `random-subset` and `gradmatch` train it on smaller images
or less data. All have the same optimizer, learning rate and augmentation, and a seed gives
networks of one size the same initial weights. Runs had one thread each, two at a time on two
x86-64 cores. Cost is forward GFLOPs x epochs; runs of one budget cost the same to 1 % unless the
table of costs says otherwise. Accuracy is that after the last epoch. Intervals are of differences
paired by seed, 95 %, by Student's t; a difference is called decided if its interval leaves out 0.
"""


# Table 1, DeiT-S: ours minus the best of linear, rex and cosine (or, of all cost, the original).
PAPER = {0.25: 74.5 - 73.2, 0.5: 78.9 - 78.1, 0.75: 80.1 - 79.6, 1.0: 80.9 - 79.8}


def page(folder: Path, figures: Path) -> str:
    """The page, whose figures are written beside it."""
    parts = [INTRODUCTION]
    for name, (title, description) in DATA.items():
        records = read_records(folder / f'{name}.jsonl')
        if not records:
            continue
        main = sorted(
            (r for r in records if r.method in METHODS), key=lambda r: list(METHODS).index(r.method)
        )
        draw(main, figures / f'results_{name}.png')
        parts += [f'## {title}', description, machine(records)]
        parts += pilot_parts(read_records(folder / f'{name}_pilot.jsonl'))
        parts += [tables(main).strip(), f'![Accuracy against cost](results_{name}.png)']
        parts += [claim(main)]
        parts += ablation_parts(records)
        confirmed = read_records(folder / f'{name}_confirmed.jsonl')
        if confirmed:
            parts += ['### The best setting, on seeds that were not used to find it']
            parts += [tables(confirmed).strip()]
    measured = folder / 'digits_redundancy.json'
    if measured.is_file():
        parts += redundancy_section(json.loads(measured.read_text()), figures)
    return '\n\n'.join(part.strip() for part in parts) + '\n'


def machine(records: Sequence[Record]) -> str:
    """What it was run on, for how long."""
    devices = ', '.join(sorted({record.device for record in records}))
    hours = sum(sum(record.seconds.values()) for record in records) / 3600
    return f'{len(records)} runs, {hours:.1f} hours in all, on: {devices}.'


def pilot_parts(records: Sequence[Record]) -> list[str]:
    """How the learning rate was chosen."""
    if not records:
        return []
    (seed,), (budget,) = {r.seed for r in records}, {r.budget for r in records}
    reached = ', '.join(f'{r.method} {r.value:.1f} %' for r in records)
    return [
        f'The learning rate is the best for `cosine` at {100 * budget:g} % with seed {seed}, which '
        f'is used for nothing else: {reached}.'
    ]


def claim(records: Sequence[Record]) -> str:
    """The answer at each budget, against each of the paper's baselines and the best of them."""
    settings = by_setting(records)
    rows = [['budget', 'best baseline', f'{OURS} minus it', 'decided', 'paper, DeiT-S']]
    for budget in sorted({r.budget for r in records}):
        ours = settings.get((OURS, budget))
        theirs = {m: settings[m, budget] for m in BASELINES if (m, budget) in settings}
        theirs = {m: runs for m, runs in theirs.items() if ours and ours.keys() & runs.keys()}
        if not theirs:
            continue
        best = max(theirs, key=lambda m: statistics.fmean(r.value for r in theirs[m].values()))
        _, low, high, _ = paired_difference(ours, theirs[best])
        paper = f'{PAPER[budget]:+.1f}' if budget in PAPER else ''
        cells = [best, difference(ours, theirs[best]), verdict(low, high), paper]
        rows.append([f'{100 * budget:g} %', *cells])
    return '**The claim**, against the best of linear, rex and cosine:\n\n' + markdown(rows)


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says."""
    if math.isnan(low):
        return 'one seed'
    return 'better' if low > 0 else 'worse' if high < 0 else 'no'


def ablation_parts(records: Sequence[Record]) -> list[str]:
    """A table for each group of ablations that was run."""
    settings, parts = by_setting(records), []
    for title, methods in ABLATIONS.items():
        rows = []
        for method, budget in settings:
            if method in methods:
                runs, ours = settings[method, budget], settings.get((OURS, budget), {})
                values = [r.value for r in runs.values()]
                cost = statistics.fmean(r.cost for r in runs.values())
                cells = [method, f'{100 * budget:g} %', str(next(iter(runs.values())).epochs)]
                cells += [f'{cost:.2%}', f'{statistics.fmean(values):.2f} ± {spread(values):.2f}']
                rows.append([*cells, difference(runs, ours)])
        if rows:
            head = ['method', 'budget', 'epochs', 'cost', 'accuracy', f'minus {OURS}']
            parts += [f'### {title}', markdown([head, *rows])]
    return parts


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('page', type=Path, help='file to write, such as docs/results.md')
    parser.add_argument('--records', type=Path, default=ROOT / 'results')
    args = parser.parse_args()
    if not args.page.parent.is_dir():
        parser.error(f'{args.page.parent} is no folder')
    if not any((args.records / f'{name}.jsonl').is_file() for name in DATA):
        parser.error(f'--records {args.records} has none of {", ".join(DATA)}.jsonl')
    args.page.write_text(page(args.records, args.page.parent))


if __name__ == '__main__':
    main()
