# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a model costs in each training stage, and the plan that a budget buys for it."""

import inspect
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn
from torch.utils.data import DataLoader

from .building import build_to_count
from .config_types import builds
from .data_share import check_share
from .elastic import ElasticBackbone, find_backbone
from .plan import ALL_DATA, Plan, make_plan
from .processes import unwrapped
from .registry import DATA_SAMPLERS, HOOKS, LOOPS
from .subset import SubsetSampler
from .subset_hook import SubsetHook

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


def classifier_flops(model: nn.Module) -> int:
    """Multiply-adds of the linear layers of ``model.head``, which see an image once."""
    head = getattr(model, 'head', None)
    if head is None:
        return 0
    return sum(m.weight.numel() for m in head.modules() if isinstance(m, nn.Linear))


def stage_gflops(model: nn.Module) -> tuple[float, ...]:
    """Forward GFLOPs of one image in each training stage, classifier included."""
    model = unwrapped(model)
    backbone, classifier = find_backbone(model), classifier_flops(model)
    return tuple(
        (backbone.flops(k) + classifier) / 1e9 for k in range(backbone.num_training_stages)
    )


def plan_for(model: nn.Module, subset: dict[str, Any] | None = None, /, **options: Any) -> Plan:
    """The plan of a model.

    Args:
        model: A model with an elastic backbone.
        subset: Of ``subset_of``; if None, all data is trained on.
        **options: Others of ``make_plan``.

    Raises:
        ValueError: If there is no such option, or no such plan.
    """
    subset = ALL_DATA if subset is None else subset
    named = inspect.signature(make_plan).parameters
    known = [name for name in named if name not in ('gflops', *ALL_DATA)]
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f'train_cfg has {name}={value!r}, which is not known; give {", ".join(known)} or '
                f'{", ".join(LOOP_ONLY[1:])}'
            )
    return make_plan(stage_gflops(model), **options, **subset)


def subset_of(dataloader: DataLoader | dict | None, hooks: Iterable[Hook]) -> dict[str, Any]:
    """What of the data a run trains on, and how often it selects that at a cost.

    Args:
        dataloader: Of the training data, or its config.
        hooks: Of the run.

    Returns:
        ``data_share`` and ``selection_interval`` of ``make_plan``.
    """
    if isinstance(dataloader, dict):
        sampler = dataloader.get('sampler') or {}
        is_ours = builds(sampler, DATA_SAMPLERS, SubsetSampler)
        share = sampler.get('share') if is_ours else 1.0
    else:
        sampler = getattr(dataloader, 'sampler', None)
        share = sampler.share if isinstance(sampler, SubsetSampler) else 1.0
    charged = [hook.charged_interval for hook in hooks if isinstance(hook, SubsetHook)]
    return dict(data_share=check_share(share), selection_interval=next(iter(charged), None))


def is_budgeted(cfg: Config) -> bool:
    """Whether a config trains with ``BudgetedTrainLoop``."""
    return builds(cfg.get('train_cfg'), LOOPS, LOOP)


def plan_of_config(cfg: Config, **changes: Any) -> tuple[Plan, ElasticBackbone]:
    """The plan that ``BudgetedTrainLoop`` will make of a config, and the backbone it is for.

    Args:
        cfg: A training config.
        **changes: Replace options of its ``train_cfg``.

    Raises:
        ValueError: If its ``train_cfg`` is no ``BudgetedTrainLoop``, or has no such plan.
        ImportError: If it asks for imports that fail.
        KeyError: If the model has a type that is not known.
    """
    if cfg.get('custom_imports'):  # options may have added some since the file was read
        import_modules_from_strings(**cfg.custom_imports)
    train_cfg = cfg.get('train_cfg')
    if not is_budgeted(cfg) or 'by_epoch' in train_cfg:
        raise ValueError(
            f'train_cfg={train_cfg} is not that of a budgeted run alone; give '
            f'train_cfg=dict(_delete_=True, type={LOOP!r}, budget=0.5)'
        )
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build_to_count(cfg.model)
    hooks = [
        HOOKS.build({name: value for name, value in hook.items() if name != 'priority'})
        for hook in cfg.get('custom_hooks') or []
        if builds(hook, HOOKS, SubsetHook)
    ]
    subset = subset_of(cfg.get('train_dataloader'), hooks)
    options = {name: value for name, value in train_cfg.items() if name not in LOOP_ONLY}
    return plan_for(model, subset, **{**options, **changes}), find_backbone(model)
