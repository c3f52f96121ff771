# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Which training stages have their images made at their own size, and why others do not."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.runner import Runner

from ..elastic import ElasticBackbone, find_backbone
from ..pipelines import Pipelines, data_sets, transforms_of
from ..recipe_setters import SETTERS, Write
from ..wrapped import unwrapped
from .stage_size import MAKERS, at_stage_size

PIPELINES, AUGMENTS = SETTERS['train_pipeline'], SETTERS['batch_augments']


def load_views(
    runner: Runner, stages: Sequence[dict[Write, Any]], own: Mapping[Write, Any]
) -> dict[Write, Any]:
    """Lets data workers make images as each training stage sees them, where they can.

    The log says of which stages they do, and why not of the others.

    Args:
        runner: The runner.
        stages: What each stage trains with, by what writes it, where that is not ``own``. Of those
            whose images are made so it gets a pipeline of its own.
        own: What the run trains with otherwise, where any stage changes it.

    Returns:
        What else the run trains with otherwise.
    """
    backbone, dataset = find_backbone(runner.model), runner.train_dataloader.dataset
    partial = [k for k in range(len(stages)) if _sees_part(backbone, k)]
    if not partial or not data_sets(dataset):
        return {}
    pipelines = own[PIPELINES.write] if PIPELINES.write in own else PIPELINES.read(runner)
    preprocessor = unwrapped(runner.model).data_preprocessor
    augments = own.get(AUGMENTS.write, getattr(preprocessor, 'batch_augments', None))
    for k in partial:
        place = f'training stage {k + 1} of {len(stages)}'
        given = stages[k].get(PIPELINES.write, pipelines)
        try:
            made = at_stage_size(given, backbone, k, stages[k].get(AUGMENTS.write, augments))
        except ValueError as reason:
            if backbone.view(k) == 'scale' or _has_maker(given):
                runner.logger.info(f'{place}: images come whole from the data workers: {reason}')
            continue
        stages[k].update({PIPELINES.write: made, write_loads_views: True})
        height, width = backbone.seen_size(k)
        runner.logger.info(f'{place}: data workers make images of {height}x{width} pixels')
    return {PIPELINES.write: pipelines, write_loads_views: False}


def write_loads_views(runner: Runner, loads_views: bool) -> None:
    """Tells the backbone whether data workers make images as the training stage sees them."""
    find_backbone(runner.model).loads_views = loads_views


def _sees_part(backbone: ElasticBackbone, k: int) -> bool:
    return 'view' in backbone.whole.keys and backbone.view(k) != 'whole'


def _has_maker(pipelines: Pipelines) -> bool:
    return any(isinstance(step, MAKERS) for each in pipelines for step in transforms_of(each))
