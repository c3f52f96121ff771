# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What is wrapped: a model by what distributes it, an optimizer by what accumulates for it."""

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn


def unwrapped(model: nn.Module) -> BaseModel:
    """The model itself, without what distributes it over processes."""
    return model.module if is_model_wrapper(model) else model


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """Those of all optimizers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def optimizers(runner: Runner) -> list[torch.optim.Optimizer]:
    """All optimizers of a run."""
    return [wrapper.optimizer for wrapper in optim_wrappers(runner)]
