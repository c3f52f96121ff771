# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A budget in hours: its text, and stage lengths that keep it while the speed changes.

Pure Python, like ``plan``: how fast a machine is comes in as numbers.
"""

import math
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

_NUMBER = r'(\d+(?:\.\d*)?|\.\d+)\s*'
_DURATION = re.compile(rf'\s*(?:{_NUMBER}h)?\s*(?:{_NUMBER}min)?\s*(?:{_NUMBER}s)?\s*', re.I)

RECENT = 5  # times that say how long a thing takes


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
    """How long things take on the machine that trains.

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
        waiting: Seconds of these that passed with waiting for data.
        samples: In all processes together.
        memory: Peak bytes: of the accelerator; without one, of this process so far.
        data_bound: Whether loading, not computing, says how long it takes.
    """

    seconds: float
    waiting: float
    samples: int
    memory: int
    data_bound: bool


def stage_lengths(
    weights: Sequence[float],
    seconds: Sequence[float],
    done: Sequence[int],
    left: float,
) -> tuple[int, ...]:
    """Epochs of each training stage, those done included, that the time left is enough for.

    The lengths of all stages keep the proportions of ``weights`` as far as stages that are over
    allow. The last stage takes the time that rounding leaves, so its last epoch may be one that
    the time ends within.

    Args:
        weights: Relative lengths of the stages.
        seconds: Of an epoch of each stage.
        done: Epochs that were trained so far, of each stage.
        left: Seconds that are left for training.
    """
    last = len(weights) - 1
    stage = max((k for k, n in enumerate(done) if n), default=0)  # the one in progress

    def needed(scale: float) -> float:
        return math.fsum(
            s * max(0.0, scale * w - n)
            for w, s, n in zip(weights[stage:], seconds[stage:], done[stage:])
        )

    low, high = 0.0, (left + sum(done) * max(seconds)) / (min(weights) * min(seconds)) + 1
    for _ in range(100):  # halves the uncertainty each time
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) <= left else (low, middle)
    lengths = list(done)
    for k in range(stage, last):
        least = 0 if done[k] else 1
        lengths[k] += max(least, round(low * weights[k] - done[k]))
        left -= seconds[k] * (lengths[k] - done[k])
    more = max(0 if done[last] else 1, math.ceil(left / seconds[last] - 1e-9))
    lengths[last] += more
    return tuple(lengths)


class TimeBudget:
    """A budget in hours, and the pace that its plan follows.

    Args:
        text: The budget, such as ``'8h'``.
        weights: Relative lengths of the training stages.
        pace: How long things take; None until it was measured.
    """

    def __init__(self, text: str, weights: Sequence[float], pace: Pace | None = None) -> None:
        self.text = text
        self.seconds = parse_duration(text)
        self.weights = tuple(weights)
        self.pace = pace
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def learn(self, name: str, seconds: float) -> None:
        """Keeps how long ``'validation'`` or ``'saving'`` took.

        The second longest of the last few counts: more than the usual, for a run must not end
        late; but one late time alone changes nothing.
        """
        recent = self._recent[name]
        recent.append(seconds)
        self.pace = replace(self.pace, **{name: sorted(recent)[-2:][0]})

    @property
    def end(self) -> float:
        """When training must be over, so that closing fits; seconds from the beginning."""
        return self.seconds - self.pace.closing

    def lengths(self, done: Sequence[int], elapsed: float) -> tuple[int, ...]:
        """Epochs of each training stage, of which ``done`` are over; see ``stage_lengths``."""
        return stage_lengths(self.weights, self.pace.epochs(), done, self.end - elapsed)

    def deadline(self, stage: int) -> float:
        """When an epoch of a stage must end, finished or not.

        The last stage keeps time for one epoch, however slow the earlier ones became.
        """
        is_last = stage == len(self.weights) - 1
        return self.end - (0.0 if is_last else self.pace.epochs()[-1])

    def has_time_to_validate(self, elapsed: float) -> bool:
        """Whether validating now, and not only at the end, leaves time to train any more."""
        return elapsed + self.pace.validation < self.end


def check_enough(budget: TimeBudget, elapsed: float) -> None:
    """Raises ValueError unless what is left of a budget buys an epoch of each training stage."""
    pace = budget.pace
    least, left = math.fsum(pace.epochs()), budget.end - elapsed
    if left < least:
        enough = (least + budget.seconds - left) * 1.05  # speed varies
        raise ValueError(
            f'budget={budget.text!r} leaves {duration(max(0.0, left))} for training here, but one '
            f'epoch of each training stage takes {duration(least)} '
            f"({', '.join(map(duration, pace.epochs()))}); give at least '{math.ceil(enough)}s'"
        )
