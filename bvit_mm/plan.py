# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A budget becomes a plan: how many epochs each training stage gets.

Pure Python on purpose: the same inputs give the same plan on every rank, at
every resume and on every machine.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from .data_share import SELECTION_COST, check_epochs, selection_epochs
from .figures import at_least
from .hours import parse_duration

Budget = float | str
# What plans say of the data that they train on, if it is all of it.
ALL_DATA = dict(data_share=1.0, selection_interval=None)


def _exponential(numbers: list[float], alpha: float) -> list[float]:
    """t_k = exp(alpha s_k), over the largest of them, so that no alpha overflows."""
    top = max(alpha * s for s in numbers)
    return [math.exp(alpha * s - top) for s in numbers]


# Relative durations t_k from sorted random numbers s_k in (0, 1) (Section 4.3, Table 5).
FAMILIES: dict[str, Callable[[list[float], float], list[float]]] = {
    'exponential': _exponential,
    'linear_up': lambda numbers, alpha: numbers,
    'linear_down': lambda numbers, alpha: [1 - s for s in numbers],
}


def _reach(exact: float, k: int) -> float:
    """How far a later stage may stand from its exact length: half of it, from 2 to 8 epochs.

    With less, the paper's models have budgets that can be spent only by a plan of fewer epochs
    than a smaller budget buys; with more, a plan of a few epochs would not look like its family.
    With five stages ``k`` or more it is less, so that there are never over 5,000 plans to sort.
    """
    most = max(0.5, (5000 ** (1 / max(1, k - 1)) - 1) / 2)
    return min(8.0, most, max(2.0, exact / 2))


@dataclass(frozen=True)
class Plan:
    """Epochs per training stage, with what they cost.

    Costs are GFLOPs x epochs: forward multiply-adds of one image, times epochs (design of
    Table 1 of the paper).

    Attributes:
        gflops: Forward GFLOPs of each training stage, classifier included.
        epochs: Epochs of each training stage.
        full_cost: What ``full_epochs`` of the whole network cost.
        budget: What the plan may cost; None when the epochs were stated.
        seconds: The budget of a plan in hours, whose epochs follow the speed of the machine.
        weights: Relative lengths of the training stages, of a plan in hours.
        data_share: The share of the data that an epoch reads (``SubsetSampler``).
        selection_interval: Epochs from one selection of data to the next, if that is charged.
    """

    gflops: tuple[float, ...]
    epochs: tuple[int, ...]
    full_cost: float
    budget: float | None = None
    seconds: float | None = None
    weights: tuple[float, ...] | None = None
    data_share: float = 1.0
    selection_interval: int | None = None

    @property
    def total_epochs(self) -> int:
        return sum(self.epochs)

    @property
    def costs(self) -> tuple[float, ...]:
        """Cost of training in each stage."""
        return tuple(c * n * self.data_share for c, n in zip(self.gflops, self.epochs))

    @property
    def selection_cost(self) -> float:
        """Cost of looking at all data to select some of it, as far as it is charged."""
        return self._selection_cost(self.total_epochs)

    @property
    def cost(self) -> float:
        return math.fsum((*self.costs, self.selection_cost))

    def stage_at(self, epoch: int) -> int:
        """The training stage (0-based) that trains in ``epoch`` (0-based)."""
        if not 0 <= epoch < self.total_epochs:
            raise ValueError(f'epoch={epoch} is outside the plan; give 0..{self.total_epochs - 1}')
        stage, end = 0, self.epochs[0]
        while epoch >= end:
            stage += 1
            end += self.epochs[stage]
        return stage

    def done(self, epoch: int) -> tuple[int, ...]:
        """The first ``epoch`` epochs by training stage."""
        done, left = [], epoch
        for epochs in self.epochs:
            done.append(min(left, epochs))
            left -= done[-1]
        return tuple(done)

    def spent(self, epoch: int) -> float:
        """Cost of the first ``epoch`` epochs, with the selections before them."""
        trained = sum(gflops * epochs for gflops, epochs in zip(self.gflops, self.done(epoch)))
        return trained * self.data_share + self._selection_cost(epoch)

    def _selection_cost(self, epochs: int) -> float:
        """Of the first ``epochs`` epochs; a stage begins only after the selection before it."""
        before = selection_epochs(epochs, self.selection_interval)
        return SELECTION_COST * math.fsum(self.gflops[self.stage_at(n - 1)] for n in before)

    def check_same(self, other: dict, where: str) -> None:
        """Raises ValueError if ``other``, a plan's ``as_dict``, trains other stages or epochs.

        Of plans in hours the budget must be the same, not the epochs.
        """
        epochs = [stage['epochs'] for stage in other['stages']]
        gflops = [stage['gflops'] for stage in other['stages']]
        seconds = other.get('seconds')
        if seconds != self.seconds:
            theirs, ours = (
                'a plan in epochs' if each is None else f'a budget of {each:.6g} s'
                for each in (seconds, self.seconds)
            )
            raise ValueError(
                f'{where} with {theirs}, and this one has {ours}; give another work_dir, or the '
                'options of that run'
            )
        if seconds is not None and other.get('weights') != list(self.weights):
            raise ValueError(
                f'{where} with stages of other relative lengths ({other.get("weights")}) than this '
                f'one ({list(self.weights)}); give another work_dir, or its alpha, seed and family'
            )
        for name, ours in self._subset().items():
            theirs = other.get(name, ALL_DATA[name])
            if theirs != ours:
                raise ValueError(
                    f'{where} with {name}={theirs}, and this one has {ours}; give another '
                    'work_dir, or the sampler and SubsetHook of that run'
                )
        if (seconds is None and epochs != list(self.epochs)) or gflops != list(self.gflops):
            theirs, ours = ([float(f'{g:.6g}') for g in each] for each in (gflops, self.gflops))
            raise ValueError(
                f'{where} with another plan: epochs={epochs} at {theirs} GFLOPs, and this one is '
                f'epochs={list(self.epochs)} at {ours} GFLOPs; give another work_dir, or the '
                'options of that run'
            )

    def as_dict(self) -> dict:
        """Plain numbers, as ``tools/plan.py --json`` prints and checkpoints keep them."""
        hours = {}
        if self.seconds is not None:
            hours = dict(seconds=self.seconds, weights=list(self.weights))
        return dict(
            stages=[
                dict(gflops=g, epochs=n, cost=c)
                for g, n, c in zip(self.gflops, self.epochs, self.costs)
            ],
            total_epochs=self.total_epochs,
            cost=self.cost,
            budget=self.budget,
            full_cost=self.full_cost,
            **hours,
            **(self._subset() if self._subset() != ALL_DATA else {}),
        )

    def _subset(self) -> dict[str, float | int | None]:
        """What of the data is trained on."""
        return dict(data_share=self.data_share, selection_interval=self.selection_interval)


def make_plan(
    gflops: Sequence[float],
    budget: Budget | None = None,
    full_epochs: int = 300,
    alpha: float = 2.0,
    seed: int = 0,
    epochs: Sequence[int] | None = None,
    max_epochs: int | None = None,
    family: str = 'exponential',
    data_share: float = 1.0,
    selection_interval: int | None = None,
) -> Plan:
    """Turns a budget into epochs per training stage, or prices stated epochs.

    Args:
        gflops: Forward GFLOPs of each training stage, rising, classifier included.
        budget: A share of the full cost in (0, 1]; or an absolute cost in GFLOPs x epochs,
            as a number above 1 or as text such as ``'691.2 GFLOPs'``; or a time such as
            ``'8h'`` or ``'90min'``, for which the plan is one of the full cost until
            ``BudgetedTrainLoop`` has measured how long epochs take.
        full_epochs: Epochs of the whole network that are the full cost.
        alpha: Bias of the exponential family: above 0 later stages are longer, below 0
            earlier ones, at 0 all are equal (Table 4).
        seed: Draws the random numbers of the family.
        epochs: States the schedule instead of a budget.
        max_epochs: A cap on the total epochs (Table 2).
        family: ``'exponential'``, ``'linear_up'`` or ``'linear_down'`` (Table 5).
        data_share: The share of the data that an epoch reads, and costs; the full cost is of all.
        selection_interval: Epochs from one selection of the data to the next, where that is
            charged; its epochs must be stated (``data_share.subset_share`` says which share fits).

    Raises:
        ValueError: If the inputs mean no plan; the text says what would.
    """
    gflops = tuple(float(g) for g in gflops)
    if not gflops or min(gflops) <= 0 or any(b <= a for a, b in pairwise(gflops)):
        raise ValueError(f'gflops={gflops} of the training stages must be positive and rising')
    check_epochs('full_epochs', full_epochs)
    if max_epochs is not None:
        # Stated epochs may leave out stages; a plan trains each of them.
        check_epochs('max_epochs', max_epochs, 1 if budget is None else len(gflops))
    full_cost = full_epochs * gflops[-1]

    if epochs is not None:
        if budget is not None:
            raise ValueError(
                f'budget={budget!r} and epochs={epochs!r} are both given; '
                'give one of them and set the other to None'
            )
        return Plan(
            gflops,
            _check_epochs(epochs, len(gflops), max_epochs),
            full_cost,
            data_share=data_share,
            selection_interval=selection_interval,
        )
    if budget is None:
        raise ValueError('give a budget, or epochs to state a schedule')
    if selection_interval is not None:
        stated = [*(0 for _ in gflops[1:]), min(full_epochs, max_epochs or full_epochs)]
        raise ValueError(
            f'budget={budget!r} does not say how much of the data to train on when selecting it '
            f'every {selection_interval} epochs is charged; state epochs, such as {stated}, '
            'and give the sampler the share of bvit_mm.subset_share(budget, full_epochs, interval)'
        )
    seconds = parse_duration(budget)
    if seconds is not None:
        if max_epochs is not None:
            raise ValueError(
                f'budget={budget!r} is spent to the end, whatever the epochs; '
                f'give max_epochs={max_epochs} with a budget in GFLOPs, or none'
            )
        whole = make_plan(
            gflops, 1.0, full_epochs, alpha, seed, family=family, data_share=data_share
        )
        weights = tuple(stage_weights(len(gflops), alpha, seed, family))
        return replace(whole, budget=None, seconds=seconds, weights=weights)

    cost = parse_budget(budget, full_cost, full_epochs)
    least = math.fsum(gflops) * data_share
    if cost < least:
        enough = _enough(least, full_cost, full_epochs)
        raise ValueError(
            f'budget={budget} of {full_epochs} epochs is {_cost(cost)} GFLOPs x epochs, less '
            f'than one epoch of each stage ({_cost(least)}); {enough}'
        )
    weights = stage_weights(len(gflops), alpha, seed, family)
    reachable = cost / data_share  # an epoch on all data costs as many on a part of it
    spends = _spend(gflops, weights, reachable, max_epochs)
    return Plan(gflops, spends, full_cost, cost, data_share=data_share)


def parse_budget(budget: Budget, full_cost: float, full_epochs: int) -> float:
    """Reads a budget as a cost in GFLOPs x epochs.

    Raises:
        ValueError: If it is no number, not positive, or above the full cost.
    """
    value, absolute = budget, False
    most = f"'{full_cost!r} GFLOPs'"  # in full, so that it is accepted
    if isinstance(value, str):
        text = value.strip().lower()
        absolute = text.endswith('gflops')
        try:
            value = float(text[: -len('gflops')] if absolute else text)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ValueError(
            f'budget={budget!r} is not a budget; give a share of the full cost up to 1, a cost in '
            f"GFLOPs x epochs up to {most}, or a time such as '8h' or '90min'"
        )
    if value <= 0:
        raise ValueError(
            f'budget={budget!r} must be above 0; give a share of the full cost up to 1, '
            f'or a cost in GFLOPs x epochs up to {most}'
        )
    cost = float(value) if absolute or value > 1 else value * full_cost
    if cost > full_cost * (1 + 1e-9):
        raise ValueError(
            f'budget={budget!r} GFLOPs x epochs is more than full_epochs={full_epochs} of the '
            f'whole network cost ({full_cost:.6g}); give a share up to 1, a cost up to {most}, or '
            'raise full_epochs'
        )
    return cost


def _spend(
    gflops: tuple[float, ...],
    weights: list[float],
    cost: float,
    max_epochs: int | None,
) -> tuple[int, ...]:
    """Whole epochs that spend ``cost``, near the exact ones.

    Every stage gets one epoch; the rest follows Eq. 8, T_k = B t_k / sum_j(C_j t_j). Rounding
    down would leave up to an epoch of every stage unspent, and filling that up greedily would
    let a larger budget buy fewer epochs. So exact plans lie on steps that do not depend on the
    budget. The highest step from whose exact cost on there is a whole plan near it that the
    budget pays gives the dearest such plan. So its cost does not fall as the budget grows
    (docs/planner.md). Where there is a gap between plans, epochs of the first stage fill it.
    """
    slack = 1e-12 * cost  # sums are rounded, the budget is exact
    for exact in _steps(gflops, weights, cost, max_epochs):
        begin = math.fsum(c * x for c, x in zip(gflops, exact)) - slack
        n = round(math.fsum(exact))
        plan = _dearest(gflops, n, exact, begin, cost + slack)
        if plan:
            break
    spent = math.fsum(c * m for c, m in zip(gflops, plan))
    rest = math.floor((cost + slack - spent) / gflops[0])
    if max_epochs is not None and rest > max_epochs - n:
        rest = max_epochs - n
        filled = (plan[0] + rest, *plan[1:])
        return _moved_on(gflops, filled, cost + slack - spent - rest * gflops[0])
    return (plan[0] + rest, *plan[1:])


def _moved_on(gflops: tuple[float, ...], plan: tuple[int, ...], left: float) -> tuple[int, ...]:
    """At the cap, epochs of the earliest stages become epochs of the last one, as ``left`` pays.

    A stage keeps one epoch. The next one is turned to when this one has no more to give.
    """
    *early, last = plan
    for i, epochs in enumerate(early):
        more = gflops[-1] - gflops[i]
        early[i] = max(1, epochs - math.floor(left / more))
        moved = epochs - early[i]
        last, left = last + moved, left - moved * more
        if early[i] > 1:
            break
    return (*early, last)


def _steps(
    gflops: tuple[float, ...], weights: list[float], cost: float, max_epochs: int | None
) -> Iterator[list[float]]:
    """Exact plans that ``cost`` pays, from the dearest to one epoch of each stage.

    A step is one epoch more by the weights. At the cap, it is a part of what is above one epoch
    of each stage that moves to the last stage, until that has all of it (Table 2).
    """
    k = len(gflops)
    mean = math.fsum(w * c for w, c in zip(weights, gflops))  # cost of one more epoch
    left = cost - math.fsum(gflops)
    most = math.floor(left / mean + 1e-9)
    room = most if max_epochs is None else min(most, max_epochs - k)
    if room < most and gflops[-1] > mean:
        moved = min(room, math.floor((left - room * mean) / (gflops[-1] - mean) + 1e-9))
        for step in range(moved, 0, -1):
            parts = [(room - step) * w for w in weights[:-1]]
            yield [*(1 + x for x in parts), 1 + room - math.fsum(parts)]
    for n in range(room, -1, -1):
        yield [1 + n * w for w in weights]


def _dearest(
    gflops: tuple[float, ...], n: int, exact: list[float], begin: float, end: float
) -> tuple[int, ...] | None:
    """Of the whole plans of ``n`` epochs near ``exact``, the dearest from ``begin`` to ``end``.

    Of equally dear ones the nearest; None if there is none.
    """
    lengths = []
    for x in exact[1:]:
        reach = _reach(x, len(exact))
        lengths.append(range(max(1, math.ceil(x - reach)), max(1, math.floor(x + reach)) + 1))
    found = []
    for tail in product(*lengths):
        plan = (n - sum(tail), *tail)
        cost = math.fsum(c * m for c, m in zip(gflops, plan))
        if plan[0] >= 1 and begin <= cost <= end:
            far = math.fsum((m - x) ** 2 / x for m, x in zip(plan, exact))
            found.append((-cost, far, plan))
    return min(found)[-1] if found else None


def stage_weights(k: int, alpha: float, seed: int, family: str) -> list[float]:
    """Relative durations of ``k`` stages, summing to 1 (Section 4.3)."""
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f'family={family!r} is not known; give one of {sorted(FAMILIES)}')
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f'alpha={alpha!r} must be a finite number; the paper uses 2.0')
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f'seed={seed!r} must be a whole number')
    draw = random.Random(seed)
    durations = FAMILIES[family](sorted(draw.random() for _ in range(k)), alpha)
    return [t / math.fsum(durations) for t in durations]


def _is_finite(value: float) -> bool:
    """Also of whole numbers that are too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_epochs(epochs: Sequence[int], k: int, max_epochs: int | None) -> tuple[int, ...]:
    if isinstance(epochs, str) or not isinstance(epochs, Sequence) or len(epochs) != k:
        raise ValueError(
            f'epochs={epochs!r} must be a list of {k} numbers, one for each training stage'
        )
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in epochs):
        raise ValueError(f'epochs={list(epochs)} must be whole numbers, at least 0')
    if epochs[-1] == 0:
        raise ValueError(
            f'epochs={list(epochs)} never trains the whole network; '
            'give the last training stage at least 1 epoch'
        )
    if max_epochs is not None and sum(epochs) > max_epochs:
        raise ValueError(
            f'epochs={list(epochs)} are {sum(epochs)} in total, above max_epochs={max_epochs}'
        )
    return tuple(epochs)


def _cost(cost: float) -> str:
    return f'{cost:.2f}' if cost >= 0.1 else f'{cost:.3g}'


def _enough(least: float, full_cost: float, full_epochs: int) -> str:
    """What to give so that an epoch of each stage, which cost ``least``, can be paid."""
    if least <= full_cost:
        share = math.nextafter(least / full_cost, math.inf)  # times full_cost it is enough
        return f'give at least {at_least(min(1.0, share))}'
    whole = full_cost / full_epochs
    epochs = math.ceil(least / whole * (1 + 1e-9))  # quotients are rounded
    return f'give full_epochs={epochs} or more, with budget=1.0'
