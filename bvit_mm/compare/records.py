# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Records of finished runs, and what they say: means, paired differences, a Pareto front."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .amounts import Amount, is_time, size_of

CONFIDENCE = 0.95


class Record(NamedTuple):
    """A finished run.

    Attributes:
        method: Its name.
        budget: The share of the full cost that it was given, or the time, such as ``'20min'``.
        seed: Of weights, data order and augmentation.
        cost: What it spent, as a share of the full cost.
        seconds: What it took, by what was done.
        epochs: Of each training stage; parts of them, where a time ends within one.
        metric: The name of what validation measured.
        value: Its value after the last epoch.
        history: Its value after each epoch that was validated, ``[epoch, value]``.
        device: The name of the GPU, or ``'cpu'``.
    """

    method: str
    budget: Amount
    seed: int
    cost: float
    seconds: dict[str, float]
    epochs: list[float]
    metric: str
    value: float
    history: list[list[float]]
    device: str

    @property
    def took(self) -> float:
        """Seconds of everything."""
        return sum(self.seconds.values())

    @property
    def size(self) -> float:
        """What it spent of what it was to spend: a share of the full cost; seconds of a time."""
        return size_of(self.budget) if is_time(self.budget) else self.cost


def read_records(file: Path) -> list[Record]:
    """The runs of a file with a line of JSON each; none if it is not there.

    Raises:
        ValueError: If a line is no record.
    """
    if not file.is_file():
        return []
    records = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f'line {number} of {file} is no record of a run ({error}); remove it'
            ) from None
    return records


def read_metric(work_dir: Path) -> tuple[str, dict[int, float]]:
    """The validation metric of a run and its value after each epoch, from mmengine's log.

    Raises:
        ValueError: If there is none.
    """
    name, values = '', {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            scalars = json.loads(line)
            metrics = [key for key in scalars if '/' in key]
            if metrics and 'step' in scalars and 'lr' not in scalars:  # else of training
                name = metrics[0]
                values[scalars['step']] = scalars[name]
    if not values:
        raise ValueError(f'{work_dir} holds no log of a run with validation')
    return name, values


def by_setting(records: Iterable[Record]) -> dict[tuple[str, Amount], dict[int, Record]]:
    """Runs by method and budget, then by seed; a later line replaces an earlier one."""
    found: dict[tuple[str, Amount], dict[int, Record]] = defaultdict(dict)
    for record in records:
        found[record.method, record.budget][record.seed] = record
    return dict(found)


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; nan of one value."""
    return statistics.stdev(values) if len(values) > 1 else float('nan')


def paired_difference(
    ours: dict[int, Record], theirs: dict[int, Record]
) -> tuple[float, float, float, int]:
    """How much better ``ours`` is, paired by seed.

    Returns:
        The mean difference of the metric, the ends of its 95 % interval by Student's t, and the
        number of seeds that both have. The ends are nan of fewer than two.

    Raises:
        ValueError: If they have no seed in common.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError('no seed was run by both')
    differences = [ours[seed].value - theirs[seed].value for seed in seeds]
    mean, n = statistics.fmean(differences), len(seeds)
    if n < 2:
        return mean, float('nan'), float('nan'), n
    from scipy import stats  # only comparisons need it

    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * spread(differences) / math.sqrt(n)
    return mean, float(mean - half), float(mean + half), n


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, accuracy), those that no other has more accuracy than at up to its cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
