# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Kills a run again and again, at random moments: python -m tests.support.kill_loop FOLDER KILLS

Every iteration saves a checkpoint, so that many of the kills hit one that is being written.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.running.last_checkpoint import last_whole_checkpoint

from .files import differences, forget_times, last_file
from .runs import build
from .variants import EVERY_ITERATION, VARIANTS

CHANGES = {
    **VARIANTS['both'],
    **EVERY_ITERATION,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
    'train_cfg.epochs': [12, 12, 12],
    'train_cfg.val_interval': 9,
}
fork = multiprocessing.get_context('fork')  # what is imported need not be imported again


@HOOKS.register_module()
class SavedHook(Hook):
    """Tells the parent which iteration's checkpoint is complete."""

    priority = 'LOWEST'

    def __init__(self, saved):
        self.saved = saved

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.saved.value = runner.iter + 1


def train(work_dir, saved=None):
    """What a child does."""
    torch.set_num_threads(1)
    os.chdir(work_dir)
    sys.stdout = sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    build.count = os.getpid()  # mmengine names loggers by experiment
    runner = build(work_dir, **CHANGES, resume=True, log_level='ERROR')
    if saved is not None:
        runner.register_hook(SavedHook(saved), 'LOWEST')
    runner.train()


def main(folder, kills):
    """Kills ``kills`` times, and says what was found after each."""
    draw = random.Random(0)
    whole = folder / 'whole'
    whole.mkdir()
    child = fork.Process(target=train, args=(whole,))
    start = time.perf_counter()
    child.start()
    child.join()
    length = time.perf_counter() - start
    expected, found = last_file(whole), []
    forget_times(expected)
    run, at = 0, 0
    while len(found) < kills:
        work_dir = folder / f'killed{run}'
        work_dir.mkdir(exist_ok=True)
        saved = fork.Value('i', at)
        child = fork.Process(target=train, args=(work_dir, saved))
        child.start()
        child.join(draw.uniform(0.1, 0.4) * length)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
        finished = child.exitcode == 0
        last = last_whole_checkpoint(work_dir)
        at = last[1]['meta']['iter'] if last else 0
        assert at >= saved.value, (at, saved.value)
        torn = [f.name for f in work_dir.glob('iter_*.pth') if not is_whole(f)]
        if finished:
            file = last_file(work_dir)
            forget_times(file)
            assert not differences(file, expected)
            run, at = run + 1, 0
        else:
            found.append(dict(run=run, at=at, torn=torn))
    torn = sum(bool(each['torn']) for each in found)
    print(json.dumps(dict(kills=len(found), finished=run, torn=torn)))


def is_whole(file):
    """Whether torch can read a file."""
    try:
        torch.load(file, weights_only=False)
    except Exception:
        return False
    return True


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]))
