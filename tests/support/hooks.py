# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Hooks that watch a run, or end it."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.cost import find_backbone


class Stop(Exception):
    """Ends a run after an iteration."""


@HOOKS.register_module(force=True)
class StopHook(Hook):
    priority = 'LOWEST'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            raise Stop


@HOOKS.register_module(force=True)
class RecordHook(Hook):
    """Writes down what is active and how large the learning rate is."""

    priority = 'LOWEST'

    def __init__(self):
        self.train, self.val, self.rates, self.losses = [], [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.train.append(find_backbone(runner.model).training_stage)
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_val_epoch(self, runner, metrics=None):
        self.val.append(find_backbone(runner.model).training_stage)
