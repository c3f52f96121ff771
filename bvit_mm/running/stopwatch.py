# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What passes while a run trains, entered in the ledger by what it passed with."""

from collections.abc import Callable
from typing import Any

from ..ledger import Ledger
from ..meter import Clock, Meter
from .processes import Agreement


class Stopwatch:
    """Reads the clock, and the meter of a budget that has another, as the first process does.

    Everything from one reading to the next is entered for one thing, so the parts of a ledger add
    up to the whole.

    Args:
        agree: So that all processes see the same.

    Attributes:
        trained: What training has taken in this session, by the meter.
    """

    def __init__(self, agree: Agreement) -> None:
        self._agree = agree
        self._clock = Clock()
        self._meter: Meter | None = None
        self._waited = 0.0  # of this process
        self._read = self._readings()
        self.trained = 0.0
        self.is_warm = False  # a session's first iteration is slow

    def use(self, meter: Meter) -> None:
        """From now on also reads the meter of a budget."""
        if not isinstance(meter, Clock):
            self._meter = meter
            self._read = self._readings()

    def pass_time(self, ledger: Ledger, name: str) -> float:
        """Enters what has passed since the last reading, for something that is no training.

        Returns:
            What has passed, by the meter.
        """
        seconds, amount, _ = self._passed(ledger)
        ledger.pass_time(name, seconds)
        return amount

    def await_data(self, fetch: Callable[..., Any], *args: Any) -> Any:
        """What ``fetch`` returns; if training passes this time, it passes with waiting for data."""
        begin = self._clock.read()
        data = fetch(*args)
        self._waited += self._clock.read() - begin
        return data

    def train(self, ledger: Ledger, stage: int) -> None:
        """Enters what has passed since the last reading, for training in a stage."""
        seconds, amount, waited = self._passed(ledger)
        ledger.seconds[stage] += seconds
        ledger.waiting[stage] += waited
        self.trained += amount

    def _passed(self, ledger: Ledger) -> tuple[float, float, float]:
        """Seconds, the amount by the meter, and seconds of waiting for data since the last time."""
        now = self._readings()
        waited, seconds, *metered = (after - before for after, before in zip(now, self._read))
        self._read = now
        if self._meter is not None:
            ledger.metered += metered[0]
        return seconds, (metered or [seconds])[0], waited

    def _readings(self) -> tuple[float, ...]:
        meters = [self._clock] if self._meter is None else [self._clock, self._meter]
        return self._agree.first(self._waited, *(meter.read() for meter in meters))


class EpochTimer:
    """What an epoch takes, by those of its iterations that were timed.

    Args:
        stopwatch: What reads the clock.
        first: The first iteration; above 0 in an epoch that is resumed.
        started: What the data workers took to start.
    """

    def __init__(self, stopwatch: Stopwatch, first: int, started: float) -> None:
        self._stopwatch, self._first, self._started = stopwatch, first, started
        self._since, self._before = first, stopwatch.trained

    def skip_the_first(self, idx: int) -> None:
        """Leaves out the first iteration of a session, before iteration ``idx`` begins."""
        if idx == self._first + 1 and not self._stopwatch.is_warm:
            self._since, self._before = idx, self._stopwatch.trained
            self._stopwatch.is_warm = True

    def whole(self, done: int, length: int) -> tuple[float, float]:
        """What the whole epoch takes by the meter, and the share of it that was timed.

        Args:
            done: Iterations of the epoch that are over.
            length: Iterations of an epoch.
        """
        timed = done - self._since
        if timed <= 0:
            return 0.0, 0.0
        share = timed / length
        amount = (self._stopwatch.trained - self._before) / share
        return (amount + self._started if timed == done and amount else amount), share
