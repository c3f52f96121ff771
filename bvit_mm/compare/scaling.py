# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Methods whose early training stages see whole images, but small ones."""

from itertools import groupby
from typing import Any

from mmengine.config import Config
from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.datasets.transforms import RandAugment
from mmpretrain.registry import DATA_SAMPLERS, TRANSFORMS

from ..building import build_to_count
from ..config_types import builds
from ..elastic import ElasticBackbone, find_backbone
from ..training_stages import TrainingStage, per_level
from .changes import Changes, MakesChanges, shared, with_switch_hook

UNITS = ('heads', 'hidden')
FIRST_SIDE = 4 / 7  # of the first stage's images, as a share of the whole side

# EfficientTrain++'s: of the images of each tenth of the budget (96 to 224 pixels of 224).
TENTHS = [3 / 7] * 2 + [5 / 7] * 4 + [6 / 7] * 2 + [1.0] * 2
TENTHS_WITH_WINDOWS = [3 / 7] * 2 + [5 / 7] * 4 + [1.0] * 4  # windows of 3, 5 and 7 tokens


def scaled(grows: bool) -> MakesChanges:
    """Each training stage sees whole images scaled down, in the first to 4/7 of their sides.

    From stage to stage the side grows by the same factor. Swin's windows grow with it, as many as
    the whole network has.

    Args:
        grows: Whether heads and hidden units grow as well; if not, they are whole from the start.
    """

    def changes(cfg: Config, share: float) -> Changes:
        backbone = find_backbone(build_to_count(cfg.model))
        count = backbone.num_training_stages
        if count == 1:
            raise ValueError('scaling needs model.backbone.training_stages, two or more')
        stages: list[dict[str, Any]] = []
        for k, stage in enumerate(backbone.training_stages):
            side = FIRST_SIDE ** (1 - k / (count - 1))
            values = {**_units(stage, grows), **_seen(side, backbone.whole)}
            if values not in stages:
                stages.append(values)
        return {'model.backbone.training_stages': stages}

    return changes


def efficient_train(grows: bool) -> MakesChanges:
    """EfficientTrain++'s curriculum (Wang et al., 2024, arXiv 2405.08768).

    Whole images grow over ten training stages of equal cost, and so does the magnitude of
    RandAugment, 0 to 9. The learning rate goes by the spent budget; augmentation is not repeated.
    Without RandAugment in the training pipeline, stages that would be alike are one.

    Args:
        grows: Whether heads and hidden units grow with the images, from those of the config's
            first training stage to all; if not, they are whole from the start.
    """

    def changes(cfg: Config, share: float) -> Changes:
        shapes = _shapes_of_tenths(find_backbone(build_to_count(cfg.model)), grows)
        shares, recipes = [0.1] * 10, [dict(magnitude=i) for i in range(10)]
        if not _augments(cfg):
            groups = [list(same) for _, same in groupby(shapes)]
            shapes, shares = [each[0] for each in groups], [len(each) / 10 for each in groups]
        made = {
            'model.backbone.training_stages': shapes,
            **with_switch_hook(cfg, recipes=recipes if _augments(cfg) else None),
            **shared(shares),
            'train_cfg.schedule': 'budget',
        }
        if builds(cfg.train_dataloader.get('sampler'), DATA_SAMPLERS, RepeatAugSampler):
            sampler = dict(_delete_=True, type='DefaultSampler', shuffle=True)
            made['train_dataloader.sampler'] = sampler
        return made

    return changes


def _shapes_of_tenths(backbone: ElasticBackbone, grows: bool) -> list[dict[str, Any]]:
    whole, stages = backbone.whole, backbone.training_stages
    sides = TENTHS_WITH_WINDOWS if 'window' in whole.keys else TENTHS
    sizes = sorted(set(sides))
    shapes = []
    for side in sides:
        # Spread over the sizes, the first stage at the first and the last at the last.
        k = round(sizes.index(side) * (len(stages) - 1) / (len(sizes) - 1))
        shapes.append({**_units(stages[k], grows), **_seen(side, whole)})
    return shapes


def _units(stage: TrainingStage, grows: bool) -> dict[str, Any]:
    """The heads and hidden units of a stage, if they grow; what is left out is whole."""
    return {key: getattr(stage, key) for key in stage.keys if grows and key in UNITS}


def _seen(side: float, whole: TrainingStage) -> dict[str, Any]:
    """What a stage sets to see images scaled down.

    Args:
        side: Of the images, about, as a share of the whole side. Of windows, the nearest whole one
            counts.
        whole: The whole network.
    """
    values: dict[str, Any] = {}
    if 'window' in whole.keys:
        total = per_level(whole.window, len(whole.hidden))
        values['window'] = tuple(max(1, round(n * side)) for n in total)
        side = values['window'][0] / total[0]
    values['grid'] = tuple(max(1, round(n * side)) for n in whole.grid)
    return {**values, 'view': 'scale'}


def _augments(cfg: Config) -> bool:
    steps = cfg.train_dataloader.dataset.get('pipeline') or ()
    return any(builds(step, TRANSFORMS, RandAugment) for step in steps)
