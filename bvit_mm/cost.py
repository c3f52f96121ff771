# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a model costs in each training stage, and the plan that a budget buys for it."""

import inspect
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .elastic import ElasticBackbone
from .plan import Plan, make_plan

LOOP = 'bvit_mm.BudgetedTrainLoop'
# Its arguments that are not about the plan.
LOOP_ONLY = (
    'type',
    'val_begin',
    'val_interval',
    'dynamic_intervals',
    'schedule',
    'accumulative_counts',
)


def find_backbone(model: nn.Module) -> ElasticBackbone:
    """The elastic backbone in a model.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, ElasticBackbone)]
    if len(found) != 1:
        backbone = type(getattr(model, 'backbone', model)).__name__
        raise ValueError(
            f'{type(model).__name__} has {len(found)} elastic backbones (its backbone is '
            f'{backbone}), but budgeted training grows exactly one; give the backbone '
            'a type of bvit_mm, such as bvit_mm.ElasticVisionTransformer, with training_stages'
        )
    return found[0]


def classifier_flops(model: nn.Module) -> int:
    """Multiply-adds of the linear layers of ``model.head``, which see an image once."""
    head = getattr(model, 'head', None)
    if head is None:
        return 0
    return sum(m.weight.numel() for m in head.modules() if isinstance(m, nn.Linear))


def stage_gflops(model: nn.Module) -> tuple[float, ...]:
    """Forward GFLOPs of one image in each training stage, classifier included."""
    model = model.module if is_model_wrapper(model) else model
    backbone, classifier = find_backbone(model), classifier_flops(model)
    return tuple(
        (backbone.flops(k) + classifier) / 1e9 for k in range(backbone.num_training_stages)
    )


def plan_for(model: nn.Module, **options: Any) -> Plan:
    """The plan of a model; ``options`` are those of ``make_plan``.

    Raises:
        ValueError: If there is no such option, or no such plan.
    """
    known = [name for name in inspect.signature(make_plan).parameters if name != 'gflops']
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f'train_cfg has {name}={value!r}, which is not known; give {", ".join(known)} or '
                f'{", ".join(LOOP_ONLY[1:])}'
            )
    return make_plan(stage_gflops(model), **options)


def build_to_count(model: dict) -> nn.Module:
    """Builds a model that is only counted, without a word: the one that trains tells of itself."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        return MODELS.build(model)
    finally:
        logger.setLevel(level)


def is_budgeted(cfg: Config) -> bool:
    """Whether a config trains with ``BudgetedTrainLoop``."""
    return (cfg.get('train_cfg') or {}).get('type') == LOOP


def plan_of_config(cfg: Config, **changes: Any) -> tuple[Plan, ElasticBackbone]:
    """The plan that ``BudgetedTrainLoop`` will make of a config, and the backbone it is for.

    Args:
        cfg: A training config.
        **changes: Replace options of its ``train_cfg``.

    Raises:
        ValueError: If its ``train_cfg`` is no ``BudgetedTrainLoop``, or has no such plan.
    """
    train_cfg = cfg.get('train_cfg')
    if not is_budgeted(cfg) or 'by_epoch' in train_cfg:
        raise ValueError(
            f'train_cfg={train_cfg} is not that of a budgeted run alone; give '
            f'train_cfg=dict(_delete_=True, type={LOOP!r}, budget=0.5)'
        )
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build_to_count(cfg.model)
    options = {name: value for name, value in train_cfg.items() if name not in LOOP_ONLY}
    return plan_for(model, **{**options, **changes}), find_backbone(model)
