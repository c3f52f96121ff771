# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs of the shipped configs, short, in bfloat16, on files or images that are drawn."""

import copy
import itertools
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from tests.support.runs import TinyDataset

from .sizes import Family

NUMBERS = itertools.count()


def short_run(
    device: str,
    family: Family,
    work_dir: Path,
    loader: dict[str, Any],
    view: str = 'crop',
    epochs: int = 1,
    **changes: Any,
) -> Runner:
    """A run of a family's config without validation.

    Args:
        device: ``'cuda'``, in bfloat16, or ``'cpu'``.
        family: The family.
        work_dir: Its folder.
        loader: Changes of the loader of training data.
        view: Of all stages but the last.
        epochs: Of each stage.
        **changes: Of the config, besides.
    """
    config = family.read(view)
    config.merge_from_dict(copy.deepcopy({'train_dataloader': loader, **changes}))
    config.update(
        work_dir=str(work_dir),
        experiment_name=f'gpu{next(NUMBERS)}',
        **dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator')),
        **dict.fromkeys(('test_dataloader', 'test_cfg', 'test_evaluator')),
        param_scheduler=[dict(type='bvit_mm.REXLR', convert_to_iter_based=True)],
    )
    stages = len(config.model.backbone.training_stages)
    counts = config.train_cfg.get('accumulative_counts')
    config.train_cfg = ConfigDict(
        type='bvit_mm.BudgetedTrainLoop',
        epochs=[epochs] * stages,
        accumulative_counts=counts,
    )
    if device == 'cuda':  # mmengine has it for GPUs only
        config.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    return Runner.from_cfg(config)


def drawn_images(config: Config, batch: int, number: int) -> dict[str, Any]:
    """A loader of random images that are in memory.

    Args:
        config: Of the network that they are for.
        batch: Images of a step.
        number: Of images in an epoch.
    """
    side = config.model.backbone.img_size
    return dict(
        _delete_=True,
        batch_size=batch,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type=TinyDataset, size=(side, side), number=number),
    )
