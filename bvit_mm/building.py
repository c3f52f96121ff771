# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Models built from configs, without training them."""

from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn


def build_to_count(model: dict) -> nn.Module:
    """Builds a model silently, just to count its FLOPs; the training run logs its own."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        return MODELS.build(model)
    finally:
        logger.setLevel(level)


def model_of(runner: Runner) -> nn.Module:
    """The model of a runner; ``FlexibleRunner`` builds it only after the train loop."""
    return build_to_count(runner.model) if isinstance(runner.model, dict) else runner.model


def model_config(cfg: Config) -> dict[str, Any]:
    """The model of a config, with the data preprocessor that mmpretrain's tools give it.

    They allow ``data_preprocessor`` at the top of a config, where only the runner finds it.
    """
    model = cfg.model.to_dict()
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
    return model
