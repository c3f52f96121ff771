# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Signals that ask a run to stop; it finishes its iteration first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)

Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """While it is entered, SIGTERM and SIGINT are only noted.

    Further ones are ignored: queues and launchers often send several at once, and the first is
    acted on within an iteration. SIGKILL and SIGQUIT (Ctrl-\\) end the process as ever. Outside
    the main thread, where Python allows no handlers, nothing is changed.

    Attributes:
        received: Number of the first signal; 0 if there was none.
        have_ended_workers: Whether it has ended the data workers as well.
    """

    def __init__(self) -> None:
        self.received = 0
        self.have_ended_workers = False
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def tolerated(self, logger: Logger) -> Iterator[None]:
        """Tolerates data workers killed by the same signal; the run is about to leave."""
        try:
            yield
        except Exception:  # of many kinds
            if not self.received:
                raise
            self.have_ended_workers = True
            logger.warning(
                f'signal {self.received} has ended the data workers as well; '
                'what they were read for is broken off'
            )

    def next_of(self, batches: Iterator[Any], logger: Logger) -> Any:
        """The next batch; None, again and again, of workers that the signal has ended."""
        with self.tolerated(logger):
            if not self.have_ended_workers:
                return next(batches)
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        # Data workers of the same process group die of the signal, and torch would raise that
        # here, in the middle of an iteration.
        self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
