# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Changes of a config, and what several methods need to make them."""

from collections.abc import Callable
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
