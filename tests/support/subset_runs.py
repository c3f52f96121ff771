# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs on a subset."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .runs import build
from .variants import SAMPLER, SWITCH

DRAW = dict(type='bvit_mm.SubsetHook', selection='random', interval=2)


RANDOM = {'train_dataloader.sampler': SAMPLER, 'custom_hooks': [SWITCH, DRAW]}


@HOOKS.register_module(force=True)
class SeeSubsetHook(Hook):
    """Writes down, of each epoch, the subset, its weights and the losses."""

    priority = 'LOWEST'

    def __init__(self):
        self.subsets, self.weights, self.read = [], [], []

    def before_train_epoch(self, runner):
        subset, weights = runner.train_dataloader.sampler.selected
        self.subsets.append(subset.tolist())
        self.weights.append(weights.tolist())
        self.read.append([])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        labels = torch.cat([sample.gt_label for sample in data_batch['data_samples']])
        self.read[-1].extend(labels.tolist())


SEE = dict(type='SeeSubsetHook')


def run(work_dir, **changes):
    runner = build(work_dir, **changes)
    runner.train()
    return runner, next((h for h in runner.hooks if isinstance(h, SeeSubsetHook)), None)
