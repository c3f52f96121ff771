# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs on a subset: resumed, charged and refused."""

import json
import re

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from bvit_mm import SubsetHook, subset_share
from bvit_mm.cost import plan_of_config
from bvit_mm.ledger import Ledger
from bvit_mm.running.old_records import ledger_of_today
from bvit_mm.subsets.share import SELECTION_COST

from .support.files import assert_same_run, last_file
from .support.runs import FAMILIES, build, config
from .support.subset_runs import RANDOM, run
from .support.tools import tool
from .support.trainings import log_of, stop_and_resume
from .support.variants import EMA, EVERY_ITERATION, MATCH, SAMPLER, SUBSET, SWITCH


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('subset')
    for name, changes in (('match', SUBSET), ('random', RANDOM)):
        build(folder / name, **changes, **EVERY_ITERATION).train()
    return folder


@pytest.mark.parametrize('at', [2, 5, 6, 7, 8, 12, 13, 17])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, at):
    """Bit for bit: before, at and after selections and switches, which are at 6 and 12."""
    resumed = stop_and_resume(tmp_path, at, {**SUBSET, **EVERY_ITERATION})
    assert_same_run(resumed, last_file(uninterrupted / 'match'))


def test_resumed_with_data_workers(tmp_path):
    """Whose augmentation follows the seed in a selection too."""
    changes = {**SUBSET, **EVERY_ITERATION, 'train_dataloader.num_workers': 2}
    build(tmp_path / 'whole', **changes).train()
    resumed = stop_and_resume(tmp_path / 'resumed', 7, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))


@pytest.mark.parametrize('at', [6, 8])
def test_random_resumed_equals_uninterrupted(tmp_path, uninterrupted, at):
    resumed = stop_and_resume(tmp_path, at, {**RANDOM, **EVERY_ITERATION})
    assert_same_run(resumed, last_file(uninterrupted / 'random'))


def test_resumed_with_other_options(tmp_path, uninterrupted):
    source = str(uninterrupted / 'match' / 'iter_7.pth')
    other = {**SUBSET, 'custom_hooks': [SWITCH, {**MATCH, 'ridge': 0.1}, EMA]}
    with pytest.raises(ValueError, match=r"SubsetHook options .*'ridge': 0\.5.*'ridge': 0\.1"):
        build(tmp_path, **other, resume=True, load_from=source).train()
    less = {**SUBSET, 'train_dataloader.sampler': {**SAMPLER, 'share': 0.25}}
    with pytest.raises(ValueError, match=r'a run with epoch_share=0\.5, and this one has 0.25'):
        build(tmp_path, **less, resume=True, load_from=source).train()


@pytest.mark.parametrize('family', FAMILIES)
def test_ledger_is_the_plan(tmp_path, family):
    """To the epoch and the selection, as tools/plan.py and the log say."""
    changes = {**FAMILIES[family], **SUBSET}
    runner, _ = run(tmp_path, **changes)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert plan.epoch_share == 0.5 and plan.charges[0].interval == 2
    trained = sum(g * n for g, n in zip(plan.gflops, plan.epochs)) / 2
    looked = (plan.gflops[0] + plan.gflops[1]) / 3
    assert plan.cost == pytest.approx(trained + looked)
    assert ledger.cost == pytest.approx(plan.cost, rel=1e-12)
    assert ledger.charges['selection'] == pytest.approx(looked, rel=1e-12)
    assert ledger.other['selection'] > 0 and runner.train_loop.spent == pytest.approx(1)
    log = log_of(runner)
    assert 'an epoch reads 0.5 of the data' in log
    assert re.search(rf'selection +{looked:.4g} +{looked:.4g}', log)
    assert plan_of_config(config(tmp_path, **changes))[0] == plan
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [s['gflops_epochs'] for s in map(json.loads, lines) if 'gflops_epochs' in s]
    assert logged[-1] == pytest.approx(plan.cost, rel=0.1)
    assert last_file(tmp_path)['meta']['bvit_mm']['plan'] == plan.as_dict()


def test_selection_that_is_not_charged(tmp_path):
    hooks = [SWITCH, {**MATCH, 'count_selection': False}]
    runner, _ = run(tmp_path, **{**SUBSET, 'custom_hooks': hooks})
    ledger = runner.train_loop.ledger
    assert ledger.charges == {} and ledger.other['selection'] > 0
    assert ledger.cost == pytest.approx(runner.train_loop.plan.cost)


def test_a_run_meets_its_budget(tmp_path):
    """60 % of six epochs, of which two selections take a ninth."""
    share = subset_share(0.6, full_epochs=6, interval=2)
    one = {'model.backbone.training_stages': 1, 'train_cfg.epochs': [6]}
    one['train_cfg.full_epochs'] = 6
    sampler = {**SAMPLER, 'share': share}
    runner, _ = run(tmp_path, **{**SUBSET, 'train_dataloader.sampler': sampler}, **one)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert ledger.cost == pytest.approx(0.6 * plan.full_cost)
    assert runner.train_dataloader.sampler.size <= share * 20


def test_ledgers_of_earlier_runs_load():
    saved = Ledger((1.0, 2.0), 5, 4).as_dict()
    for name in ('epoch_share', 'charges'):
        del saved[name]
    ledger = Ledger.from_dict(ledger_of_today(saved))
    assert ledger.epoch_share == 1.0 and ledger.cost == 0
    ledger.pass_time('selection', 2.0)
    ledger.charge('selection', 1, SELECTION_COST)
    assert ledger.other['selection'] == 2 and ledger.cost == 2 * SELECTION_COST
    selected = ledger_of_today(dict(saved, data_share=0.5, selection=ledger.cost))
    assert Ledger.from_dict(selected).charges == ledger.charges
    assert Ledger.from_dict(selected).epoch_share == 0.5


MULTI_LABEL = dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=4, in_channels=24)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler', shuffle=True)},
            r"but train_dataloader.sampler is DefaultSampler; give dict\(type='bvit_mm.SubsetSam",
        ),
        (
            {'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)])},
            r'batch augments \(Mixup, CutMix; train_cfg of the model\) mix samples',
        ),
        ({'model.head.loss.use_soft': True}, 'use_soft=True of CrossEntropyLoss takes scores'),
        ({'model.head.loss.use_sigmoid': True}, 'is not the cross-entropy of a softmax'),
        ({'model.head.loss.class_weight': [1, 2, 3, 4]}, 'class_weight has no part'),
        (
            {'model.head': MULTI_LABEL},
            'classifier of single labels, but the head of ImageClassifier is MultiLabelLinear',
        ),
        ({'train_cfg.accumulative_counts': [1, 1, 2]}, 'accumulative_counts of train_cfg divides'),
        ({'train_cfg.accumulative_counts': 'auto'}, 'accumulative_counts of train_cfg divides'),
        ({'compile': dict(backend='eager')}, 'leave out compile'),
        ({'train_cfg.epochs': None, 'train_cfg.budget': 0.5}, 'state epochs, such as'),
        ({'train_dataloader.sampler.share': 0.01}, r'share=0.01 .* no sample of 20; give at lea'),
        ({'train_dataloader.sampler.share': 1.5}, 'share=1.5 .* above 0 and up to 1'),
        ({'train_cfg.data_share': 0.5}, 'data_share=0.5, which is not known'),
    ],
)
def test_refused(tmp_path, changes, message):
    merged = {**SUBSET, **{k: v for k, v in changes.items() if k in SUBSET}}
    cfg = config(tmp_path, **merged)
    cfg.merge_from_dict({k: v for k, v in changes.items() if k not in SUBSET})
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth')) and not (tmp_path / 'plan.json').exists()


def test_hours_with_matching_are_refused(tmp_path):
    hooks = [SWITCH, {**MATCH, 'count_selection': False}]
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '1h', 'custom_hooks': hooks}
    with pytest.raises(ValueError, match='takes time that a budget in hours does not plan'):
        build(tmp_path, **{**SUBSET, **hours}).train()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(selection='best'), "selection='best' is not known; give one of"),
        (dict(selection='random', interval=0), 'interval=0 must be a whole number of epochs'),
        (dict(selection='random', batch_size=0), 'batch_size=0 of SubsetHook must be'),
        (dict(selection='random', width=1.5), 'width=1.5 of SubsetHook must be'),
        (dict(selection='random', ridge=-1), 'ridge=-1 of SubsetHook must be a number'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SubsetHook(**options)


def test_tool_prints_the_plan(tmp_path):
    cfg = Config.fromfile('configs/demo/deit-digits_bvit-b50.py')
    cfg.train_cfg.update(budget=None, epochs=[5, 5, 10])
    cfg.train_dataloader.sampler = dict(type='bvit_mm.SubsetSampler', share=0.1)
    cfg.custom_hooks.append(dict(type='bvit_mm.SubsetHook', selection='gradmatch', interval=5))
    cfg.dump(tmp_path / 'subset.py')
    plan = json.loads(tool('plan', 'subset.py', '--json', cwd=tmp_path))
    gflops = [stage['gflops'] for stage in plan['stages']]
    trained = sum(0.1 * g * n for g, n in zip(gflops, (5, 5, 10)))
    assert plan['cost'] == pytest.approx(trained + (gflops[0] + gflops[1] + gflops[2]) / 3)
    assert plan['epoch_share'] == 0.1 and plan['charges'][0]['interval'] == 5
    table = tool('plan', 'subset.py', cwd=tmp_path)
    assert 'an epoch reads 0.1 of the data' in table and re.search(r'selection +[\d.]+', table)
