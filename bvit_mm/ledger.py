# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a run has spent: iterations, samples, cost and time of each training stage."""

from dataclasses import asdict, dataclass, field
from typing import Any

from .data_share import SELECTION_COST

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
        data_share: The share of the data that an epoch reads, and costs.
        selection: Cost of looking at all data to select some of it, as far as it is charged, in
            GFLOPs x epochs.
    """

    gflops: tuple[float, ...]
    length: int
    batch: int
    iterations: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    other: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OTHER, 0.0))
    data_share: float = 1.0
    selection: float = 0.0

    def __post_init__(self) -> None:
        for name in ('iterations', 'samples', 'seconds'):
            setattr(self, name, getattr(self, name) or [0] * len(self.gflops))

    @property
    def epochs(self) -> tuple[float, ...]:
        """Of each training stage; a run that is in the middle of one has parts."""
        return tuple(n / self.length for n in self.iterations)

    @property
    def costs(self) -> tuple[float, ...]:
        """Cost of training in each stage in GFLOPs x epochs, as of a ``Plan``."""
        return tuple(g * n * self.data_share for g, n in zip(self.gflops, self.epochs))

    @property
    def cost(self) -> float:
        return sum(self.costs) + self.selection

    @property
    def elapsed(self) -> float:
        """Seconds of everything."""
        return sum(self.seconds) + sum(self.other.values())

    def train(self, stage: int, samples: int) -> None:
        """Books an iteration; its seconds are known later."""
        self.iterations[stage] += 1
        self.samples[stage] += samples

    def select(self, stage: int) -> None:
        """Books a look at all data by the network of a training stage."""
        self.selection += SELECTION_COST * self.gflops[stage]

    def charge(self, name: str, seconds: float) -> None:
        """Books time that was no training."""
        self.other[name] = self.other.get(name, 0.0) + seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for checkpoints."""
        return {**asdict(self), 'gflops': list(self.gflops)}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Ledger':
        """The ledger that ``as_dict`` was of."""
        return cls(**{**saved, 'gflops': tuple(saved['gflops'])})
