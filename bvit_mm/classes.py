# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The data must not have more classes than the model's heads tell apart."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from .processes import unwrapped
from .registry import HOOKS

# Where mmpretrain, mmdet and mmseg have heads that classify; a region proposal head does not.
HEADS = (
    'head',
    'bbox_head',
    'roi_head.bbox_head',
    'roi_head.mask_head',
    'decode_head',
    'auxiliary_head',
)


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Raises ValueError if a dataset has more classes than a head of the model has outputs for."""
    model = unwrapped(model)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    for place, outputs in _class_counts(model):
        if len(classes) > outputs:
            raise ValueError(
                f'the training data has {len(classes)} classes ({", ".join(classes[:3])}, ...), '
                f'but model.{place} has num_classes={outputs}; give '
                f'model.{place}.num_classes={len(classes)} (of a classifier that mixes images, '
                'also data_preprocessor.num_classes)'
            )


def _class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    modules = dict(model.named_modules())
    for place in HEADS:
        outputs = getattr(modules.get(place), 'num_classes', None)
        if isinstance(outputs, int):
            yield place, outputs


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Checks before the first iteration that heads have enough classes, in any train loop.

    ``BudgetedTrainLoop`` does so by itself. Elsewhere the first label that is too large raises an
    error that names neither.
    """

    def before_train(self, runner: Runner) -> None:
        check_classes(runner.model, runner.train_dataloader.dataset)
