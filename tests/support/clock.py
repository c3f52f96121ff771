# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A run whose clock is drawn by the test."""

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.hours import Pace
from bvit_mm.meter import Clock

from .runs import BATCHES, build
from .variants import NO_LOGS


class DrawnClock:
    now = 1000.0

    def __call__(self):
        return self.now


@HOOKS.register_module(force=True)
class PassTimeHook(Hook):
    """Iterations take 1, 2 and 4 seconds, longer from ``slow`` on; validating and saving 0.5.

    The first of a session may take longer, and every tenth checkpoint.
    """

    priority = 'VERY_LOW'
    seconds = (1.0, 2.0, 4.0)

    def __init__(self, clock, slow=math.inf, factor=1.0, first=0.0, tenth=0.0):
        self.clock, self.slow, self.factor = clock, slow, factor
        self.first, self.tenth = first, tenth
        self.rates = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        factor = self.factor if self.clock.now - 1000 > self.slow else 1.0
        self.clock.now += factor * self.seconds[runner.train_loop.stage] + self.first
        self.first = 0.0
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_val_epoch(self, runner, metrics=None):
        self.clock.now += 0.5

    def after_train_epoch(self, runner):
        rare = (runner.epoch + 1) % 10 == 0 or self.is_last_train_epoch(runner)
        self.clock.now += 0.5 + self.tenth * rare


def patched_clock(monkeypatch):
    """What the loop takes for the time, also while it times the stages."""
    clock = DrawnClock()
    monkeypatch.setattr(Clock, 'read', lambda _: clock())

    def time_stages(runner, train_step, budget, *args):
        budget.pace = Pace(tuple(BATCHES * s for s in PassTimeHook.seconds), 0.5, val_interval=1)

    monkeypatch.setattr('bvit_mm.loop.time_stages', time_stages)
    return clock


def run(tmp_path, clock, budget, resume=False, more=(), **slow):
    hook = dict(type='PassTimeHook', clock=clock, **slow)
    changes = {
        **dict(more),
        'train_cfg.epochs': None,
        'train_cfg.budget': budget,
        'custom_hooks': [dict(type='bvit_mm.StageSwitchHook')],
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        **NO_LOGS,
        'resume': resume,
    }
    runner = build(tmp_path, **changes)
    runner.register_hook(HOOKS.build(hook))
    runner.train()
    return runner
