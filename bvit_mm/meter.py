# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a budget can be measured in while a run trains."""

import time
from abc import ABC, abstractmethod
from typing import Any

from .hours import duration, parse_duration
from .ledger import Ledger


class Meter(ABC):
    """Counts something that a run uses up, from whatever beginning.

    Attributes:
        name: Of its amounts, in files.
        unit: A budget is one "in hours", for messages.
        symbol: After a number of it.
    """

    name: str
    unit: str
    symbol: str

    @abstractmethod
    def read(self) -> float:
        """The count at this moment."""

    @abstractmethod
    def parse(self, budget: Any) -> float | None:
        """The amount that a budget of a config means; None if it is not of this meter."""

    def text(self, amount: float) -> str:
        """An amount, as people write it."""
        return f'{amount:.3g} {self.symbol}'

    def used(self, ledger: Ledger) -> float:
        """What a run has used up."""
        return ledger.metered


class Clock(Meter):
    """Seconds."""

    name = 'seconds'
    unit = 'hours'
    symbol = 's'

    def read(self) -> float:
        return time.perf_counter()

    def parse(self, budget: Any) -> float | None:
        return parse_duration(budget)

    def text(self, amount: float) -> str:
        return duration(amount)

    def used(self, ledger: Ledger) -> float:
        return ledger.elapsed


METERS: list[Meter] = [Clock()]
