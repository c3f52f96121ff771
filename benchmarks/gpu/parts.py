# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs one part in a process of its own, for a limited time, and keeps what it has found."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .sizes import Size

Row = dict[str, Any]
Work = Callable[[str, Size], Iterator[Row]]  # takes a device, 'cuda' or 'cpu'

LONGEST = 1500  # characters of an error that are kept, its end


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        what: What it shows, in words.
        work: Finds it out. A row whose ``ok`` is False says that something does not hold.
        limit: Seconds that it may take.
    """

    what: str
    work: Work
    limit: float


def run_part(part: Part, device: str, size: Size, limit: float, log: Path) -> dict[str, Any]:
    """What a part has found: ``what``, ``seconds``, ``ok``, ``error`` and ``rows``.

    Args:
        part: The part.
        device: ``'cuda'`` or ``'cpu'``.
        size: How much is measured.
        limit: Seconds after which it is stopped; the rows that it has found are kept.
        log: A file for what it prints.
    """
    begin = time.monotonic()
    # torch uses no GPU in a fork of a process that has looked for one, as importing mmengine does.
    start = multiprocessing.get_context('spawn' if device == 'cuda' else 'fork')
    here, there = start.Pipe(duplex=False)
    process = start.Process(target=_work, args=(part.work, device, size, there, log))
    process.start()
    there.close()
    rows: list[Row] = []
    error: str | None = f'stopped after {limit:.0f} s'
    while here.poll(max(0.0, begin + limit - time.monotonic())):
        try:
            row, error_then = here.recv()
        except EOFError:
            process.join()
            error = f'its process ended with exit code {process.exitcode}'
            break
        if row is None:
            error = error_then
            break
        rows.append(row)
    _end(process)
    return dict(
        what=part.what,
        seconds=round(time.monotonic() - begin, 1),
        ok=error is None and all(row.get('ok', True) for row in rows),
        error=error,
        rows=rows,
    )


def _work(work: Work, device: str, size: Size, to: Connection, log: Path) -> None:
    os.setsid()  # so that its data workers end with it
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    error = None
    try:
        for row in work(device, size):
            to.send((row, None))
    except BaseException:
        text = traceback.format_exc()
        os.write(2, text.encode())  # wherever sys.stderr leads
        error = text[-LONGEST:]
    to.send((None, error))


def _end(process: Any) -> None:
    """Ends a process and those that it has started."""
    process.join(timeout=1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
