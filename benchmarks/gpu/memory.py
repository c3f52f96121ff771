# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A last stage that does not fit into memory: refused with advice, or divided into parts."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .runs import drawn_images, short_run
from .sizes import Size

ALLOWED = 0.7  # of what the whole network takes: more than the first stage does


def memory_trial(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Rows of three runs: with all memory; with too little, refused; and divided by itself."""
    family = size.families['DeiT-S']
    loader = drawn_images(family.read(), size.batch, 2 * size.batch)
    with TemporaryDirectory() as folder:

        def run(name: str, **changes: Any) -> Runner:
            gc.collect()
            return short_run(device, family, Path(folder, name), loader, **changes)

        peak = PeakMemory(device)
        runner = run('all')
        runner.register_hook(peak)
        runner.train()
        del runner
        yield dict(run='all memory', batch=size.batch, gigabytes=peak.bytes / 1e9)
        with at_most(device, ALLOWED * peak.bytes):
            try:
                run('refused').train()
                message = ''
            except MemoryError as error:
                message = str(error)
            advised = 'train_cfg.accumulative_counts=[' in message
            yield dict(run='refused', ok=advised, message=message)
            runner = run('divided', **{'train_cfg.accumulative_counts': 'auto'})
            runner.train()
            counts = list(runner.train_loop.parts.counts)
            trained = runner.train_loop.ledger.epochs == runner.train_loop.plan.epochs
            divided = counts[0] == 1 < counts[-1]
            yield dict(run='divided', ok=divided and trained, parts=counts)


class PeakMemory(Hook):
    """Keeps the most memory that an iteration used; none without a GPU.

    mmengine's logger forgets the peak whenever it writes a line, so it is read before.

    Args:
        device: ``'cuda'`` or ``'cpu'``.

    Attributes:
        bytes: The most until now.
    """

    priority = 'VERY_HIGH'

    def __init__(self, device: str) -> None:
        self._is_read, self.bytes = device == 'cuda', 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Reads the peak."""
        if self._is_read:
            self.bytes = max(self.bytes, torch.cuda.max_memory_allocated())


@contextmanager
def at_most(device: str, allowed: float) -> Iterator[None]:
    """Lets this process have no more than some bytes of the device's memory; a GPU's only."""
    if device != 'cuda':
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
