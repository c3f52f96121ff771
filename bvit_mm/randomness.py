# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Random numbers that a resumed run draws again as an uninterrupted one.

mmengine seeds once, at the start, and does not save random states. Here each epoch is seeded
by its number, in the process and in the data workers, so that a run resumed at an epoch draws
what the uninterrupted one did; a checkpoint in the middle of an epoch keeps the states.
"""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed below 2^31 for an epoch, well apart from those of other epochs and seeds."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]) >> 1


def seed_epoch(dataloader: DataLoader, seed: int, epoch: int, diff_rank_seed: bool) -> None:
    """Seeds this process and the data workers for an epoch.

    Workers that persist would go on with their old numbers, so they are started again. A
    ``worker_init_fn`` that is not mmengine's is the user's and is left as it is.
    """
    seed = epoch_seed(seed, epoch)
    set_random_seed(seed, diff_rank_seed=diff_rank_seed)
    if getattr(dataloader.worker_init_fn, 'func', None) is worker_init_fn:
        dataloader.worker_init_fn = partial(
            worker_init_fn,
            **{**dataloader.worker_init_fn.keywords, 'rank': get_rank(), 'seed': seed},
        )
        dataloader._iterator = None


def random_state() -> dict[str, Any]:
    """The random states of this process, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(name, keys.tolist(), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    )


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what ``random_state`` returned."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
