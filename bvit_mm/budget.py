# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A budget: what of it is spent, when it is over, and how its plan follows what was measured.

Pure Python, like ``plan``: how much things take on a machine comes in as numbers. One more kind of
budget is a class with a row in ``KINDS``; one more thing that a run uses up, such as energy, is a
class with a row in ``meter.METERS``.
"""

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from .hours import Pace, stage_lengths
from .ledger import Ledger
from .meter import METERS, Meter
from .plan import Plan, budget_parts, make_plan, proportions_of

RECENT = 5  # times that say how long a thing takes
LENGTHS = ('alpha', 'seed', 'family')  # options of how long stages are


class Budget:
    """A budget whose plan is whole before training starts.

    Attributes:
        follows_pace: Whether the plan's epochs follow how fast training is.
        refuses_other_sizes: Whether images of another size would break it.
        schedules: What schedulers may go by, the default first.
        meter: What is measured while it trains.
    """

    follows_pace = False
    refuses_other_sizes = False
    schedules: tuple[str, ...] = ('epochs', 'budget')
    meter: Meter = METERS[0]

    @classmethod
    def read(cls, gflops: Sequence[float], **options: Any) -> 'tuple[Budget, Plan] | None':
        """The budget and its plan; None if the options are those of another kind.

        Args:
            gflops: As of ``make_plan``.
            **options: The others of ``make_plan``.

        Raises:
            ValueError: If they mean no plan.
        """
        raise NotImplementedError

    def spent(self, plan: Plan, ledger: Ledger) -> float:
        """The share that is spent; above 1 if images cost more than planned."""
        return ledger.cost / plan.cost

    def progress(self, plan: Plan, ledger: Ledger) -> float:
        """How far the plan is; schedulers end where it is 1."""
        return min(1.0, ledger.planned_cost / plan.cost)

    def is_over(self, ledger: Ledger, stage: int) -> bool:
        """Whether an epoch of a training stage must end now, finished or not."""
        return False

    def has_time_to_validate(self, ledger: Ledger) -> bool:
        """Whether validating now, and not only at the end, leaves anything to train with."""
        return True

    def plan_again(
        self, plan: Plan, epoch: int, stage: int, amount: float, share: float, ledger: Ledger
    ) -> Plan:
        """The plan after an epoch, which stays as it is.

        Args:
            plan: The plan so far.
            epoch: Epochs that are over.
            stage: The training stage that has trained.
            amount: What a whole epoch of it takes, by what was measured of this one.
            share: How much of the epoch that was; 0 if nothing was measured.
            ledger: What is spent.
        """
        return plan

    @property
    def unpaced(self) -> 'MeteredBudget | None':
        """Itself, if the stages must be timed before its plan is known; else None."""
        return None

    @property
    def needs_pace(self) -> bool:
        """Whether the stages must be timed before its plan is known."""
        return self.unpaced is not None

    def learn(self, name: str, amount: float) -> None:
        """Takes note of how much ``'validation'`` or ``'saving'`` took."""

    def size_text(self, plan: Plan) -> str:
        """How much it is, for logs."""
        return f'{plan.cost:.4g} GFLOPs x epochs'

    def length_text(self, plan: Plan) -> str:
        """What says how long a run is, for messages."""
        return f'{plan.total_epochs} epochs'

    def used_text(self, ledger: Ledger) -> str:
        """How much of it was used, for the last line of a ledger; empty if its rows say so."""
        return ''

    def as_dict(self) -> dict[str, Any]:
        """What a plan's ``as_dict`` does not say of it; runs are compared by it."""
        return {}

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint must keep of it, in plain numbers."""
        return None

    def load_state(self, saved: dict[str, Any] | None) -> None:
        """Resumes from what ``state`` returned."""

    def resume_plan(self, plan: Plan, saved: dict[str, Any]) -> Plan:
        """The plan of a run that is resumed, whose plan's ``as_dict`` was ``saved``."""
        return plan


class StatedEpochs(Budget):
    """No budget: the epochs of each training stage are stated."""

    @classmethod
    def read(cls, gflops: Sequence[float], **options: Any) -> tuple[Budget, Plan] | None:
        if options.get('epochs') is None:
            return None
        return cls(), make_plan(gflops, **options)


class CostBudget(Budget):
    """A share of the full cost, or a cost in GFLOPs x epochs."""

    refuses_other_sizes = True

    @classmethod
    def read(cls, gflops: Sequence[float], **options: Any) -> tuple[Budget, Plan] | None:
        return cls(), make_plan(gflops, **options)


class MeteredBudget(Budget):
    """An amount that a meter counts, such as hours, and the pace that its plan follows.

    Args:
        text: The budget, such as ``'8h'``.
        proportions: Relative lengths of the training stages, in epochs.
        pace: How much things take; None until it was measured.
        meter: What counts.
        are_shares: Whether the proportions are of what training takes by the meter, not of epochs.
    """

    follows_pace = True
    schedules = ('budget',)

    def __init__(
        self,
        text: str,
        proportions: Sequence[float],
        pace: Pace | None = None,
        meter: Meter = METERS[0],
        are_shares: bool = False,
    ) -> None:
        self.text = text
        self.meter = meter
        self.are_shares = are_shares
        self.amount: float = meter.parse(text)  # type: ignore[assignment]  # not None: ``read`` asked
        self.proportions = tuple(proportions)
        self._pace = pace
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    @classmethod
    def read(cls, gflops: Sequence[float], **options: Any) -> tuple[Budget, Plan] | None:
        """The plan is that of the full cost, until the pace was measured."""
        budget: Any = options.get('budget')
        cap = options.get('max_epochs')
        meter = next((each for each in METERS if each.parse(budget) is not None), None)
        if meter is None or options.get('epochs') is not None or options.get('charges'):
            return None
        if cap is not None:
            raise ValueError(
                f'budget={budget!r} is spent to the end, whatever the epochs; '
                f'give max_epochs={cap} with a budget in GFLOPs, or none'
            )
        whole = make_plan(gflops, **{**options, 'budget': 1.0})
        k, lengths = len(whole.gflops), {name: options.get(name) for name in LENGTHS}
        slim = options.get('slim')
        grown = whole.gflops[: -len(slim)] if slim else whole.gflops
        shares = budget_parts(grown, options.get('shares'), slim, **lengths)
        proportions = shares or proportions_of(k, **lengths)
        found = cls(budget, proportions, meter=meter, are_shares=shares is not None)
        return found, replace(whole, budget=None)

    def spent(self, plan: Plan, ledger: Ledger) -> float:
        return self.progress(plan, ledger)

    def progress(self, plan: Plan, ledger: Ledger) -> float:
        return min(1.0, self.meter.used(ledger) / self.end)

    def is_over(self, ledger: Ledger, stage: int) -> bool:
        return self.meter.used(ledger) >= self.deadline(stage)

    def has_time_to_validate(self, ledger: Ledger) -> bool:
        return self.meter.used(ledger) + self.pace.validation < self.end

    def plan_again(
        self, plan: Plan, epoch: int, stage: int, amount: float, share: float, ledger: Ledger
    ) -> Plan:
        """The plan for what is left, from the pace of the epoch that is over."""
        done = plan.done(epoch)
        if share > 0 and amount > 0:
            self.pace = self.pace.drifted(stage, amount, share)
        if self.is_over(ledger, stage):
            later = [min(1, n) for n in plan.epochs[stage + 1 :]]
            return replace(plan, epochs=(*done[: stage + 1], *later))
        saved = self.meter.used(ledger) + self.pace.saving
        return replace(plan, epochs=self.lengths(done, saved))

    @property
    def unpaced(self) -> 'MeteredBudget | None':
        return self if self._pace is None else None

    @property
    def pace(self) -> Pace:
        """How much things take."""
        if self._pace is None:
            raise RuntimeError(f'the pace of budget={self.text!r} was not measured yet')
        return self._pace

    @pace.setter
    def pace(self, pace: Pace) -> None:
        self._pace = pace

    def plan_measured(self, plan: Plan, ledger: Ledger) -> Plan:
        """The plan of a run that begins, by the pace that was measured.

        Raises:
            ValueError: If there is not enough for an epoch of each training stage.
        """
        used = self.meter.used(ledger)
        self.check_enough(used)
        return replace(plan, epochs=self.lengths([0] * len(self.proportions), used))

    def never_validates(self) -> None:
        """Keeps nothing for validation."""
        self.pace = replace(self.pace, validation=0.0)

    def learn(self, name: str, amount: float) -> None:
        """Takes note of a count; the pace gets the second longest of the last few.

        That is more than the usual, because a run must not end late. One late time alone changes
        nothing.
        """
        recent = self._recent[name]
        recent.append(amount)
        change: dict[str, Any] = {name: sorted(recent)[-2:][0]}
        self.pace = replace(self.pace, **change)

    @property
    def end(self) -> float:
        """When training must be over, so that closing fits; counted from the beginning."""
        return self.amount - self.pace.closing

    def lengths(self, done: Sequence[int], used: float) -> tuple[int, ...]:
        """Epochs of each training stage, of which ``done`` are over; see ``stage_lengths``."""
        weights: Sequence[float] = self.proportions
        if self.are_shares:
            weights = [share / amount for share, amount in zip(weights, self.pace.train)]
        return stage_lengths(weights, self.pace.epochs(), done, self.end - used)

    def deadline(self, stage: int) -> float:
        """When an epoch of a stage must end, finished or not.

        The last stage keeps time for one epoch, however slow the earlier ones became.
        """
        is_last = stage == len(self.proportions) - 1
        return self.end - (0.0 if is_last else self.pace.epochs()[-1])

    def check_enough(self, used: float) -> None:
        """Raises ValueError unless what is left buys an epoch of each training stage."""
        pace, text = self.pace, self.meter.text
        least, left = math.fsum(pace.epochs()), self.end - used
        if left < least:
            enough = (least + self.amount - left) * 1.05  # speed varies
            raise ValueError(
                f'budget={self.text!r} leaves {text(max(0.0, left))} for training here, but one '
                f'epoch of each training stage takes {text(least)} '
                f'({", ".join(map(text, pace.epochs()))}); give at least '
                f"'{math.ceil(enough)}{self.meter.symbol}'"
            )

    def size_text(self, plan: Plan) -> str:
        return f'{self.amount:.6g} {self.meter.symbol}'

    def length_text(self, plan: Plan) -> str:
        return f'a budget in {self.meter.unit}'

    def used_text(self, ledger: Ledger) -> str:
        share = self.meter.used(ledger) / self.amount
        return f', {share:.2%} of the budget of {self.meter.text(self.amount)}'

    def as_dict(self) -> dict[str, Any]:
        name = 'shares' if self.are_shares else 'weights'
        return {self.meter.name: self.amount, name: list(self.proportions)}

    def state(self) -> dict[str, Any] | None:
        return None if self._pace is None else asdict(self._pace)

    def resume_plan(self, plan: Plan, saved: dict[str, Any]) -> Plan:
        return replace(plan, epochs=tuple(stage['epochs'] for stage in saved['stages']))

    def load_state(self, saved: dict[str, Any] | None) -> None:
        if saved is not None:  # else a signal came before the stages were timed
            self.pace = Pace(**{**saved, 'train': tuple(saved['train'])})


# Asked in this order.
KINDS: list[type[Budget]] = [MeteredBudget, StatedEpochs, CostBudget]


def read_budget(gflops: Sequence[float], **options: Any) -> tuple[Budget, Plan]:
    """The budget that the options of ``make_plan`` mean, and its plan.

    Raises:
        ValueError: If they mean none; the text says what would.
    """
    found = (kind.read(gflops, **options) for kind in KINDS)
    return next(each for each in found if each is not None)


def record_of(plan: Plan, budget: Budget) -> dict[str, Any]:
    """What files keep of a plan and its budget, in plain numbers."""
    return {**plan.as_dict(), **budget.as_dict()}


def amount_of(values: dict[str, Any]) -> dict[str, float]:
    """The amount in a ``record_of`` a plan, by the name of its meter."""
    names = [meter.name for meter in METERS]
    return {name: values[name] for name in names if name in values}


def described(values: dict[str, Any]) -> str:
    """The budget in such a record, for messages."""
    symbols = {meter.name: meter.symbol for meter in METERS}
    for name, amount in amount_of(values).items():
        return f'a budget of {amount:.6g} {symbols[name]}'
    return 'a plan in epochs'
