# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A budget becomes a plan: how many epochs each training stage gets.

Pure Python on purpose: the same inputs give the same plan on every rank, at
every resume and on every machine.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from .hours import parse_duration
from .options import at_least, check_epochs
from .shares import read_shares, shared_epochs


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

ALPHA, FAMILY = 2.0, 'exponential'  # the paper's


def _reach(exact: float, k: int) -> float:
    """How far a later stage may stand from its exact length: half of it, from 2 to 8 epochs.

    With less, the paper's models have budgets that can be spent only by a plan of fewer epochs
    than a smaller budget buys; with more, a plan of a few epochs would not look like its family.
    With five stages ``k`` or more it is less, so that there are never over 5,000 plans to sort.
    """
    most = max(0.5, (5000 ** (1 / max(1, k - 1)) - 1) / 2)
    return min(8.0, most, max(2.0, exact / 2))


@dataclass(frozen=True)
class Charge:
    """A cost besides training that comes back: that of looking at data, for instance.

    Attributes:
        name: Of what it is for.
        interval: Epochs from one to the next; the first epochs have none before them.
        share: Of the cost of an epoch on all data, at the training stage of that moment.
        purpose: What is done, as in "when ``purpose`` every 20 epochs is charged".
        advice: What else to give where epochs must be stated.
    """

    name: str
    interval: int
    share: float
    purpose: str = ''
    advice: str = ''

    def before(self, epochs: int) -> range:
        """The epochs (0-based) that it comes before, in a run of ``epochs``."""
        return range(self.interval, epochs, self.interval)

    def as_dict(self) -> dict[str, str | int | float]:
        """What runs are compared by."""
        return dict(name=self.name, interval=self.interval, share=self.share)


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
        epoch_share: What an epoch costs, as a share of one that reads all data.
        charges: Costs besides training.
    """

    gflops: tuple[float, ...]
    epochs: tuple[int, ...]
    full_cost: float
    budget: float | None = None
    epoch_share: float = 1.0
    charges: tuple[Charge, ...] = ()

    @property
    def total_epochs(self) -> int:
        return sum(self.epochs)

    @property
    def costs(self) -> tuple[float, ...]:
        """Cost of training in each stage."""
        return tuple(c * n * self.epoch_share for c, n in zip(self.gflops, self.epochs))

    @property
    def charged(self) -> dict[str, float]:
        """What the charges cost, by name."""
        return self._charged(self.total_epochs)

    @property
    def cost(self) -> float:
        return math.fsum((*self.costs, *self.charged.values()))

    def stage_at(self, epoch: int) -> int:
        """The training stage (0-based) that trains in ``epoch`` (0-based)."""
        if not 0 <= epoch < self.total_epochs:
            raise ValueError(f'epoch={epoch} is outside the plan; give 0..{self.total_epochs - 1}')
        stage, end = 0, self.epochs[0]
        while epoch >= end:
            stage += 1
            end += self.epochs[stage]
        return stage

    def ends_stage(self, epoch: int) -> bool:
        """Whether a training stage has its last epoch in ``epoch`` (0-based)."""
        return epoch + 1 == self.total_epochs or self.stage_at(epoch + 1) != self.stage_at(epoch)

    def done(self, epoch: int) -> tuple[int, ...]:
        """The first ``epoch`` epochs by training stage."""
        done, left = [], epoch
        for epochs in self.epochs:
            done.append(min(left, epochs))
            left -= done[-1]
        return tuple(done)

    def spent(self, epoch: int) -> float:
        """Cost of the first ``epoch`` epochs, with the charges before them."""
        trained = sum(gflops * epochs for gflops, epochs in zip(self.gflops, self.done(epoch)))
        return trained * self.epoch_share + sum(self._charged(epoch).values())

    def _charged(self, epochs: int) -> dict[str, float]:
        """Of the first ``epochs`` epochs; a stage begins only after the charge before it."""
        return {
            charge.name: charge.share
            * math.fsum(self.gflops[self.stage_at(n - 1)] for n in charge.before(epochs))
            for charge in self.charges
        }

    def as_dict(self) -> dict:
        """Plain numbers, as ``tools/plan.py --json`` prints and checkpoints keep them."""
        values = dict(
            stages=[
                dict(gflops=g, epochs=n, cost=c)
                for g, n, c in zip(self.gflops, self.epochs, self.costs)
            ],
            total_epochs=self.total_epochs,
            cost=self.cost,
            budget=self.budget,
            full_cost=self.full_cost,
        )
        if self.epoch_share != 1 or self.charges:
            values.update(
                epoch_share=self.epoch_share, charges=[each.as_dict() for each in self.charges]
            )
        return values


def make_plan(
    gflops: Sequence[float],
    budget: float | str | None = None,
    full_epochs: int = 300,
    alpha: float | None = None,
    seed: int | None = None,
    epochs: Sequence[int] | None = None,
    max_epochs: int | None = None,
    family: str | None = None,
    epoch_share: float = 1.0,
    charges: Sequence[Charge] = (),
    shares: Sequence[float] | None = None,
    slim: Sequence[float] | None = None,
) -> Plan:
    """Turns a budget into epochs per training stage, or prices stated epochs.

    Args:
        gflops: Forward GFLOPs of each training stage, classifier included; none that grows falls.
        budget: A share of the full cost up to 1; a cost above 1, or text: ``'691.2 GFLOPs'``.
        full_epochs: Epochs of the whole network that are the full cost.
        alpha, seed, family: Of the lengths of the stages (``proportions_of``).
        epochs: States the schedule instead of a budget.
        max_epochs: A cap on the total epochs (Table 2); with shares, what they must stay within.
        epoch_share: What an epoch costs, as a share of one on all data, as the full cost is.
        charges: Costs besides training; epochs must be stated then.
        shares: Of the budget, of each stage, instead of ``alpha``, ``seed`` and ``family``.
        slim: Shares of the budget of the last two stages, which search and retrain.

    Raises:
        ValueError: If the inputs mean no plan; the text says what would.
    """
    gflops, grown = _costs(gflops, slim)
    check_epochs('full_epochs', full_epochs)
    if max_epochs is not None:  # stated epochs may leave out stages
        check_epochs('max_epochs', max_epochs, 1 if budget is None else len(gflops))
    full_cost = full_epochs * grown[-1]
    lengths: dict[str, Any] = dict(alpha=alpha, seed=seed, family=family)
    parts = budget_parts(grown, shares, slim, epochs, **lengths)
    if epochs is not None:
        if budget is not None:
            raise ValueError(
                f'budget={budget!r} and epochs={epochs!r} are both given; '
                'give one of them and set the other to None'
            )
        stated = _stated_epochs(epochs, len(gflops), max_epochs)
        return Plan(gflops, stated, full_cost, None, epoch_share, tuple(charges))
    if budget is None:
        raise ValueError('give a budget, or epochs to state a schedule')
    if charges:
        most = min(full_epochs, max_epochs or full_epochs)
        raise ValueError(_needs_epochs(budget, charges[0], [*(0 for _ in gflops[1:]), most]))
    cost = parse_budget(budget, full_cost, full_epochs)
    _check_enough(budget, cost, math.fsum(gflops) * epoch_share, full_cost, full_epochs)
    whole = cost / epoch_share  # an epoch on all data costs as many on a part of it
    if parts is None:
        spends = _spend(gflops, proportions_of(len(gflops), **lengths), whole, max_epochs)
    else:
        spends = shared_epochs(gflops, parts, whole)
        _check_cap(spends, max_epochs, shares)
    return Plan(gflops, spends, full_cost, cost, epoch_share)


def _costs(
    gflops: Sequence[float], slim: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The costs of all stages, and of those that grow.

    Raises:
        ValueError: If one that grows falls, or any is no cost.
    """
    costs = tuple(float(g) for g in gflops)
    grown = costs[: -len(slim)] if slim else costs
    if not grown or min(costs) <= 0 or any(b < a for a, b in pairwise(grown)):
        raise ValueError(f'gflops={costs} of the training stages must be positive and rising')
    return costs, grown


def budget_parts(
    gflops: Sequence[float],
    shares: Sequence[float] | None,
    slim: Sequence[float] | None,
    epochs: Sequence[int] | None = None,
    **lengths: Any,
) -> tuple[float, ...] | None:
    """The share of the budget that each training stage gets; None if their lengths say so instead.

    Args:
        gflops: Of the stages that grow.
        shares: Of what these get, as a config states them.
        slim: Shares of the budget of the stages that follow.
        epochs: Those that are stated instead.
        **lengths: Of ``proportions_of``; None where it is not given.

    Raises:
        ValueError: If they are no such shares.
    """
    parts = read_shares(shares, len(gflops), epochs=epochs, **lengths)
    if slim is None or epochs is not None:
        return parts
    if parts is None:
        costs = [c * t for c, t in zip(gflops, proportions_of(len(gflops), **lengths))]
        parts = tuple(cost / math.fsum(costs) for cost in costs)
    grow = 1 - math.fsum(slim)
    return (*(part * grow for part in parts), *slim)


def parse_budget(budget: float | str, full_cost: float, full_epochs: int) -> float:
    """Reads a budget as a cost in GFLOPs x epochs.

    Raises:
        ValueError: If it is no number, not positive, or above the full cost.
    """
    if parse_duration(budget) is not None:
        raise ValueError(f'budget={budget!r} is a time; bvit_mm.budget.read_budget reads it')
    value: float | str | None = budget
    absolute = False
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
    proportions: list[float],
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
    plan = next(_near_steps(gflops, proportions, cost, slack, max_epochs))
    n = sum(plan)
    spent = math.fsum(c * m for c, m in zip(gflops, plan))
    rest = math.floor((cost + slack - spent) / gflops[0])
    if max_epochs is not None and rest > max_epochs - n:
        rest = max_epochs - n
        filled = (plan[0] + rest, *plan[1:])
        return _moved_on(gflops, filled, cost + slack - spent - rest * gflops[0])
    return (plan[0] + rest, *plan[1:])


def _near_steps(
    gflops: tuple[float, ...],
    proportions: list[float],
    cost: float,
    slack: float,
    max_epochs: int | None,
) -> Iterator[tuple[int, ...]]:
    """Whole plans that ``cost`` pays, the dearest near each step, from the highest step down."""
    for exact in _steps(gflops, proportions, cost, max_epochs):
        begin = math.fsum(c * x for c, x in zip(gflops, exact)) - slack
        plan = _dearest(gflops, round(math.fsum(exact)), exact, begin, cost + slack)
        if plan is not None:
            yield plan


def _moved_on(gflops: tuple[float, ...], plan: tuple[int, ...], left: float) -> tuple[int, ...]:
    """At the cap, epochs of the earliest stages become epochs of the last one, as ``left`` pays.

    A stage keeps one epoch. The next one is turned to when this one has no more to give.
    """
    *early, last = plan
    for i, epochs in enumerate(early):
        more = gflops[-1] - gflops[i]
        if more <= 0:  # as dear as the last: nothing is gained
            break
        early[i] = max(1, epochs - math.floor(left / more))
        moved = epochs - early[i]
        last, left = last + moved, left - moved * more
        if early[i] > 1:
            break
    return (*early, last)


def _steps(
    gflops: tuple[float, ...], proportions: list[float], cost: float, max_epochs: int | None
) -> Iterator[list[float]]:
    """Exact plans that ``cost`` pays, from the dearest to one epoch of each stage.

    A step is one epoch more by the proportions. At the cap, it is a part of what is above one epoch
    of each stage that moves to the last stage, until that has all of it (Table 2).
    """
    k = len(gflops)
    mean = math.fsum(w * c for w, c in zip(proportions, gflops))  # cost of one more epoch
    left = cost - math.fsum(gflops)
    most = math.floor(left / mean + 1e-9)
    room = most if max_epochs is None else min(most, max_epochs - k)
    if room < most and gflops[-1] > mean:
        moved = min(room, math.floor((left - room * mean) / (gflops[-1] - mean) + 1e-9))
        for step in range(moved, 0, -1):
            parts = [(room - step) * w for w in proportions[:-1]]
            yield [*(1 + x for x in parts), 1 + room - math.fsum(parts)]
    for n in range(room, -1, -1):
        yield [1 + n * w for w in proportions]


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


def proportions_of(
    k: int, alpha: float | None = None, seed: int | None = None, family: str | None = None
) -> list[float]:
    """Relative durations of ``k`` stages, summing to 1 (Section 4.3).

    What is None is the paper's: ``ALPHA``, the first draw, ``FAMILY``.

    Args:
        k: The number of stages.
        alpha: Bias of the exponential family: above 0 later stages are longer, below 0
            earlier ones, at 0 all are equal (Table 4).
        seed: Draws the random numbers of the family.
        family: ``'exponential'``, ``'linear_up'`` or ``'linear_down'`` (Table 5).

    Raises:
        ValueError: If there is no such family, or a number is none.
    """
    alpha = ALPHA if alpha is None else alpha
    seed = 0 if seed is None else seed
    family = FAMILY if family is None else family
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


def _stated_epochs(epochs: Sequence[int], k: int, max_epochs: int | None) -> tuple[int, ...]:
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


def _check_enough(
    budget: float | str, cost: float, least: float, full_cost: float, full_epochs: int
) -> None:
    """Raises ValueError if a budget pays less than ``least``, an epoch of each stage."""
    if cost < least:
        raise ValueError(
            f'budget={budget} of {full_epochs} epochs is {_cost(cost)} GFLOPs x epochs, less '
            f'than one epoch of each stage ({_cost(least)}); '
            + _enough(least, full_cost, full_epochs)
        )


def _check_cap(epochs: tuple[int, ...], max_epochs: int | None, shares: Any) -> None:
    """Raises ValueError if what shares buy is above the cap; under it they could not be kept."""
    if max_epochs is not None and sum(epochs) > max_epochs:
        raise ValueError(
            f'shares={shares!r} of the budget buy {list(epochs)}, {sum(epochs)} epochs, above '
            f'max_epochs={max_epochs}; give less to early training stages, a smaller budget, or no '
            'max_epochs'
        )


def _needs_epochs(budget: float | str, charge: Charge, epochs: list[int]) -> str:
    """What to give instead of a budget where there are charges; ``epochs`` is an example."""
    return (
        f'budget={budget!r} does not say how much of the data to train on when '
        f'{charge.purpose} every {charge.interval} epochs is charged; state epochs, such as '
        f'{epochs}{charge.advice}'
    )


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
