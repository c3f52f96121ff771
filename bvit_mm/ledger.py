# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a run has spent: iterations, samples, cost and time of each training stage."""

from dataclasses import asdict, dataclass, field
from typing import Any

from .plan import Plan

LEDGER_FILE = 'ledger.json'
OTHER = ('setup', 'rehearsal', 'compilation', 'validation', 'saving')


@dataclass
class Ledger:
    """What was spent so far, over all sessions of a run and whatever their number of processes.

    Attributes:
        gflops: Forward GFLOPs of each training stage, classifier included.
        length: Iterations of an epoch.
        batch: Samples of an iteration, in all processes together.
        iterations: Of each training stage.
        samples: Of each training stage, in all processes together.
        seconds: Of training in each training stage, on the clock: waiting for data included.
        other: Seconds of what is no training, by name.
        epoch_share: What an epoch costs, as a share of one that reads all data.
        charges: Costs besides training, by name, in GFLOPs x epochs (``plan.Charge``).
        extra: Cost in each training stage beyond the plan's, of images of another size than it is
            for, in GFLOPs x epochs; below 0 of smaller ones.
        metered: What the meter of the budget has counted, where that is not the clock.
        waiting: Seconds of training in each stage that passed with waiting for data, as the first
            process saw it; what earlier versions trained counts as none.
    """

    gflops: tuple[float, ...]
    length: int
    batch: int
    iterations: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    other: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OTHER, 0.0))
    epoch_share: float = 1.0
    charges: dict[str, float] = field(default_factory=dict)
    extra: list[float] = field(default_factory=list)
    metered: float = 0.0
    waiting: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ('iterations', 'samples', 'seconds', 'extra', 'waiting'):
            setattr(self, name, getattr(self, name) or [0] * len(self.gflops))

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of each training stage; a run that is in the middle of one has parts."""
        return tuple(n / self.length for n in self.iterations)

    @property
    def costs(self) -> tuple[float, ...]:
        """Cost in each stage in GFLOPs x epochs, as of a ``Plan``, of the images that came."""
        return tuple(planned + extra for planned, extra in zip(self._planned, self.extra))

    @property
    def cost(self) -> float:
        return sum(self.costs) + sum(self.charges.values())

    @property
    def planned_cost(self) -> float:
        """What the plan counts for what was trained so far, whatever the size of the images."""
        return sum(self._planned) + sum(self.charges.values())

    @property
    def _planned(self) -> tuple[float, ...]:
        return tuple(g * n * self.epoch_share for g, n in zip(self.gflops, self.epochs))

    @property
    def elapsed(self) -> float:
        """Seconds of everything."""
        return sum(self.seconds) + sum(self.other.values())

    def train(self, stage: int, samples: int, extra_gflops: float = 0.0) -> None:
        """Enters an iteration; its seconds are known later.

        Args:
            stage: The training stage.
            samples: In all processes together.
            extra_gflops: Of one image, beyond those that the plan counts.
        """
        self.iterations[stage] += 1
        self.samples[stage] += samples
        self.extra[stage] += extra_gflops * self.epoch_share / self.length

    def charge(self, name: str, stage: int, share: float, extra_gflops: float = 0.0) -> None:
        """Charges a cost besides training.

        Args:
            name: Of what it is for.
            stage: The training stage of the network that it needed.
            share: Of the cost of an epoch on all data.
            extra_gflops: As of ``train``.
        """
        self.charges[name] = self.charges.get(name, 0.0) + share * self.gflops[stage]
        self.extra[stage] += share * extra_gflops

    def pass_time(self, name: str, seconds: float) -> None:
        """Enters time that was no training."""
        self.other[name] = self.other.get(name, 0.0) + seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for checkpoints."""
        values = {**asdict(self), 'gflops': list(self.gflops)}
        if not self.metered:  # as of budgets that the clock measures
            del values['metered']
        return values

    @classmethod
    def of_run(cls, plan: Plan, length: int, batch: int) -> 'Ledger':
        """The ledger of a run that begins.

        Args:
            plan: What is planned.
            length: Iterations of an epoch.
            batch: Samples of an iteration, in all processes together.
        """
        return cls(plan.gflops, length, batch, epoch_share=plan.epoch_share)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Ledger':
        """The ledger that ``as_dict`` was of."""
        return cls(**{**saved, 'gflops': tuple(saved['gflops'])})
