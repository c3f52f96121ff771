# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Writes the tables and figures of results from the records of runs.

    python .dev_scripts/results_tables.py docs/results_tables.md

Records lie in ``results/<data>.jsonl``, as ``tools/compare.py`` writes them, and what was run with
settings found by them, on seeds not used before, in ``results/<data>_confirmed.jsonl``. Methods
that scale images, beside those that do not, have new seeds in ``results/<data>_scaled.jsonl``.
Images with detail are compared with the setting that results/CHOICE.md had chosen before, at equal
cost and, in ``results/<data>_times.jsonl``, at equal time.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from redundancy_section import redundancy_section

from bvit_mm.compare import (
    METHODS,
    Record,
    by_setting,
    markdown_tables,
    paired_difference,
    read_records,
)
from bvit_mm.compare.ablations import (
    FIG_6,
    RATE_FACTORS,
    RATES,
    SCHEDULES,
    TABLE_2,
    TABLE_4,
    TABLE_5,
    TABLE_11,
    TABLE_13,
    TENTHS,
    TOGETHER,
)
from bvit_mm.compare.figure import draw
from bvit_mm.compare.tables import OURS, difference, markdown, mean_and_spread

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
    'digits_first_try': (
        'Digits, a first try',
        'These runs came first, with 64 channels, 4 heads, half of the learning rate (2e-3), other '
        'stage lengths and two epochs of warm-up, of eight that the whole network has at 25 %. '
        'Then the warm-up was shortened, because it was unfair to the baselines; the network was '
        'made narrower, so that more seeds could be run; and the learning rate was chosen anew.',
    ),
}
# Images with detail, which the setting was not chosen on.
CHOSEN = 'recommended'  # the second choice
FRONTIER = {
    'photographs': (
        'Photographs',
        '1,973 gray images of 64 x 64 pixels to train and 1,433 to validate, of 22 photographs '
        'that they are to be assigned to (`tools/make_photographs.py`), cropped and flipped. '
        '`configs/compare/deit-photographs.py`: a DeiT with 4 blocks, 64 channels, 4 heads and 64 '
        'tokens; stages of 2, 3, 4 heads, 128, 192, 256 hidden units, grids of 4, 6, 8 or, scaled, '
        '5, 6, 8. The full cost is 40 epochs of the whole network.',
    ),
    'pictograms': (
        'Pictograms',
        '1,440 color images of 64 x 64 pixels to train and 1,770 to validate, in five styles of '
        'drawing that are to be told apart, on kinds of objects that were not trained on '
        '(`tools/make_pictograms.py`), flipped, turned and cropped. '
        '`configs/compare/deit-pictograms.py`: a DeiT with 5 blocks, 64 channels, 4 heads and 64 '
        'tokens; stages of 1, 3, 4 heads, 64, 192, 256 hidden units, grids of 6, 6, 8. The full '
        'cost is 40 epochs of the whole network.',
    ),
}
COMPARED = (CHOSEN, 'etpp', 'scale-half-rex-early-by-budget', 'downsample', OURS, 'rex')  # first
# The other questions of results/CHOICE.md: what is subtracted from what.
QUESTIONS = (
    ('EfficientTrain++: growing added', 'etpp-grow', 'etpp'),
    ('the paper: growing on crops, and its best baseline', OURS, 'rex'),
)
# Ways to what was chosen, with one of its parts less or more.
PARTS = ('etpp', 'etpp-grow', *TENTHS)
# What is compared, its methods, and what the paper found.
ABLATION_TABLES = (
    (
        'What grows (Table 13)',
        TABLE_13,
        'The paper keeps the epochs, so that growing less costs more there, and reaches more (79.5 '
        'with all three, 80.2 with heads alone). Here all cost the same. Nothing grows '
        'in `cosine`, above.',
    ),
    (
        'How new weights and their moments start (Table 11)',
        TABLE_11,
        'The default copies weights and drops the moments of the new ones. The paper: 79.4 so, '
        '75.8 with `random`, 76.5 with `copy-moments`, 78.5 with `half`.',
    ),
    (
        'Bias of the stage lengths (Table 4)',
        TABLE_4,
        'The default is 2. The paper, at 25 %: 74.5 with 2, 74.4 with 5, 74.2 with 0, 73.8 with '
        '-2, 73.6 with -5.',
    ),
    (
        'Families of stage lengths (Table 5)',
        TABLE_5,
        'The paper: what rises does well, what falls does badly, the longest second is between.',
    ),
    (
        'Number of training stages (Fig. 6)',
        FIG_6,
        'The default has three, the same as `stages=3`. The paper: three are best.',
    ),
    (
        'A cap on the epochs (Table 2)',
        TABLE_2,
        'As a share of the full epochs. The paper, with as many as the full ones, which cost up to '
        '6 % more than the budget: 72.2 at 25 %, 78.6 at 50 %; without the cap 74.5 and 78.9. '
        'Here plans have more than the full epochs from 75 % on.',
    ),
    (
        'Schedules of the growing network',
        SCHEDULES,
        'The default is a cosine over the epochs.',
    ),
    (
        'Together',
        TOGETHER,
        'What was best by itself: the `half` copies, and REX.',
    ),
)
INTRODUCTION = """# Results: tables and figures

Written by `python .dev_scripts/results_tables.py docs/results_tables.md` from the records in
`results/`, which `tools/compare.py` wrote ([comparing.md](comparing.md)); a test compares. What
they say, how they were measured, and what they leave open: [results.md](results.md).
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
        draw(main, figures / f'results_{name}.png', METHODS)
        parts += [f'## {title}', description, machine(records)]
        parts += pilot_parts(read_records(folder / f'{name}_pilot.jsonl'))
        parts += [markdown_tables(main).strip(), f'![Accuracy against cost](results_{name}.png)']
        parts += [claim(main)]
        parts += rate_parts(records) + ablation_parts(records)
        confirmed = read_records(folder / f'{name}_confirmed.jsonl')
        parts += confirmed_parts(records, confirmed) if confirmed else []
        parts += scaled_parts(read_records(folder / f'{name}_scaled.jsonl'))
    for name in FRONTIER:
        parts += frontier_parts(name, folder, figures)
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
    """What a learning rate was chosen by."""
    if not records:
        return []
    reached = ', '.join(f'{r.method} {r.value:.1f} %' for r in records)
    r = records[0]
    return [
        f'The learning rate was chosen for `cosine` at {100 * r.budget:g} %, by one run each with '
        f'seed {r.seed}, which nothing else uses: {reached}.'
    ]


def claim(records: Sequence[Record]) -> str:
    """The answer at each budget, against the paper's baselines, by the seeds that all have."""
    settings = by_setting(records)
    rows = [['budget', 'best baseline', f'{OURS} minus it', f'{OURS} is', 'paper, DeiT-S']]
    for budget in sorted({r.budget for r in records}):
        runs = {m: settings.get((m, budget), {}) for m in (OURS, *BASELINES)}
        seeds = set.intersection(*(set(each) for each in runs.values()))
        if not seeds:
            continue
        ours, *theirs = ({seed: each[seed] for seed in seeds} for each in runs.values())
        means = [statistics.fmean(run.value for run in each.values()) for each in theirs]
        best = means.index(max(means))
        ends = [paired_difference(ours, each)[1:3] for each in theirs]
        paper = f'{PAPER[budget]:+.1f}' if budget in PAPER else ''
        cells = [BASELINES[best], difference(ours, theirs[best]), verdict(ends, len(seeds)), paper]
        rows.append([f'{100 * budget:g} %', *cells])
    return (
        '**The claim**, against linear, rex and cosine, by the seeds that all four have. `bvit` is '
        'called better if its intervals against all three lie above 0:\n\n' + markdown(rows)
    )


def verdict(intervals: Sequence[tuple[float, float]], seeds: int) -> str:
    """What the intervals of differences from several baselines say."""
    if seeds < 3:
        return 'too few seeds'
    if all(low > 0 for low, _ in intervals):
        return 'better'
    return 'worse than one' if any(high < 0 for _, high in intervals) else 'undecided'


def rate_parts(records: Sequence[Record]) -> list[str]:
    """Growing and its strongest baseline at several learning rates."""
    settings, rows = by_setting(records), []
    for budget in sorted({r.budget for r in records if r.method in RATES}):
        for factor in sorted({1.0, *RATE_FACTORS}):
            pair = [
                settings.get((f'{m}-lrx{factor:g}' if factor != 1 else m, budget), {})
                for m in (OURS, 'rex')
            ]
            if all(pair):
                values = ([run.value for run in runs.values()] for runs in pair)
                cells = [f'{100 * budget:g} %', f'x {factor:g}', *map(mean_and_spread, values)]
                rows.append([*cells, difference(*pair)])
    if not rows:
        return []
    head = ['budget', 'learning rate', OURS, 'rex', f'{OURS} minus rex']
    return ['### At other learning rates', markdown([head, *rows])]


def ablation_parts(records: Sequence[Record]) -> list[str]:
    """A table for each group of ablations that was run."""
    settings, parts = by_setting(records), []
    for title, methods, paper in ABLATION_TABLES:
        rows = []
        for budget in sorted({b for method, b in settings if method in methods}):
            for method in (OURS, *methods):
                runs = settings.get((method, budget), {})
                if runs:
                    cost = statistics.fmean(run.cost for run in runs.values())
                    epochs = str(next(iter(runs.values())).epochs)
                    reached = mean_and_spread([run.value for run in runs.values()])
                    ours = settings.get((OURS, budget), {}) if method != OURS else None
                    cells = [method, f'{100 * budget:g} %', epochs, f'{cost:.2%}', reached]
                    rows.append([*cells, difference(runs, ours)])
        if rows:
            head = ['method', 'budget', 'epochs', 'cost', 'accuracy', f'minus {OURS}']
            parts += [f'### {title}', paper, markdown([head, *rows])]
    return parts


def confirmed_parts(records: Sequence[Record], confirmed: Sequence[Record]) -> list[str]:
    """The best setting, that of the first new record, on new seeds; and what all seeds say."""
    best, seeds = confirmed[0].method, sorted({record.seed for record in confirmed})
    settings = by_setting([*records, *confirmed])
    budgets = sorted({record.budget for record in confirmed})
    cells = [difference(settings.get((OURS, b)), settings.get(('rex', b))) for b in budgets]
    return [
        '### The best setting, on seeds that were not used to find it',
        f'`{best}`, found with the seeds above; these are {seeds[0]} to {seeds[-1]}.',
        markdown_tables(confirmed, ours=best).strip(),
        f'With all seeds, those above and these, {OURS} minus rex:',
        markdown([[f'{100 * b:g} %' for b in budgets], cells]),
    ]


def scaled_parts(records: Sequence[Record]) -> list[str]:
    """Growing, scaling, and both, on new seeds."""
    if not records:
        return []
    seeds = sorted({record.seed for record in records})
    return [
        '### Growing on scaled images',
        f'Seeds {seeds[0]} to {seeds[-1]}, which nothing else uses. `scale-half-rex` grows heads, '
        'hidden units and images, `scale-whole-rex` images alone, `half-rex` crops; `downsample` '
        'ends with small images.',
        markdown_tables(records, ours='scale-half-rex').strip(),
    ]


def frontier_parts(name: str, folder: Path, figures: Path) -> list[str]:
    """What the chosen setting reaches beside the others, and the other questions."""
    records = read_records(folder / f'{name}.jsonl')
    if not records:
        return []
    title, description = FRONTIER[name]
    order = list(dict.fromkeys((*COMPARED, *(record.method for record in records))))
    records.sort(key=lambda record: order.index(record.method))
    main = [record for record in records if record.method not in TENTHS]
    drawn = [record for record in main if record.method in COMPARED]
    draw(drawn, figures / f'results_{name}.png', METHODS, CHOSEN)
    settings, budgets = by_setting(main), sorted({record.budget for record in main})
    rows = [['', *(f'{100 * b:g} %' for b in budgets)]]
    for what, ours, theirs in QUESTIONS:
        cells = [difference(settings.get((ours, b)), settings.get((theirs, b))) for b in budgets]
        rows.append([f'{what}: `{ours}` minus `{theirs}`', *cells])
    return [
        f'## {title}',
        description,
        machine(records),
        markdown_tables(main, ours=CHOSEN).strip(),
        'More differences, paired by seed:',
        markdown([row for row in rows if any(row[1:])]),
        f'![Accuracy against cost](results_{name}.png)',
        *parts_of_chosen(records),
        *times_parts(read_records(folder / f'{name}_times.jsonl')),
    ]


def parts_of_chosen(records: Sequence[Record]) -> list[str]:
    """What the chosen setting reaches with one of its parts less or more."""
    budgets = sorted({record.budget for record in records if record.method in TENTHS})
    if not budgets:
        return []
    kept = [r for r in records if r.method in (CHOSEN, *PARTS) and r.budget in budgets]
    kept.sort(key=lambda record: (CHOSEN, *PARTS).index(record.method))
    seeds = {record.seed for record in kept if record.method in TENTHS}
    return [
        '### Its parts',
        '`recommended` is `etpp` whose heads and hidden units grow, with `half` weights and REX by '
        'the budget. `etpp-grow` has neither, `etpp-grow-half` has no REX, `etpp-rex` grows '
        'nothing. `-heads` and `-hidden` grow only those, `-muon` steps with Muon.',
        markdown_tables([r for r in kept if r.seed in seeds], ours=CHOSEN).strip(),
    ]


def times_parts(records: Sequence[Record]) -> list[str]:
    """What methods reach in equal times."""
    if not records:
        return []
    return [
        '### At equal time',
        'Wall time of one core, loading, validation and saving included; tests ran on the other '
        'core.',
        markdown_tables(records, ours=CHOSEN).strip(),
    ]


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('page', type=Path, help='file to write, such as docs/results_tables.md')
    parser.add_argument('--records', type=Path, default=ROOT / 'results')
    args = parser.parse_args()
    if not args.page.parent.is_dir():
        parser.error(f'{args.page.parent} is no folder')
    if not any((args.records / f'{name}.jsonl').is_file() for name in DATA):
        parser.error(f'--records {args.records} has none of {", ".join(DATA)}.jsonl')
    try:
        text = page(args.records, args.page.parent)
    except ValueError as error:  # a damaged record
        parser.error(str(error))
    args.page.write_text(text)


if __name__ == '__main__':
    main()
