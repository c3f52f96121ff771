# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs that commit e3fb1f0 was stopped in, by SIGTERM within an epoch: they go on today.

Each archive in ``data/old_runs`` has what that code left (``interrupted.pth``, the plan, the note
of the last checkpoint) and, as ``end.pth``, where it came to itself without a stop. No line of
them is to be written anew: users have such files.
"""

import json
import tarfile
from pathlib import Path

import pytest
import torch

from bvit_mm.publish.network import publish
from bvit_mm.testing.closeness import distance

from .support.files import differences, last_file
from .support.hooks import Stop
from .support.runs import build
from .support.variants import EMA, SAMPLER, SWITCH

CORRECTED = {**SWITCH, 'moments': 'corrected'}
# Without biases of keys, whose gradients are nothing but rounding, so that AdamW takes full steps
# of them: weights then end alike on every CPU.
NETWORK = {
    'model.backbone': dict(
        _delete_=True,
        type='bvit_mm.ElasticVisionTransformer',
        arch=dict(embed_dims=6, num_layers=1, num_heads=3, feedforward_channels=12),
        img_size=16,
        patch_size=4,
        qkv_bias=False,
        drop_path_rate=0.2,
        training_stages=3,
    ),
    'model.head.in_channels': 6,
    'optim_wrapper.optimizer.lr': 2e-3,
    'train_cfg.epochs': [1, 2, 1],
    'default_hooks.checkpoint': dict(type='CheckpointHook', interval=99),
    'custom_hooks': [CORRECTED],
}
DRAW = dict(type='bvit_mm.SubsetHook', selection='random', interval=2)
RUNS = {
    'accumulation': {  # with gradients pending
        **NETWORK,
        'custom_hooks': [CORRECTED, EMA],
        'optim_wrapper.accumulative_counts': 2,
    },
    'subset': {
        **NETWORK,
        'custom_hooks': [CORRECTED, DRAW],
        'train_dataloader.sampler': SAMPLER,
    },
    'hours': {**NETWORK, 'train_cfg.epochs': None, 'train_cfg.budget': '10h'},
}
# Rounding of another CPU in a dozen steps of AdamW; 0.002 is one step.
CLOSE = 1e-4


@pytest.fixture
def old(tmp_path):
    """Unpacks the folder of an old run."""

    def unpack(name):
        with tarfile.open(Path(__file__).parent / 'data' / 'old_runs' / f'{name}.tar.xz') as tar:
            tar.extractall(tmp_path / 'old', filter='data')
        (tmp_path / 'old' / 'last_checkpoint').write_text(str(tmp_path / 'old' / 'interrupted.pth'))
        return tmp_path / 'old'

    return unpack


def numbers(value):
    """The tensors of a nested structure, by place."""
    if isinstance(value, torch.Tensor):
        return {'': value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    pairs = [(k, v) for k, v in pairs if isinstance(v, (torch.Tensor, dict, list, tuple))]
    return {f'{k}.{name}': t for k, v in pairs for name, t in numbers(v).items()}


@pytest.mark.parametrize('name', ['accumulation', 'subset'])
def test_old_run_is_resumed_to_the_end_that_it_had(old, name):
    """Weights, averages, moments and the ledger."""
    work_dir = old(name)
    end = torch.load(work_dir / 'end.pth', weights_only=False)
    planned = json.loads((work_dir / 'ledger.json').read_text())
    (work_dir / 'ledger.json').unlink()
    runner = build(work_dir, **RUNS[name], resume=True)
    runner.train()
    ours = last_file(work_dir)
    parts = [key for key in ('state_dict', 'ema_state_dict', 'optimizer') if key in end]
    assert len(parts) == 2 + (name == 'accumulation')
    for part in parts:
        found, expected = numbers(ours[part]), numbers(end[part])
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert distance(found[key].double(), value.double()) <= CLOSE, key
    ledger = json.loads((work_dir / 'ledger.json').read_text())
    for key in ('gflops', 'iterations', 'samples'):
        assert ledger[key] == planned[key]
    assert runner.train_loop.ledger.cost == pytest.approx(runner.train_loop.plan.cost)


def test_budget_in_hours_goes_on(old):
    """The plan is read as it was; ten hours are not spent here."""
    work_dir = old('hours')
    record = torch.load(work_dir / 'interrupted.pth', weights_only=False)['meta']['bvit_mm']
    hooks = [CORRECTED, dict(type='StopHook', at=7)]
    runner = build(work_dir, **{**RUNS['hours'], 'custom_hooks': hooks}, resume=True)
    with pytest.raises(Stop):
        runner.train()
    assert runner.iter + 1 == 7 and runner.train_loop.stage == 0
    seconds = record['ledger']['seconds'][0]
    assert 0 < seconds < runner.train_loop.ledger.seconds[0] < seconds + 600


def test_old_files_are_published_and_tested(old):
    work_dir = old('accumulation')
    end = torch.load(work_dir / 'end.pth', weights_only=False)
    whole = publish(str(work_dir / 'end.pth'), 'ema').checkpoint
    assert not differences(dict(whole['state_dict']), dict(end['state_dict']))
    assert whole['meta']['bvit_mm']['epoch'] == 4
    small = publish(str(work_dir / 'stage_1.pth'), stage=1).checkpoint
    assert small['meta']['bvit_mm']['training_stage'] == 1
    evaluated = {
        'test_dataloader': dict(
            dataset=dict(type='TinyDataset', noise=0.0),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        'test_evaluator': dict(type='Accuracy'),
        'test_cfg': dict(),
    }
    runner = build(work_dir / 'test', **NETWORK, **evaluated)
    runner.load_checkpoint(str(work_dir / 'end.pth'))
    metrics = runner.test()
    runner.model.eval()
    images = runner.test_dataloader.dataset.images
    labels = torch.arange(len(images)) % 4
    right = (runner.model(images).argmax(1) == labels).float().mean().item()
    assert metrics['accuracy/top1'] == pytest.approx(100 * right)
