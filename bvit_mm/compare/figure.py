# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The figure of a comparison: accuracy against cost, and the Pareto front (Fig. 7)."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .methods import Method
from .records import Record, by_setting, pareto_front, spread
from .tables import OURS

MARKERS = 'osD^vP*X<'  # nine beside ten colors: 90 methods look different


def draw(records: Sequence[Record], file: Path, methods: Mapping[str, Method]) -> None:
    """Draws means against cost with their standard deviations, and the front of charged methods.

    Args:
        records: All finished runs, at least one.
        file: The picture.
        methods: Methods by name, which say whether a cost is charged; others count as charged.
    """
    settings = by_setting(records)
    figure = Figure(figsize=(6, 4), layout='constrained')
    axis = figure.subplots()
    points = []
    for i, method in enumerate(dict.fromkeys(record.method for record in records)):
        line = []
        for (name, _), runs in sorted(settings.items(), key=lambda item: item[0][1]):
            if name == method:
                values = [run.value for run in runs.values()]
                cost = statistics.fmean(run.cost for run in runs.values())
                error = spread(values) if len(values) > 1 else 0.0
                line.append((100 * cost, statistics.fmean(values), error))
        costs, means, errors = zip(*line)
        if method not in methods or methods[method].charged:
            points += zip(costs, means)
        axis.errorbar(
            costs, means, errors, label=method, color=f'C{i}', marker=MARKERS[i % len(MARKERS)],
            ms=5, lw=2 if method == OURS else 1, capsize=2,
        )  # fmt: skip
    if points:
        front = pareto_front(points)
        axis.plot(*zip(*front), color='0.8', lw=6, zorder=0, label='Pareto front')
    axis.set(xlabel='cost, % of the full cost (forward FLOPs x epochs)', ylabel=records[0].metric)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=150)
