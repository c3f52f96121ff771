# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A last stage that does not fit into memory: refused with advice, or divided into parts."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
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

        with peak_memory(device) as peak:
            run('all').train()
        yield dict(run='all memory', batch=size.batch, gigabytes=peak[0] / 1e9)
        with at_most(device, ALLOWED * peak[0]):
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


@contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """Gives a list that has in the end how many bytes were used within; 0 without a GPU."""
    peak: list[int] = []
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    yield peak
    peak.append(torch.cuda.max_memory_allocated() if device == 'cuda' else 0)


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
