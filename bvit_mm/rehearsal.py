# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training stages tried for a few iterations, which are then forgotten.

It tells before a run starts how long an iteration of each stage takes here, and (``memory``)
whether the last and largest one fits.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from .elastic import find_backbone
from .hours import Measurement
from .micro_batches import count_samples
from .mmengine_gaps import restart_workers
from .processes import Agreement, unwrapped
from .randomness import kept_random_state
from .snapshot import lasting_iterators, unchanged, walk

LARGE = 1 << 26  # bytes of a data set that are its data, and not written to

TrainStep = Callable[[Any], Any]

WARM_UP = 1  # iterations that are not timed
LEAST, MOST = 2, 50  # iterations that are
# Share of an iteration that may pass with waiting for data before that is what binds it. Without
# workers, loading and computing take turns, and the longer of the two does.
WAITING, WAITING_ALONE = 0.1, 0.5


@contextmanager
def rehearsal(runner: Runner) -> Iterator[None]:
    """Whatever is trained within leaves all that training reads later as it was (``snapshot``).

    The model, optimizers and schedulers, what is logged, how data is drawn, random states.
    """
    roots, data = _written(runner)
    try:
        with kept_random_state(), unchanged(*roots, without=data):
            yield
    finally:
        for loader in _loaders(runner):
            restart_workers(loader)  # its workers went on with their numbers


def irreversible(runner: Runner) -> list[str]:
    """Where there are iterators that what is tried may draw from, for good."""
    ((model, *others), *data), passed = _written(runner)
    return lasting_iterators(dict(model=model, training=others, data=data), without=passed)


def check_reversible(runner: Runner) -> None:
    """Raises ValueError if the stages cannot be timed without consequences (``irreversible``)."""
    places = irreversible(runner)
    if places:
        raise ValueError(
            f'a budget in hours times the training stages first, but {", ".join(places)} is an '
            'iterator that has begun and cannot be turned back after it; keep a number instead, '
            'or give a budget in GFLOPs'
        )


def _loaders(runner: Runner) -> list[DataLoader]:
    loop = runner.val_loop
    return [runner.train_dataloader, *([loop.dataloader] if loop is not None else [])]


def _written(runner: Runner) -> tuple[list[list[Any]], list[Any]]:
    """What may be written to, and what data in it is passed by."""
    loaders = _loaders(runner)
    passed = [loader.dataset for loader in loaders if loader.num_workers]  # workers have copies
    for loader in loaders:
        passed += [
            thing
            for _, thing in walk(loader.dataset, without=passed)
            if isinstance(thing, (np.ndarray, Tensor)) and thing.nbytes > LARGE
        ]
    return [trained(runner), *map(drawn, loaders)], passed


def trained(runner: Runner) -> list[Any]:
    """What a training step may write to.

    The model without what wraps it: the reducer of DistributedDataParallel cannot be put back.
    """
    parts = unwrapped(runner.model), runner.optim_wrapper, runner.param_schedulers
    return [*parts, runner.message_hub]


def drawn(loader: DataLoader) -> list[Any]:
    """What drawing a batch may write to."""
    return [loader.sampler, loader.batch_sampler, loader.generator, loader.dataset]


def measure(
    runner: Runner, train_step: TrainStep, stage: int, seconds: float, agree: Agreement
) -> Measurement:
    """Times iterations of a training stage, with the real data loader, optimizer and precision.

    Args:
        runner: Within ``rehearsal``.
        train_step: Trains a batch.
        stage: The training stage.
        seconds: About how long it may take; at least three iterations are made.
        agree: So that all processes make as many.
    """
    find_backbone(runner.model).set_training_stage(stage)
    runner.model.train()
    batches = _endless(runner.train_dataloader)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = _now()
    for _ in range(WARM_UP):
        train_step(next(batches))
    first, waiting, samples, n = _now(), 0.0, 0, 0
    while True:
        before = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - before
        samples += count_samples(batch)
        train_step(batch)
        n += 1
        _, passed = agree(0, time.perf_counter() - start)
        if n >= MOST or (n >= LEAST and passed >= seconds):
            break
    _, took = agree(0, _now() - first)
    allowed = WAITING if runner.train_dataloader.num_workers else WAITING_ALONE
    return Measurement(
        seconds=took / n,
        waiting=waiting / n,
        samples=round(samples * runner.world_size / n),
        memory=_peak_memory(),
        data_bound=waiting > allowed * took,
    )


@torch.no_grad()
def measure_validation(runner: Runner, seconds: float, agree: Agreement) -> float:
    """Seconds that one validation of the whole network takes, from a few batches.

    Args:
        runner: Within ``rehearsal``.
        seconds: About how long measuring may take.
        agree: So that all processes plan alike.
    """
    if runner.val_loop is None:
        return 0.0
    backbone, loader = find_backbone(runner.model), runner.val_loop.dataloader
    backbone.set_training_stage(backbone.num_training_stages - 1)
    runner.model.eval()
    start, n = _now(), 0
    for batch in loader:
        runner.model.val_step(batch)
        n += 1
        if _now() - start >= seconds:
            break
    took = (_now() - start) / max(1, n) * len(loader)
    runner.model.train()
    restart_workers(loader)
    return agree(0, took)[1]  # once: loaders of validation may differ in length


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
