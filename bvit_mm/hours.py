# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Hours: their text, what was measured, and stage lengths that keep them at any speed.

Pure Python, like ``plan``: how fast a machine is comes in as numbers.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

_NUMBER = r'(\d+(?:\.\d*)?|\.\d+)\s*'
_DURATION = re.compile(rf'\s*(?:{_NUMBER}h)?\s*(?:{_NUMBER}min)?\s*(?:{_NUMBER}s)?\s*', re.I)


def parse_duration(budget: Any) -> float | None:
    """Seconds of ``'8h'``, ``'90min'``, ``'45s'`` or ``'1h30min'``; None of anything else.

    Raises:
        ValueError: If it is no time at all, or one without an end.
    """
    match = _DURATION.fullmatch(budget) if isinstance(budget, str) else None
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(number or 0) for number in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < math.inf:
        raise ValueError(
            f"budget={budget!r} must be above 0 and finite; give a time such as '8h' or '90min'"
        )
    return total


def duration(seconds: float) -> str:
    """Seconds as people write them, for messages."""
    if seconds < 120:
        return f'{seconds:.3g} s'
    return f'{seconds / 60:.3g} min' if seconds < 7200 else f'{seconds / 3600:.3g} h'


@dataclass(frozen=True)
class Pace:
    """How long things take on the machine that trains, or what else a meter counts of them.

    Attributes:
        train: Seconds that an epoch trains, of each training stage.
        validation: Seconds of one validation.
        saving: Seconds of what else follows an epoch that saves a checkpoint.
        val_interval: Epochs between validations.
        save_interval: Epochs between checkpoints.
    """

    train: tuple[float, ...]
    validation: float = 0.0
    saving: float = 0.0
    val_interval: int = 1
    save_interval: int = 1

    @property
    def closing(self) -> float:
        """Seconds from the last iteration to the end of the run."""
        return self.saving + self.validation

    def epochs(self) -> tuple[float, ...]:
        """Seconds of an epoch with what follows it, of each training stage."""
        between = self.saving / self.save_interval + self.validation / self.val_interval
        return tuple(s + between for s in self.train)

    def drifted(self, stage: int, seconds: float, share: float = 1.0) -> 'Pace':
        """The pace after an epoch of ``stage`` would take ``seconds``, by a share of it.

        A machine that slows down in one stage does so in all of them alike.
        """
        factor = 1 + share * (seconds / self.train[stage] - 1)
        return replace(self, train=tuple(s * factor for s in self.train))


@dataclass(frozen=True)
class Measurement:
    """What an iteration of a training stage took.

    Attributes:
        seconds: On the clock.
        amount: By the meter of the budget (``meter.Meter``); for hours, the seconds.
        waiting: Seconds of these that passed with waiting for data.
        samples: In all processes together.
        memory: Peak bytes: of the accelerator; without one, of this process so far.
        data_bound: Whether loading, not computing, says how long it takes.
    """

    seconds: float
    amount: float
    waiting: float
    samples: int
    memory: int
    data_bound: bool


def stage_lengths(
    proportions: Sequence[float],
    seconds: Sequence[float],
    done: Sequence[int],
    left: float,
) -> tuple[int, ...]:
    """Epochs of each training stage, those done included, that the time left is enough for.

    The lengths of all stages keep the proportions of ``proportions`` as far as stages that are over
    allow. The last stage takes the time that rounding leaves, so its last epoch may be one that
    the time ends within.

    Args:
        proportions: Relative lengths of the stages.
        seconds: Of an epoch of each stage.
        done: Epochs that were trained so far, of each stage.
        left: Seconds that are left for training.
    """
    last = len(proportions) - 1
    stage = max((k for k, n in enumerate(done) if n), default=0)  # the one in progress

    def needed(scale: float) -> float:
        return math.fsum(
            s * max(0.0, scale * w - n)
            for w, s, n in zip(proportions[stage:], seconds[stage:], done[stage:])
        )

    low, high = 0.0, (left + sum(done) * max(seconds)) / (min(proportions) * min(seconds)) + 1
    for _ in range(100):  # halves the uncertainty each time
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) <= left else (low, middle)
    lengths = list(done)
    for k in range(stage, last):
        least = 0 if done[k] else 1
        lengths[k] += max(least, round(low * proportions[k] - done[k]))
        left -= seconds[k] * (lengths[k] - done[k])
    more = max(0 if done[last] else 1, math.ceil(left / seconds[last] - 1e-9))
    lengths[last] += more
    return tuple(lengths)
