# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The figure of a comparison: accuracy against cost or time, and the Pareto front (Fig. 7)."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .amounts import is_time, size_of
from .methods import Method
from .records import Record, by_setting, pareto_front, spread
from .tables import OURS

# A budget is met to 1 %: costs that differ by less are equal.
EQUAL = 1.01
MARKERS = 'osD^vP*X<'  # nine beside ten colors: 90 methods look different


def lines(records: Sequence[Record]) -> dict[str, list[tuple[float, float, float]]]:
    """By method, a point for each budget: what was spent, mean value, standard deviation.

    Spent is the mean cost in percent; if budgets are times, the mean time in minutes.
    """
    settings = by_setting(records)
    points: dict[str, list[tuple[float, float, float]]] = {r.method: [] for r in records}
    for (method, budget), runs in sorted(settings.items(), key=lambda item: size_of(item[0][1])):
        spent = [run.took / 60 if is_time(budget) else 100 * run.cost for run in runs.values()]
        values = [run.value for run in runs.values()]
        deviation = spread(values) if len(values) > 1 else 0.0
        points[method].append((statistics.fmean(spent), statistics.fmean(values), deviation))
    return points


def front(
    points: Mapping[str, Sequence[tuple[float, float, float]]], methods: Mapping[str, Method]
) -> list[tuple[float, float]]:
    """The Pareto front of the methods whose costs are charged; costs are compared to 1 %.

    Args:
        points: As of ``lines``.
        methods: Methods by name; one that is not there counts as charged.
    """
    charged = (name for name in points if name not in methods or methods[name].charged)
    best = pareto_front((cost, mean) for name in charged for cost, mean, _ in points[name])
    return [(x, y) for x, y in best if all(other <= y for at, other in best if at <= EQUAL * x)]


def draw(
    records: Sequence[Record], file: Path, methods: Mapping[str, Method], ours: str = OURS
) -> None:
    """Draws means against what was spent with their standard deviations, and the Pareto front.

    Args:
        records: All finished runs, at least one.
        file: The picture.
        methods: Methods by name, as of ``front``.
        ours: The method whose line is thick.
    """
    points = lines(records)
    figure = Figure(figsize=(6, 4), layout='constrained')
    axis = figure.subplots()
    for i, (method, line) in enumerate(points.items()):
        costs, means, deviations = zip(*line)
        axis.errorbar(
            costs, means, deviations, label=method, color=f'C{i}', marker=MARKERS[i % len(MARKERS)],
            ms=5, lw=2 if method == ours else 1, capsize=2,
        )  # fmt: skip
    if best := front(points, methods):
        axis.plot(*zip(*best), color='0.8', lw=6, zorder=0, label='Pareto front')
    spent = 'cost, % of the full cost (forward FLOPs x epochs)'
    if is_time(records[0].budget):
        spent = 'time, minutes (with loading, validation and saving)'
    axis.set(xlabel=spent, ylabel=records[0].metric)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=150)
