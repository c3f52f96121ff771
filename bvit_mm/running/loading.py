# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How the training data of a run is loaded, as far as advice needs to know."""

import os
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader

from ..loading.resized_files import are_resized, folders_of
from ..pipelines import data_sets, transforms_of
from ..waiting import Loading


def loading_of(loader: DataLoader) -> Loading:
    """How a process of this run gets its training data."""
    sets = data_sets(loader.dataset)
    transforms = [step for each in sets for step in transforms_of(each.pipeline)]
    decodes = any(isinstance(each, LoadImageFromFile) for each in transforms)
    return Loading(
        workers=loader.num_workers,
        cores=max(1, _cores() // _processes_here()),
        reads_large_files=decodes and not are_resized(folders_of(loader.dataset)),
        makes_whole_size=any(map(_has_one_of_ours, transforms)),
    )


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processes_here() -> int:
    """Of this run on this machine, as torchrun says; where nothing does, all are taken to be here.

    mmengine's ``get_local_size`` needs a process group that no runner makes.
    """
    return int(os.environ.get('LOCAL_WORLD_SIZE') or get_world_size())


def _has_one_of_ours(transform: Any) -> bool:
    kind = type(transform)
    return kind.__name__ == 'RandomResizedCrop' and not kind.__module__.startswith('bvit_mm.')
