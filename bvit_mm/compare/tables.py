# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The tables of a comparison, in Markdown."""

import math
import statistics
from collections.abc import Callable, Sequence

from ..hours import duration
from .amounts import amount_text, size_of
from .records import Record, by_setting, paired_difference, spread

OURS = 'bvit'


def markdown_tables(records: Sequence[Record], ours: str = OURS) -> str:
    """Markdown: what each method reaches at each budget, what it cost, and how much ``ours`` gains.

    Args:
        records: All finished runs.
        ours: The method that the others are paired with.
    """
    settings = by_setting(records)
    methods = list(dict.fromkeys(record.method for record in records))
    budgets = sorted({record.budget for record in records}, key=size_of)
    metric = records[0].metric if records else 'metric'
    head = ['method', *map(amount_text, budgets)]

    def rows(cell: Callable[[dict[int, Record]], str]) -> list[list[str]]:
        return [
            [m, *(cell(settings[m, b]) if (m, b) in settings else '' for b in budgets)]
            for m in methods
        ]

    def reached(runs: dict[int, Record]) -> str:
        return mean_and_spread([run.value for run in runs.values()])

    def spent(runs: dict[int, Record]) -> str:
        took = statistics.fmean(run.took for run in runs.values())
        return f'{statistics.fmean(run.cost for run in runs.values()):.2%}, {duration(took)}'

    text = [
        f'{metric}, mean ± standard deviation (number of seeds), by budget:',
        markdown([head, *rows(reached)]),
        'Cost as a share of the full cost, and mean time of a run:',
        markdown([head, *rows(spent)]),
    ]
    others = [m for m in methods if m != ours]
    if ours in methods and others:
        differences = [
            [m, *(difference(settings.get((ours, b)), settings.get((m, b))) for b in budgets)]
            for m in others
        ]
        text += [
            f'{ours} minus the method, paired by seed: the mean, its 95 % interval by Student, and '
            'the number of pairs:',
            markdown([head, *differences]),
        ]
    return '\n\n'.join(text) + '\n'


def mean_and_spread(values: Sequence[float]) -> str:
    """A cell: the mean, the standard deviation, how many there are."""
    more = f' ± {spread(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.2f}{more} ({len(values)})'


def difference(ours: dict[int, Record] | None, theirs: dict[int, Record] | None) -> str:
    """A cell: how much better ours is; empty if the two have no seed in common."""
    if not ours or not theirs or not ours.keys() & theirs.keys():
        return ''
    mean, low, high, n = paired_difference(ours, theirs)
    interval = '' if math.isnan(low) else f' [{low:+.2f}, {high:+.2f}]'
    return f'{mean:+.2f}{interval} ({n})'


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])
