# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a model costs in each training stage, and the plan that a budget buys for it."""

import inspect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn
from torch.utils.data import DataLoader

from .budget import Budget, read_budget
from .building import build_to_count
from .config_types import builds, class_of
from .elastic import ElasticBackbone, find_backbone
from .plan import Charge, Plan, make_plan
from .registry import DATA_SAMPLERS, HOOKS, LOOPS
from .run_hook import RunHook
from .slim.phases import PHASES, add_phases_, read_slimming
from .training_stages import TrainingStage, check_distinct
from .wrapped import unwrapped

LOOP = 'bvit_mm.BudgetedTrainLoop'
OF_THE_RUN = ('gflops', 'epoch_share', 'charges')  # what no config states of a plan


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


def present_gflops(model: nn.Module) -> float:
    """Forward GFLOPs of one image in the training stage that the network is at, with classifier."""
    backbone = find_backbone(model)
    return (backbone.flops(backbone.training_stage) + classifier_flops(model)) / 1e9


def budget_for(
    model: nn.Module,
    dataloader: DataLoader | dict | None = None,
    hooks: Sequence[Hook] = (),
    /,
    **options: Any,
) -> tuple[Budget, Plan]:
    """The budget and the plan of a run.

    Args:
        model: A model with an elastic backbone.
        dataloader: Of the training data, or its config.
        hooks: Of the run. ``RunHook``s are asked for charges and recipes.
        **options: Those of ``make_plan`` that configs state.

    Raises:
        ValueError: If there is no such option, or no such plan, or two training stages differ in
            nothing.
    """
    known = [name for name in inspect.signature(make_plan).parameters if name not in OF_THE_RUN]
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f'train_cfg has {name}={value!r}, which is not known; give {", ".join(known)} or '
                f'{", ".join(loop_options())}'
            )
    backbone = find_backbone(model)
    slimming, most = read_slimming(options.pop('slim', None)), None
    if slimming is not None:
        most = add_phases_(backbone, slimming, classifier_flops(unwrapped(model)))
        options['slim'] = slimming.shares
    stages = grown_stages(backbone)
    recipes = [hook.recipes for hook in hooks if isinstance(hook, RunHook) and hook.recipes]
    check_distinct(stages, *(each.of_stages(len(stages)) for each in recipes[:1]))
    gflops = stage_gflops(model)
    _check_rising(gflops, stages)
    if most is not None:  # what the slimmed network may cost; which units it has is not known
        gflops = (*gflops[:-1], most / 1e9)
    of_data = dict(epoch_share=epoch_share(dataloader), charges=charges_of(hooks))
    return read_budget(gflops, **of_data, **options)


def grown_stages(backbone: ElasticBackbone) -> tuple[TrainingStage, ...]:
    """The training stages that configs state: without those of searching and retraining."""
    return backbone.training_stages[: -len(PHASES) if backbone.has_phases else None]


def _check_rising(gflops: Sequence[float], stages: Sequence[TrainingStage]) -> None:
    """Raises ValueError if a training stage costs less than the one before it."""
    for k, (before, now) in enumerate(pairwise(gflops[: len(stages)]), start=2):
        if now < before:
            raise ValueError(
                f'training stage {k} ({stages[k - 1]}) costs {now:.4g} GFLOPs, less than '
                f'{before:.4g} of training stage {k - 1} ({stages[k - 2]}). A cropped stage makes '
                'all patches of an image, a scaled one only its own; give it a larger grid, or '
                f"view='scale' to training stage {k - 1}"
            )


def loop_options() -> list[str]:
    """The options of a budgeted ``train_cfg`` that are not about the plan."""
    parameters = inspect.signature(LOOPS.get(LOOP)).parameters.values()
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return [name for name in named if name not in ('runner', 'dataloader')]


def epoch_share(dataloader: DataLoader | dict | None) -> float:
    """What an epoch costs, as a share of one that reads all data; its sampler may know.

    Args:
        dataloader: Of the training data, or its config.
    """
    if isinstance(dataloader, dict):
        sampler = dataloader.get('sampler') or {}
        kind = class_of(sampler, DATA_SAMPLERS)
    else:
        sampler = getattr(dataloader, 'sampler', None)
        kind = type(sampler)
    share = getattr(kind, 'epoch_share', None)
    return 1.0 if share is None else share(sampler)


def charges_of(hooks: Iterable[Hook]) -> tuple[Charge, ...]:
    """What the hooks of a run cost besides training."""
    asked = [hook for hook in hooks if isinstance(hook, RunHook)]
    return tuple(charge for hook in asked for charge in hook.charges())


def is_budgeted(cfg: Config) -> bool:
    """Whether a config trains with ``BudgetedTrainLoop``."""
    return builds(cfg.get('train_cfg'), LOOPS, LOOP)


def budget_of_config(cfg: Config, **changes: Any) -> tuple[Budget, Plan, ElasticBackbone]:
    """The budget and the plan that ``BudgetedTrainLoop`` will make of a config.

    Args:
        cfg: A training config.
        **changes: Replace options of its ``train_cfg``.

    Returns:
        The budget, the plan, and the backbone that it is for.

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
        if builds(hook, HOOKS, RunHook)
    ]
    others = ('type', *loop_options())
    options = {name: value for name, value in train_cfg.items() if name not in others}
    loader = cfg.get('train_dataloader')
    budget, plan = budget_for(model, loader, hooks, **{**options, **changes})
    return budget, plan, find_backbone(model)


def plan_of_config(cfg: Config) -> tuple[Plan, ElasticBackbone]:
    """The plan and the backbone of ``budget_of_config``."""
    return budget_of_config(cfg)[1:]
