# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Signals at bad moments of a run."""

import os
import signal
import threading

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.running.memory import fits
from bvit_mm.running.rehearsal import measure

from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, build
from .support.short_runs import ITERATIONS, NO_VALIDATION, budget
from .support.trainings import log_of
from .support.variants import EVERY_ITERATION, SHORT, SWITCH


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Sends this process signals at a moment, at the given call of it."""

    priority = 'LOWEST'

    def __init__(self, moment, call, signals):
        self.calls = 0

        def send(*args, **kwargs):
            self.calls += 1
            if self.calls == call:
                for each in signals:
                    os.kill(os.getpid(), each)

        setattr(self, moment, send)


TERM, INT = signal.SIGTERM, signal.SIGINT


MOMENTS = {  # of the hook, the call of it, the signals, and the iterations that are saved
    'at once': ('before_train', 1, [TERM], 0),
    'first iteration': ('before_train_iter', 1, [INT], 1),
    'first iteration, after it': ('after_train_iter', 1, [TERM], 1),
    'two in a row': ('after_train_iter', 7, [TERM, INT], 7),
    'the other two': ('after_train_iter', 7, [INT, TERM], 7),
    'three of a kind': ('before_train_iter', 8, [INT, INT, INT], 8),
    'last of an epoch': ('after_train_iter', BATCHES, [TERM], BATCHES),
    'first of a stage': ('before_train_iter', BATCHES + 1, [TERM], BATCHES + 1),
    'between epochs': ('after_train_epoch', 1, [TERM], BATCHES),
    'before validation': ('before_val', 1, [INT], BATCHES),
    'in validation': ('after_val_iter', BATCHES + 2, [TERM], 2 * BATCHES),
    'after validation': ('after_val', 2, [TERM], 2 * BATCHES),
    'while saving': ('before_save_checkpoint', 1, [TERM], BATCHES),
    'while saving the next': ('before_save_checkpoint', 3, [INT, TERM], 2 * BATCHES),
    'last iteration but one': ('before_train_iter', ITERATIONS - 1, [TERM], ITERATIONS - 1),
}


def with_signal(moment, call, signals):
    hook = dict(type='SignalHook', moment=moment, call=call, signals=[int(s) for s in signals])
    return {**SHORT, 'custom_hooks': [SWITCH, hook]}


def is_interrupted(work_dir, runner, number, iterations):
    """Trains until a signal, and finds whole what it left."""
    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 128 + number
    assert [signal.getsignal(each) for each in (TERM, INT)] == handlers
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'interrupted.pth')
    assert not list(work_dir.glob('*.partial'))
    saved = last_file(work_dir)
    assert (
        saved['meta']['iter'] == iterations == sum(saved['meta']['bvit_mm']['ledger']['iterations'])
    )
    assert f'stopped by signal {number} in epoch ' in log_of(runner)
    assert 'from which --resume goes on' in log_of(runner)


@pytest.mark.parametrize('name', MOMENTS)
def test_signal(whole, tmp_path, name):
    """The iteration is finished, a checkpoint saved; resumed, the run is as if never stopped."""
    moment, call, signals, iterations = MOMENTS[name]
    runner = build(tmp_path, **with_signal(moment, call, signals))
    is_interrupted(tmp_path, runner, signals[0], iterations)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


@pytest.mark.parametrize('number', [TERM, INT])
def test_signal_in_the_rehearsal(whole, tmp_path, monkeypatch, number):
    """The handlers stand by then; nothing was trained, and that is saved."""

    def interrupted(*args):
        os.kill(os.getpid(), number)
        return fits(*args)

    monkeypatch.setattr('bvit_mm.running.memory.fits', interrupted)
    is_interrupted(tmp_path, build(tmp_path, **SHORT), number, 0)
    monkeypatch.undo()
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_signal_while_hours_are_timed(tmp_path, monkeypatch):
    """The resumed run keeps what was timed and spent."""

    def interrupted(*args):
        os.kill(os.getpid(), TERM)
        return measure(*args)

    monkeypatch.setattr('bvit_mm.running.rehearsal.measure', interrupted)
    changes = {**budget('4s'), **NO_VALIDATION, 'default_hooks.checkpoint.interval': 1000}
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 0)
    saved = last_file(tmp_path)['meta']['bvit_mm']
    monkeypatch.setattr(
        'bvit_mm.running.rehearsal.measure', lambda *_: pytest.fail('it was timed again')
    )
    runner = build(tmp_path, **changes, resume=True)
    runner.train()
    assert runner.iter > 0
    assert runner.train_loop.ledger.elapsed > saved['ledger']['other']['rehearsal'] > 0


def test_signal_while_another_checkpoint_is_interrupted(whole, tmp_path):
    """A second one while the first is being served does not leave half a file."""
    hook = dict(type='SignalHook', moment='before_save_checkpoint', call=1, signals=[int(INT)])
    changes = with_signal('after_train_iter', 3, [TERM])
    changes['custom_hooks'] = [*changes['custom_hooks'], hook]
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 3)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_interrupted_again_and_again(whole, tmp_path):
    """Each time a little further, at last to the same end."""
    for iterations, call in ((2, 2), (4, 2), (6, 2), (11, 5)):
        changes = with_signal('after_train_iter', call, [TERM])
        is_interrupted(tmp_path, build(tmp_path, **changes, resume=True), TERM, iterations)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


@pytest.mark.parametrize(
    'moment, call',
    [
        ('before_train_iter', ITERATIONS),
        ('after_train_iter', ITERATIONS),
        ('after_train_epoch', 3),
        ('after_val_iter', ITERATIONS),
        ('after_train', 1),
    ],
)
def test_signal_when_nothing_is_left_to_train(whole, tmp_path, moment, call):
    """The run ends as ever: its last checkpoint is there already, or about to be."""
    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    runner = build(tmp_path, **with_signal(moment, call, [TERM, INT]))
    runner.train()
    assert [signal.getsignal(each) for each in (TERM, INT)] == handlers
    assert not (tmp_path / 'interrupted.pth').exists()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_outside_the_main_thread(whole, tmp_path):
    """Python allows no handlers there, so none are set, and training works."""
    seen, problems = [], []

    @HOOKS.register_module(force=True)
    class SeeHandlersHook(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append([signal.getsignal(each) for each in (TERM, INT)])

    def train():
        try:
            build(tmp_path, **SHORT, custom_hooks=[SWITCH, dict(type='SeeHandlersHook')]).train()
        except BaseException as error:
            problems.append(error)

    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not problems
    assert seen == [handlers] * ITERATIONS
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_signal_with_a_checkpoint_each_iteration(tmp_path):
    """interrupted.pth is the newer of two files of the same iteration, and the one noted."""
    changes = {**with_signal('before_save_checkpoint', 4, [TERM]), **EVERY_ITERATION}
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 4)
    assert (tmp_path / 'iter_4.pth').exists()
