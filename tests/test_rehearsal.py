# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A trial before a run, and a look at the loss, leave all that can be reached as it was.

And law 8 over the same optimizers, losses and samplers: resumed = uninterrupted, or refused.
"""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, MODELS
from torch import nn

from bvit_mm import hook as hook_file
from bvit_mm.loop import BudgetedTrainLoop

from .optimizers import REFUSED, SERVED
from .reachable import changes, fingerprint
from .runs import build
from .test_resume import SWITCH, assert_same_run, last_file

# An epoch of two batches: 20 images by 10.
SHORT = {
    'train_cfg.epochs': [1, 1, 1],
    'train_dataloader.batch_size': 10,
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'custom_hooks': [SWITCH],
    'default_hooks.logger': dict(type='LoggerHook', interval=100),
}


def random_states():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        np.random.get_state()[1].tolist(),
    )


@pytest.fixture
def watched(monkeypatch):
    """What changes during each trial and each look at the loss, of all that a run reaches."""
    seen = []

    def everything(runner):
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_loop.dataloader)
        drawing = [(each.sampler, each.batch_sampler, each.dataset) for each in loaders]
        hooks = [vars(hook) for hook in runner.hooks]
        parts = runner.model, runner.optim_wrapper, runner.param_schedulers, runner.message_hub
        return *parts, drawing, hooks

    def watch(function, runner, *args):
        states = random_states()
        loop = runner.train_loop
        before = fingerprint(*everything(runner), without=[runner, runner.visualizer, loop])
        result = function(*args)
        assert random_states() == states
        assert len(before) > 500
        seen.append(changes(before))
        return result

    rehearse, loss = BudgetedTrainLoop.rehearse, hook_file._loss
    monkeypatch.setattr(
        BudgetedTrainLoop, 'rehearse', lambda self: watch(rehearse, self.runner, self)
    )
    monkeypatch.setattr(
        hook_file, '_loss', lambda runner, *args: watch(loss, runner, runner, *args)
    )
    return seen


def check(work_dir, watched, **changes):
    """Nothing changes in a trial and four looks; resumed after each epoch it is the same run."""
    changes = {**SHORT, **changes}
    build(work_dir / 'whole', **changes).train()
    assert watched == [[]] * 5
    for epoch in (1, 2):
        file = work_dir / 'whole' / f'epoch_{epoch}.pth'
        build(work_dir / str(epoch), **changes, resume=True, load_from=str(file)).train()
        assert_same_run(last_file(work_dir / str(epoch)), last_file(work_dir / 'whole'))
    assert not any(watched)


@pytest.mark.parametrize('name', SERVED)
def test_optimizers(tmp_path, watched, name):
    check(tmp_path, watched, optim_wrapper=dict(_delete_=True, optimizer=dict(type=f'Table{name}')))


@pytest.mark.parametrize('name', REFUSED)
def test_refused_optimizers(tmp_path, name):
    _, message = REFUSED[name]
    wrapper = dict(_delete_=True, optimizer=dict(type=f'Table{name}'))
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **SHORT, optim_wrapper=wrapper).train()
    assert not list(tmp_path.glob('*.pth'))
