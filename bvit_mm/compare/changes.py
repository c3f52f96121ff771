# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Changes of a config, and what several methods need to make them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import Config

from ..config_types import builds
from ..registry import HOOKS
from ..stage_switch_hook import StageSwitchHook

Changes = dict[str, Any]  # as of --cfg-options
# From a config and the share of its full cost that may be spent; None of a time.
MakesChanges = Callable[[Config, Any], Changes]


def with_switch_hook(cfg: Config, **options: Any) -> Changes:
    """Other options of the ``StageSwitchHook`` of a config; other hooks stay.

    Raises:
        ValueError: If there is not exactly one.
    """
    hooks = [dict(hook) for hook in cfg.get('custom_hooks') or []]
    ours = [hook for hook in hooks if builds(hook, HOOKS, StageSwitchHook)]
    if len(ours) != 1:
        raise ValueError('custom_hooks of the config must have one bvit_mm.StageSwitchHook')
    ours[0].update(options)
    return {'custom_hooks': hooks}


def shared(shares: Sequence[float]) -> Changes:
    """Shares of the budget for the training stages, in place of other ways to say their lengths."""
    others = dict.fromkeys(('train_cfg.alpha', 'train_cfg.seed', 'train_cfg.family'))
    return {'train_cfg.shares': list(shares), **others}


def grown(init: str, moments: str) -> MakesChanges:
    """How new weights and their moments start (Table 11)."""

    def changes(cfg: Config, share: Any) -> Changes:
        return with_switch_hook(cfg, init=init, moments=moments)

    return changes


def together(*methods: MakesChanges) -> MakesChanges:
    """Several methods, one after the other: each changes what those before it have made."""

    def changes(cfg: Config, share: Any) -> Changes:
        cfg, found = copy.deepcopy(cfg), {}
        for method in methods:
            more = method(cfg, share)
            cfg.merge_from_dict(more)
            found.update(more)
        return found

    return changes


def whole_network(cfg: Config, share: Any = None) -> Changes:
    """The whole network from the start, for as many epochs as the budget buys.

    Of shares and recipes, which are for training stages, it keeps the recipe of the last one.
    """
    changes: Changes = {'model.backbone.training_stages': None}
    if cfg.train_cfg.get('shares') is not None:
        changes['train_cfg.shares'] = None
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if builds(hook, HOOKS, StageSwitchHook)]
    if any(hook.get('recipes') for hook in hooks):
        changes.update(with_switch_hook(cfg, recipes=list(hooks[0]['recipes'])[-1:]))
    return changes
