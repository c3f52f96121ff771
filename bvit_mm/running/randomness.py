# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Random numbers that a resumed run draws again as an uninterrupted one.

mmengine seeds once, at the start, and does not save random states. Here every iteration is
seeded by its epoch and number, and data workers by the epoch; so a checkpoint of any iteration
needs no random states, and it does not matter how many processes there were.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from ..mmengine_gaps import has_seeds_by_rank, restart_workers
from .processes import shared_seed
from .snapshot import walk

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def derived_seed(*numbers: int) -> int:
    """A seed below 2^31 from a seed, an epoch and so on, well apart from that of others."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1


def generators_of(dataloader: DataLoader) -> list[Any]:
    """Generators of random numbers that samplers and data set keep, in a fixed order."""
    parts = dataloader.sampler, dataloader.batch_sampler, dataloader.generator, dataloader.dataset
    return [thing for _, thing in walk(*parts) if isinstance(thing, GENERATORS)]


def seed_epoch(
    dataloader: DataLoader, generators: list[Any], seed: int, epoch: int, diff_rank_seed: bool
) -> None:
    """Seeds this process and the data workers for an epoch.

    Workers that persist would go on with their old numbers, so they are started again. A
    ``worker_init_fn`` that is not mmengine's is the user's and is left as it is.

    Args:
        dataloader: The training data.
        generators: Of ``generators_of(dataloader)``: they would go on from epoch to epoch, and no
            checkpoint has them.
        seed: Of the run.
        epoch: Its number.
        diff_rank_seed: Whether processes have seeds of their own.
    """
    seed = derived_seed(seed, epoch)
    set_random_seed(seed, diff_rank_seed=diff_rank_seed)
    for number, generator in enumerate(generators):
        seed_generator(generator, derived_seed(seed, number))
    start: Any = dataloader.worker_init_fn
    if getattr(start, 'func', None) is worker_init_fn:
        options = {**start.keywords, 'rank': get_rank(), 'seed': seed}
        dataloader.worker_init_fn = partial(start.func, **options)
        restart_workers(dataloader)


def has_stated_seed(dataloader: DataLoader | dict) -> bool:
    """Whether the config of training data states the seed of its sampler."""
    return isinstance(dataloader, dict) and 'seed' in dataloader.get('sampler', {})


class Seeds:
    """Seeds the epochs and iterations of a run.

    Args:
        runner: The runner.
        dataloader: The training data.
        is_stated: Whether its sampler has a seed of the user's.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader, is_stated: bool) -> None:
        self._runner, self._dataloader = runner, dataloader
        self._sampler_follows = hasattr(dataloader.sampler, 'seed') and not is_stated

    @cached_property
    def _generators(self) -> list[Any]:
        return generators_of(self._dataloader)

    def epoch(self, epoch: int) -> None:
        """Before an epoch."""
        seed = shared_seed(self._runner)
        by_rank = has_seeds_by_rank(self._runner)
        seed_epoch(self._dataloader, self._generators, seed, epoch, by_rank)
        if self._sampler_follows:  # a resumed run has the seed of its checkpoint
            sampler: Any = self._dataloader.sampler
            sampler.seed = seed

    def new_data(self, epoch: int) -> None:
        """Before an epoch with another pipeline: its generators are the ones to be seeded."""
        vars(self).pop('_generators', None)
        self.epoch(epoch)

    def iteration(self, epoch: int, idx: int) -> None:
        """Before an iteration of an epoch."""
        seed_iteration(shared_seed(self._runner), epoch, idx, has_seeds_by_rank(self._runner))


def seed_generator(generator: Any, seed: int) -> None:
    """Seeds a generator of torch, NumPy or Python."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed)


def seed_iteration(seed: int, epoch: int, batch_idx: int, diff_rank_seed: bool) -> None:
    """Seeds this process for an iteration, as mmengine's ``set_random_seed`` does for a run."""
    seed = derived_seed(seed, epoch, batch_idx + 1) + get_rank() * diff_rank_seed
    random.seed(seed)
    np.random.seed(seed)
    if get_device() == 'cpu':  # torch.manual_seed takes 0.5 ms to note for a GPU that is not there
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leaves the random states of this process as they were."""
    ours, theirs = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)
