# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs that end before their plan does: the log says where, and what can be done."""

import re

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.compare.runs import Run, record_of
from bvit_mm.cost import find_backbone
from bvit_mm.publish.network import publish

from .support.clock import run as run_hours
from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, EPOCHS, build
from .support.trainings import log_of, run
from .support.variants import EMA, RECORD, SWITCH

PLATEAU = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=1, min_delta=200.0)
SAVES = {'default_hooks.checkpoint.interval': 1}
SELDOM = {'default_hooks.checkpoint.interval': 100}


@HOOKS.register_module(force=True)
class StopLoopHook(Hook):
    """Ends a run in one of the ways that hooks have."""

    priority = 'LOWEST'

    def __init__(self, how, epoch):
        self.how, self.epoch = how, epoch

    def before_train(self, runner):
        if not self.epoch:
            self.stop(runner)

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch:
            self.stop(runner)

    def stop(self, runner):
        if self.how == 'stop_training':
            runner.train_loop.stop_training = True
        elif self.how == 'max_epochs':
            runner.train_loop._max_epochs = self.epoch
        else:
            find_backbone(runner.model).set_training_stage(0)


def stopping(how, epoch):
    return dict(custom_hooks=[SWITCH, EMA, dict(type='StopLoopHook', how=how, epoch=epoch)])


def warnings_of(runner):
    """The lines after the closing table."""
    after = log_of(runner).split('Planned and spent:')[-1]
    return re.findall(r'WARNING - (.*)', after)


def unfinished(stage, epoch, file):
    return (
        f'training ended in training stage {stage} of 3, after {epoch} of the 6 planned epochs, so '
        f'the network is not whole. --resume goes on; tools/publish.py {file} OUT --stage {stage} '
        'makes a smaller network of it'
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The last checkpoint of a run that nothing stopped."""
    work_dir = tmp_path_factory.mktemp('whole')
    runner = build(work_dir, custom_hooks=[SWITCH, EMA])
    runner.train()
    assert warnings_of(runner) == []
    return work_dir


@pytest.mark.parametrize('saves', [SAVES, SELDOM], ids=['saved', 'not saved'])
@pytest.mark.parametrize('how', ['stop_training', 'max_epochs'])
@pytest.mark.parametrize('epoch', [0, 2, 3])
def test_end_in_an_early_stage_is_told(tmp_path, whole, how, epoch, saves):
    """And what it advises works: the run goes on, and the file is published."""
    runner = build(tmp_path, **saves, **stopping(how, epoch))
    runner.train()
    stage = 1 if epoch < 3 else 2
    # What no hook saves is kept all the same; mmengine saves where it sees the last epoch.
    by_hook = epoch and (saves is SAVES)
    file = tmp_path / (f'epoch_{epoch}.pth' if by_hook else 'interrupted.pth')
    assert warnings_of(runner) == [unfinished(stage, epoch, file)]
    about = publish(str(file), stage=stage).checkpoint['meta']['bvit_mm']
    assert (about['training_stage'], about['epoch']) == (stage, epoch)
    with pytest.raises(ValueError, match=f'it is in training stage {stage} of 3'):
        publish(str(file))
    resumed = build(tmp_path, **saves, custom_hooks=[SWITCH, EMA], resume=True)
    resumed.train()
    assert warnings_of(resumed) == []
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_early_stopping_is_told(tmp_path):
    runner, _ = run(tmp_path, custom_hooks=[SWITCH, PLATEAU])
    assert warnings_of(runner) == [unfinished(1, 2, tmp_path / 'epoch_2.pth')]
    resumed, record = run(tmp_path, custom_hooks=[SWITCH, PLATEAU, RECORD], resume=True)
    assert warnings_of(resumed) == [unfinished(2, 4, tmp_path / 'epoch_4.pth')]
    assert len(record.train) == 2 * BATCHES


def test_end_in_the_last_stage_is_told(tmp_path):
    runner, _ = run(tmp_path, **stopping('stop_training', 5))
    assert warnings_of(runner) == [
        'training ended in training stage 3 of 3, after 5 of the 6 planned epochs. The network is '
        'whole, but not trained to the end; --resume goes on'
    ]


def test_stop_at_the_end_is_none(tmp_path):
    runner, _ = run(tmp_path, **stopping('stop_training', sum(EPOCHS)))
    assert warnings_of(runner) == []


def test_stage_that_something_else_has_set_is_told(tmp_path):
    runner, _ = run(tmp_path, **stopping('set_training_stage', sum(EPOCHS)))
    assert warnings_of(runner) == [
        'training ended in training stage 1 of 3, after 6 of the 6 planned epochs, but the network '
        'is not whole: something else than StageSwitchHook has set its training stage'
    ]


def test_hours_that_hardly_come_to_the_last_stage(tmp_path, clock):
    """A machine that gets far slower leaves the whole network less than an epoch."""
    runner = run_hours(tmp_path, clock, '300s', slow=100, factor=8)
    epochs = runner.train_loop.ledger.epochs[2]
    assert 0 < epochs < 1
    assert warnings_of(runner) == [
        f'training stage 3 of 3, the whole network, was trained for {epochs:.2g} epochs only, '
        'because the hours were over; give more hours'
    ]


def test_hours_that_are_stopped(tmp_path, clock):
    more = {'default_hooks.stop': dict(type='StopLoopHook', how='stop_training', epoch=3)}
    runner = run_hours(tmp_path, clock, '600s', more=more)
    planned = runner.train_loop.plan.total_epochs
    assert re.fullmatch(
        f'training ended in training stage 1 of 3, after 3 of the {planned} planned epochs, so the '
        r'network is not whole\. .*epoch_3\.pth OUT --stage 1 makes a smaller network of it',
        *warnings_of(runner),
    )


def test_validation_that_never_comes_is_told(tmp_path):
    runner, record = run(tmp_path, **{'train_cfg.epochs': [1, 1, 1], 'train_cfg.val_begin': 4})
    assert record.val == []
    text = (
        'val_begin=4 of train_cfg is beyond the 3 epochs of the plan, so it is never validated; '
        'give a smaller one'
    )
    assert log_of(runner).count(text) == 1
    runner, record = run(
        tmp_path / 'b', **{'train_cfg.epochs': [1, 1, 1], 'train_cfg.val_begin': 3}
    )
    assert len(record.val) == 1 and 'never validated' not in log_of(runner)


def test_comparison_does_not_record_a_stopped_run(tmp_path):
    runner, _ = run(tmp_path, custom_hooks=[SWITCH, PLATEAU])
    plan = runner.train_loop.plan
    stopped = Run(tmp_path, 'grow', 0.5, 0, runner.cfg, plan, plan.full_cost)
    with pytest.raises(ValueError, match='was stopped after 2 of the 6 epochs of its plan, so it'):
        record_of(stopped)
    runner, _ = run(tmp_path / 'whole')
    record = record_of(stopped._replace(folder=tmp_path / 'whole'))
    assert record.cost == pytest.approx(plan.cost / plan.full_cost) and max(record.history)[0] == 6
