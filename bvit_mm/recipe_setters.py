# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a recipe may change of a run: one row each in ``SETTERS``."""

from collections.abc import Callable
from math import inf
from numbers import Real
from typing import Any, NamedTuple

from mmengine.dataset import Compose
from mmengine.runner import Runner
from mmpretrain.models.utils.batch_augments import RandomBatchAugment
from mmpretrain.registry import MODELS
from torch import nn

from .drop_path import rates_of, set_rates, with_rate
from .elastic import find_backbone
from .mmengine_gaps import restart_workers
from .pipelines import Pipelines, check_replacement, data_sets, with_erasing, with_magnitude
from .wrapped import unwrapped

Write = Callable[[Runner, Any], None]


def _replace(own: Any, value: Any) -> Any:
    return value


class Setter(NamedTuple):
    """One thing that a recipe may change.

    Attributes:
        build: From what a config states to what ``change`` takes; it raises what is wrong with it.
        read: What a run trains with.
        write: Lets it train with something else. Setters with the same one change the same thing,
            one after the other.
        change: From what a run would train with, and what was built, to what it trains with. It
            leaves the former as it is.
    """

    build: Callable[[Any], Any]
    read: Callable[[Runner], Any]
    write: Write
    change: Callable[[Any, Any], Any] = _replace


def _build_augments(value: dict | None) -> RandomBatchAugment | None:
    if value is None or isinstance(value, RandomBatchAugment):
        return value
    if not isinstance(value, dict):
        raise ValueError(
            "give a dict such as dict(augments=[dict(type='Mixup', alpha=0.8)]), or None"
        )
    return RandomBatchAugment(**value)


def _read_augments(runner: Runner) -> RandomBatchAugment | None:
    return unwrapped(runner.model).data_preprocessor.batch_augments


def _write_augments(runner: Runner, augments: RandomBatchAugment | None) -> None:
    preprocessor = unwrapped(runner.model).data_preprocessor
    if augments is not None and not preprocessor.to_onehot:
        raise ValueError(
            'mix labels, which model.data_preprocessor hands on only with to_onehot=True; give '
            'dict(to_onehot=True, num_classes=N)'
        )
    preprocessor.batch_augments = augments


def _build_pipeline(value: Any) -> Compose:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("give a list of transforms, as train_dataloader.dataset.pipeline's")
    return Compose(value)


def _read_pipelines(runner: Runner) -> Pipelines:
    dataset = runner.train_dataloader.dataset
    found = [each.pipeline for each in data_sets(dataset)]
    if not found:
        raise ValueError(
            f'changes the pipeline of the training data, but {type(dataset).__name__} has none; '
            'leave it out'
        )
    return found


def _write_pipelines(runner: Runner, pipelines: Pipelines) -> None:
    for dataset, pipeline in zip(data_sets(runner.train_dataloader.dataset), pipelines):
        dataset.pipeline = pipeline
    restart_workers(runner.train_dataloader)  # they have copies of the data set


def _change_pipelines(own: Pipelines, pipeline: Compose) -> Pipelines:
    for each in own:
        check_replacement(each, pipeline)
    return [pipeline] * len(own)


def _number(is_allowed: Callable[[float], bool], text: str) -> Callable[[Any], float]:
    """Builds a number that is allowed, or says which are."""

    def build(value: Any) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not is_allowed(value):
            raise ValueError(f'give {text}')
        return value

    return build


_build_magnitude = _number(
    lambda level: 0 <= level < inf, 'a level of RandAugment, from 0 to its total_level'
)
_build_erasing = _number(lambda share: 0 <= share <= 1, 'a probability, 0 to 1')
_build_drop_path = _number(lambda rate: 0 <= rate < 1, 'a rate, at least 0 and below 1')


def _read_drop_path(runner: Runner) -> list[float]:
    return rates_of(find_backbone(runner.model))


def _write_drop_path(runner: Runner, rates: list[float]) -> None:
    set_rates(find_backbone(runner.model), rates)


def _build_loss(value: Any) -> nn.Module:
    if not isinstance(value, dict):
        raise ValueError("give a dict such as dict(type='LabelSmoothLoss', label_smooth_val=0.1)")
    return MODELS.build(value)


def _keeper(runner: Runner) -> Any:
    """What keeps the loss, as in mmpretrain's ``SwitchRecipeHook``, also of a distributed model."""
    model = unwrapped(runner.model)
    return model if hasattr(model, 'loss_module') else model.head


def _read_loss(runner: Runner) -> nn.Module:
    return _keeper(runner).loss_module


def _change_loss(own: nn.Module, loss: nn.Module) -> nn.Module:
    for each in (own, loss):
        if [*each.parameters(), *each.buffers()]:
            raise ValueError(
                f'changes the loss, but {type(each).__name__} keeps numbers from batch to batch, '
                'which checkpoints of other stages would not have; leave it out, or give losses '
                'without'
            )
    return loss


def _write_loss(runner: Runner, loss: nn.Module) -> None:
    classes = getattr(getattr(unwrapped(runner.model), 'head', None), 'num_classes', None)
    for module in loss.modules():
        weights = getattr(module, 'class_weight', None)
        count = getattr(module, 'num_classes', None) if weights is None else len(weights)
        if None not in (classes, count) and count != classes:
            raise ValueError(
                f'is for {count} classes, but model.head has {classes}, in all training stages; '
                f'give a loss for {classes}'
            )
    _keeper(runner).loss_module = loss


SETTERS: dict[str, Setter] = {  # in the order in which they change the same thing
    'train_pipeline': Setter(_build_pipeline, _read_pipelines, _write_pipelines, _change_pipelines),
    'magnitude': Setter(_build_magnitude, _read_pipelines, _write_pipelines, with_magnitude),
    'erasing': Setter(_build_erasing, _read_pipelines, _write_pipelines, with_erasing),
    'batch_augments': Setter(_build_augments, _read_augments, _write_augments),
    'drop_path_rate': Setter(_build_drop_path, _read_drop_path, _write_drop_path, with_rate),
    'loss': Setter(_build_loss, _read_loss, _write_loss, _change_loss),
}
