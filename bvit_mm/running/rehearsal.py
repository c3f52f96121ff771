# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training stages tried for a few iterations, which are then forgotten.

It tells before a run starts how long an iteration of each stage takes here, and (``memory``)
whether the last and largest one fits.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from ..budget import MeteredBudget
from ..elastic import find_backbone
from ..hours import Measurement, Pace
from ..meter import Clock, Meter
from ..mmengine_gaps import restart_workers
from ..run_hook import recipes_in
from ..waiting import binds
from ..wrapped import unwrapped
from .processes import Agreement
from .randomness import kept_random_state
from .saving import epoch_savers
from .snapshot import lasting_iterators, unchanged, walk
from .train_in_parts import count_samples

# Share of a budget that timing the stages may take, validation as well: 1.5 % in all.
REHEARSED = 0.01
CLOCK = Clock()

LARGE = 1 << 26  # bytes of a data set that are its data, and not written to

TrainStep = Callable[[Any], Any]
StageStep = Callable[[Any, int], Any]  # trains a batch in a training stage

WARM_UP = 1  # iterations that are not timed
LEAST, MOST = 2, 50  # iterations that are


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
    # workers have copies
    passed: list[Any] = [loader.dataset for loader in loaders if loader.num_workers]
    for loader in loaders:
        passed += [
            thing
            for _, thing in walk(loader.dataset, without=passed)
            if isinstance(thing, (np.ndarray, Tensor)) and thing.nbytes > LARGE
        ]
    return [trained(runner), *map(drawn, loaders)], passed


def trained(runner: Runner) -> list[Any]:
    """What a training step may write to, in any training stage.

    The model without what wraps it: the reducer of DistributedDataParallel cannot be put back.
    """
    parts = unwrapped(runner.model), runner.optim_wrapper, runner.param_schedulers
    return [*parts, runner.message_hub, recipes_in(runner)]


def drawn(loader: DataLoader) -> list[Any]:
    """What drawing a batch may write to."""
    return [loader.sampler, loader.batch_sampler, loader.generator, loader.dataset]


def measure(
    runner: Runner,
    train_step: TrainStep,
    stage: int,
    allowed: float,
    meter: Meter,
    agree: Agreement,
) -> Measurement:
    """Times iterations of a training stage, with the real data loader, optimizer and precision.

    Args:
        runner: Within ``rehearsal``, with the recipe of the stage.
        train_step: Trains a batch.
        stage: The training stage.
        allowed: About what it may take by the meter; at least three iterations are made.
        meter: Of the budget.
        agree: So that all processes make as many.
    """
    find_backbone(runner.model).set_training_stage(stage)
    runner.model.train()
    batches = _endless(runner.train_dataloader)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begin = _read(meter)
    for _ in range(WARM_UP):
        train_step(next(batches))
    first, count, waiting, samples, n = _read(CLOCK), _read(meter), 0.0, 0, 0
    while True:
        before = _read(CLOCK)  # what an accelerator still computes is no waiting
        batch = next(batches)
        waiting += CLOCK.read() - before
        samples += count_samples(batch)
        train_step(batch)
        n += 1
        (passed,) = agree.first(meter.read() - begin)
        if n >= MOST or (n >= LEAST and passed >= allowed):
            break
    took, amount = agree.first(_read(CLOCK) - first, _read(meter) - count)
    return Measurement(
        seconds=took / n,
        amount=amount / n,
        waiting=waiting / n,
        samples=round(samples * runner.world_size / n),
        memory=_peak_memory(),
        data_bound=binds(waiting, took, runner.train_dataloader.num_workers),
    )


@torch.no_grad()
def measure_validation(runner: Runner, allowed: float, meter: Meter, agree: Agreement) -> float:
    """What one validation of the whole network takes by the meter, from a few batches.

    Args:
        runner: Within ``rehearsal``.
        allowed: About what measuring may take by the meter.
        meter: Of the budget.
        agree: So that all processes plan alike.
    """
    if runner.val_loop is None:
        return 0.0
    backbone, loader = find_backbone(runner.model), runner.val_loop.dataloader
    backbone.set_training_stage(backbone.whole_stage)
    runner.model.eval()
    start, n = _read(meter), 0
    for batch in loader:
        runner.model.val_step(batch)
        n += 1
        if _read(meter) - start >= allowed:
            break
    took = (_read(meter) - start) / max(1, n) * len(loader)
    runner.model.train()
    restart_workers(loader)
    return agree.first(took)[0]  # once: loaders of validation may differ in length


def time_stages(
    runner: Runner,
    train_step: StageStep,
    budget: MeteredBudget,
    val_interval: int,
    agree: Agreement,
) -> list[Measurement]:
    """Times all stages, and what follows an epoch; the budget gets the pace.

    Args:
        runner: The runner; it is left as it was.
        train_step: Trains a batch in a training stage.
        budget: In hours, or of what else a meter counts.
        val_interval: Epochs between validations.
        agree: So that all processes plan alike.
    """
    check_reversible(runner)
    allowed = REHEARSED * budget.amount
    count, recipes = len(budget.proportions), recipes_in(runner)
    measurements: list[Measurement] = []
    length = len(runner.train_dataloader)
    with rehearsal(runner):
        for stage in range(count):
            step = _of_stage(train_step, stage)
            with recipes.during(runner, stage):
                measurements.append(
                    measure(runner, step, stage, allowed / count, budget.meter, agree)
                )
        validation = measure_validation(runner, allowed / 2, budget.meter, agree)
    budget.pace = Pace(
        train=tuple(m.amount * length for m in measurements),
        validation=validation,
        val_interval=val_interval,
        save_interval=min([max(1, hook.interval) for hook in epoch_savers(runner)], default=1),
    )
    return measurements


def _of_stage(train_step: StageStep, stage: int) -> TrainStep:
    return lambda batch: train_step(batch, stage)


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _read(meter: Meter) -> float:
    """The count when all that was asked of the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return meter.read()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
