# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A training step: compiled if that was asked for, on the batch whole or in parts."""

import copy
from typing import Any

import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ..elastic import images_of_training
from ..mmengine_gaps import is_compiled, set_inner_count
from ..wrapped import optim_wrappers
from .randomness import kept_random_state
from .train_in_parts import train_in_parts


class TrainingStep:
    """Trains a batch.

    A training stage that is new is compiled first, by itself: sizes of another stage are not to
    be guessed at as dynamic ones. If compiling fails, the run goes on without it.

    Args:
        runner: The runner.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._compiles = True  # if asked to, until it fails
        self._compiled_stage: int | None = None
        self._has_compiled = False

    def __call__(self, data_batch: Any, stage: int, parts: int) -> dict[str, Tensor]:
        """Trains a batch in a training stage; returns what the model logs."""
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        if parts > 1 or not self._compiles or not is_compiled(model):
            return self.eagerly(model, data_batch, parts)
        if self._compiled_stage != stage:
            return self._compile(data_batch, stage, parts)
        with images_of_training(model):
            return model.train_step(data_batch, wrapper)

    def eagerly(
        self, model: BaseModel | MMDistributedDataParallel, data_batch: Any, parts: int
    ) -> dict[str, Tensor]:
        """Trains a batch in parts, without compiling anything.

        Args:
            model: That of the runner, or what is wrapped in it.
            data_batch: As the data loader gives it.
            parts: Into how many parts it is divided.
        """
        wrapper = self.runner.optim_wrapper
        with images_of_training(model):
            if parts == 1:
                return type(model).train_step(model, data_batch, wrapper)
            return train_in_parts(model, data_batch, wrapper, parts)

    def forget_compiled(self) -> None:
        """Lets the stage that comes next be compiled anew."""
        self._compiled_stage, self._has_compiled = None, False

    def take_compiled(self) -> bool:
        """Whether something was compiled since the last call."""
        has_compiled, self._has_compiled = self._has_compiled, False
        return has_compiled

    def _compile(self, data_batch: Any, stage: int, parts: int) -> dict[str, Tensor]:
        torch.compiler.reset()
        self._compiled_stage, self._has_compiled = stage, True
        unused = copy.deepcopy(data_batch)  # preprocessing writes into samples
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        for each in optim_wrappers(self.runner):
            make_groups_plain_(each.optimizer)
        count = wrapper.inner_count
        pending = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        from torch._dynamo.exc import TorchDynamoException  # takes seconds, and few need it

        try:
            with kept_random_state(), images_of_training(model):
                return model.train_step(data_batch, wrapper)
        except TorchDynamoException as error:
            reason = ' '.join(str(error).split())[:200]
            self.runner.logger.warning(
                f'torch.compile failed in training stage {stage + 1} '
                f'({type(error).__name__}: {reason}); going on without it'
            )
        self._compiles = False
        set_inner_count(wrapper, count)
        for param, gradient in zip(model.parameters(), pending):
            param.grad = gradient
        return self.eagerly(model, unused, parts)


def make_groups_plain_(optimizer: Optimizer) -> None:
    """Lets torch.compile read an optimizer's groups: ``paramwise_cfg`` makes them ConfigDicts.

    Of these torch 2.13 says that they have no ``items``, and compiles nothing.
    """
    for i, group in enumerate(optimizer.param_groups):
        optimizer.param_groups[i] = dict(group)
