# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Loop and hook in a real Runner: length, switches, what is logged, what is refused."""

import json
import re

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS, MODEL_WRAPPERS, OPTIMIZERS
from mmengine.runner import FlexibleRunner, Runner
from mmpretrain.models import build_classifier

from bvit_mm.cost import find_backbone, stage_gflops
from bvit_mm.growth import INITS, MOMENTS

from .support.data_sets import Untouched
from .support.hooks import RecordHook
from .support.optimizers import Quantised
from .support.runs import BATCHES, EPOCHS, build, config
from .support.trainings import log_of, run
from .support.variants import EMA, RECORD, SWITCH


def test_plan_sets_length_and_stages(tmp_path):
    runner, record = run(tmp_path)
    assert runner.max_epochs == sum(EPOCHS)
    assert record.train == [k for k, n in enumerate(EPOCHS) for _ in range(n * BATCHES)]
    assert record.val == [k for k, n in enumerate(EPOCHS) for _ in range(n)]
    plan = json.loads((tmp_path / 'plan.json').read_text())
    assert [stage['epochs'] for stage in plan['stages']] == EPOCHS


def test_budget_sets_length_and_schedulers_follow(tmp_path):
    changes = {'train_cfg.epochs': None, 'train_cfg.budget': 0.5, 'train_cfg.full_epochs': 12}
    runner, record = run(tmp_path, **changes)
    plan = runner.train_loop.plan
    assert plan.gflops == stage_gflops(runner.model)
    assert plan.cost <= 6 * plan.gflops[-1] < plan.cost + plan.gflops[0]
    steps, warm_up = plan.total_epochs * BATCHES, BATCHES
    assert len(record.rates) == steps
    z = [(step - warm_up) / (steps - warm_up) for step in range(warm_up, steps)]
    expected = [1e-2 * (1 - x) / (0.5 + 0.5 * (1 - x)) for x in z]
    assert record.rates[warm_up:] == pytest.approx(expected, rel=1e-6)


def test_log_tells_plan_and_switches(tmp_path):
    runner, _ = run(tmp_path)
    text = log_of(runner)
    plan = runner.train_loop.plan
    assert 'The plan:' in text and f'costs {plan.cost:.6g} GFLOPs x epochs' in text
    pattern = r'training stage (\d) of 3 begins: (.*?), GFLOPs .* spent (\S+) GFLOPs'
    switches = re.findall(pattern, text)
    assert switches == [
        ('2', 'heads 1 -> 2, hidden 12 -> 24', f'{plan.spent(2):.4g}'),
        ('3', 'heads 2 -> 3, hidden 24 -> 48, grid (6, 6) -> (8, 8)', f'{plan.spent(4):.4g}'),
    ]
    losses = re.findall(r'loss of one batch (\S+) -> (\S+)', text)
    assert len(losses) == 2 and all(a != b for a, b in losses)


def test_loss_before_and_after_is_of_the_same_batch(tmp_path):
    """With function-preserving growth and all tokens it does not change."""
    stages = [dict(heads=1, hidden=24), dict(heads=2, hidden=48), dict()]
    changes = {
        'model.backbone.training_stages': stages,
        'custom_hooks': [dict(type='bvit_mm.StageSwitchHook', init='half')],
    }
    runner, _ = run(tmp_path, **changes)
    losses = re.findall(r'loss of one batch (\S+) -> (\S+)', log_of(runner))
    assert len(losses) == 2
    for before, after in losses:
        # printed to four digits, which may be rounded apart
        assert float(before) == pytest.approx(float(after), abs=1.5e-4)


def test_looking_at_the_loss_changes_nothing(tmp_path, monkeypatch):
    _, seen = run(tmp_path / 'a')
    monkeypatch.setattr('bvit_mm.stage_switch_hook._loss', lambda runner, batch: 0.0)
    _, blind = run(tmp_path / 'b')
    assert seen.losses == blind.losses


@pytest.mark.parametrize('init', INITS)
@pytest.mark.parametrize('moments', MOMENTS)
def test_every_initializer_and_rule_runs(tmp_path, init, moments):
    hook = dict(type='bvit_mm.StageSwitchHook', init=init, moments=moments)
    changes = {'train_cfg.epochs': [1, 1, 1], 'custom_hooks': [hook, RECORD, EMA]}
    _, record = run(tmp_path, **changes)
    assert len(record.losses) == 3 * BATCHES
    assert all(loss == loss for loss in record.losses)


def test_stage_without_epochs_is_skipped(tmp_path):
    _, record = run(tmp_path, **{'train_cfg.epochs': [0, 1, 2]})
    assert record.train == [1] * BATCHES + [2] * (2 * BATCHES)
    _, record = run(tmp_path / 'b', **{'train_cfg.epochs': [1, 0, 1]})
    assert record.train == [0] * BATCHES + [2] * BATCHES


def test_average_grows_with_the_model(tmp_path):
    runner, _ = run(tmp_path, custom_hooks=[SWITCH, EMA], **{'train_cfg.epochs': [1, 1, 1]})
    ema = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model.module
    assert find_backbone(ema).is_whole
    ours = find_backbone(runner.model).layers[0].attn.qkv.weight.unflatten(0, (3, 3, -1))
    theirs = find_backbone(ema).layers[0].attn.qkv.weight.unflatten(0, (3, 3, -1))
    # an average that stayed behind would have kept the initial weights of the last head
    assert (ours[:, 2] - theirs[:, 2]).norm() < 0.5 * ours[:, 2].norm()


def test_sgd_and_accumulation_run(tmp_path):
    changes = {
        'optim_wrapper': dict(
            _delete_=True,
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            accumulative_counts=2,
        )
    }
    _, record = run(tmp_path, **changes)
    assert len(record.losses) == sum(EPOCHS) * BATCHES


def test_unfinished_checkpoint_is_evaluated_as_its_stage(tmp_path):
    runner, _ = run(tmp_path, **{'default_hooks.checkpoint.interval': 1})
    for epoch in range(1, sum(EPOCHS) + 1):
        changes = dict(
            load_from=str(tmp_path / f'epoch_{epoch}.pth'),
            test_dataloader=runner.cfg.val_dataloader,
            test_evaluator=dict(type='Accuracy'),
            test_cfg=dict(),
        )
        tester = build(tmp_path / f'test{epoch}', **changes)
        accuracy = tester.test()['accuracy/top1']
        assert 0 <= accuracy <= 100
        stage = runner.train_loop.plan.stage_at(epoch - 1)
        assert find_backbone(tester.model).training_stage == stage
        warned = 'the checkpoint is of an unfinished run' in log_of(tester)
        assert warned == (stage < 2)


def test_checkpoint_is_plain_mmpretrain(tmp_path):
    """The finished file loads into mmpretrain's own class, strictly, and needs no bvit_mm."""
    runner, _ = run(tmp_path)
    model = runner.cfg.model.to_dict()
    model['backbone'].pop('training_stages')
    model['backbone']['type'] = 'mmpretrain.VisionTransformer'
    plain = build_classifier(model)
    file = torch.load(tmp_path / f'epoch_{sum(EPOCHS)}.pth', weights_only=False)
    plain.load_state_dict(file['state_dict'], strict=True)
    plain.eval()
    runner.model.eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(plain(images)[-1], runner.model(images)[-1])
    recorded = [m for m in file['state_dict']._metadata.values() if 'training_stage' in m]
    assert not recorded


# What is refused, before any data is read.


BAD = [
    ({'train_cfg.budget': 0.5}, 'budget=0.5 and epochs=.* are both given'),
    ({'train_cfg.epochs': None}, 'give a budget, or epochs'),
    ({'train_cfg.epochs': [1, 2]}, 'must be a list of 3 numbers'),
    ({'train_cfg.epochs': None, 'train_cfg.budget': 0}, 'budget=0 must be above 0'),
    ({'train_cfg.epochs': None, 'train_cfg.budget': 1e-4}, 'less than one epoch of each stage'),
    ({'custom_hooks': []}, "add dict.type='bvit_mm.StageSwitchHook'. to custom_hooks"),
    (
        {'model.backbone.type': 'VisionTransformer', 'model.backbone.training_stages': None},
        'has 0 elastic backbones .its backbone is VisionTransformer',
    ),
    (
        {'param_scheduler': [dict(type='bvit_mm.REXLR', begin=6)]},
        'the plan has 6 epochs .2, 2, 2., but the scheduler bvit_mm.REXLR begins at epoch 6',
    ),
]


@pytest.mark.parametrize('changes, message', BAD)
def test_refused_before_data_is_read(tmp_path, changes, message):
    DATASETS.register_module(name='Untouched', module=Untouched, force=True)
    changes = {**changes, 'train_dataloader.dataset.type': 'Untouched'}
    if changes.get('model.backbone.type'):
        changes.pop('model.backbone.training_stages')
        runner = build_plain(tmp_path, changes)
    else:
        runner = build(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth')) and not (tmp_path / 'plan.json').exists()


def build_plain(tmp_path, changes):
    cfg = config(tmp_path, experiment_name=f'plain{tmp_path.name}', **changes)
    cfg.model.backbone.pop('training_stages')
    return Runner.from_cfg(cfg)


def test_hook_without_loop_is_refused(tmp_path):
    train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=3)
    with pytest.raises(ValueError, match='the train loop EpochBasedTrainLoop has none; give'):
        run(tmp_path, train_cfg=train_cfg)


@pytest.mark.parametrize('options', [dict(init='zero'), dict(moments='keep')])
def test_unknown_growth_is_refused_when_the_hook_is_built(tmp_path, options):
    with pytest.raises(ValueError, match='is not known; give one of'):
        build(tmp_path, custom_hooks=[dict(type='bvit_mm.StageSwitchHook', **options)])


@pytest.mark.parametrize('strategy', ['DeepSpeedStrategy', 'FSDPStrategy', 'ColossalAIStrategy'])
def test_sharding_strategies_are_refused(tmp_path, strategy):
    runner = build(tmp_path)
    runner.strategy = type(strategy, (), {})()
    with pytest.raises(ValueError, match=f'the strategy {strategy} shards or copies'):
        runner.train()


def test_sharding_wrappers_are_refused(tmp_path):
    @MODEL_WRAPPERS.register_module(force=True)
    class FullySharded(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    runner = build(tmp_path)
    runner.model = FullySharded(runner.model)
    with pytest.raises(ValueError, match='the model wrapper FullySharded shards or copies'):
        runner.build_train_loop(runner._train_loop)


def test_optimizer_that_growth_cannot_serve_is_refused(tmp_path):
    OPTIMIZERS.register_module(name='Quantised', module=Quantised, force=True)
    DATASETS.register_module(name='Untouched', module=Untouched, force=True)
    changes = {
        'optim_wrapper.optimizer': dict(_delete_=True, type='Quantised', lr=1e-3),
        'train_dataloader.dataset.type': 'Untouched',
    }
    with pytest.raises(ValueError, match='optimizer Quantised keeps state of another shape'):
        run(tmp_path, **changes)


def test_work_dir_with_another_plan_is_refused(tmp_path):
    run(tmp_path, **{'train_cfg.epochs': [1, 1, 1]})
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob('*.pth')}
    for resume in (False, True):
        with pytest.raises(ValueError, match=r'holds a run with another plan: epochs=\[1, 1, 1\]'):
            run(tmp_path, resume=resume, **{'train_cfg.epochs': [1, 1, 2]})
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob('*.pth')} == before
    run(tmp_path, **{'train_cfg.epochs': [1, 1, 1]})


def test_resuming_with_another_plan_is_refused(tmp_path):
    run(tmp_path / 'a', **{'train_cfg.epochs': [1, 1, 1]})
    moved = tmp_path / 'moved.pth'
    (tmp_path / 'a' / 'epoch_1.pth').rename(moved)
    with pytest.raises(ValueError, match=r'moved\.pth is of a run with another plan'):
        run(tmp_path / 'b', resume=True, load_from=str(moved))


def test_resuming_a_run_without_budget_is_refused(tmp_path):
    run(tmp_path / 'a', **{'train_cfg.epochs': [1, 1, 1]})
    file = torch.load(tmp_path / 'a' / 'epoch_1.pth', weights_only=False)
    del file['meta']['bvit_mm']
    torch.save(file, tmp_path / 'plain.pth')
    with pytest.raises(ValueError, match=r'plain\.pth is not of a budgeted run'):
        run(tmp_path / 'b', resume=True, load_from=str(tmp_path / 'plain.pth'))


def test_finished_weights_that_growth_would_overwrite_are_warned_of(tmp_path):
    finished = str(tmp_path / 'a' / 'epoch_3.pth')
    run(tmp_path / 'a', **{'train_cfg.epochs': [1, 1, 1]})
    for epochs, warned in (([1, 0, 1], True), ([0, 0, 2], False)):
        work_dir = tmp_path / str(epochs[0])
        runner, record = run(work_dir, load_from=finished, **{'train_cfg.epochs': epochs})
        assert ('growth will overwrite the others' in log_of(runner)) == warned
        assert record.train[0] == (0 if epochs[0] else 2)


def test_flexible_runner_trains(tmp_path):
    """mmengine's newer runner builds the loop before the model, and loads before the hooks run."""
    cfg = config(tmp_path, experiment_name='flexible', custom_hooks=[SWITCH, RECORD])
    names = ('launcher', 'env_cfg', 'resume', 'load_from')
    options = {key: value for key, value in cfg.items() if key not in names}
    runner = FlexibleRunner(**options, cfg=cfg)
    runner.train()
    record = next(h for h in runner.hooks if isinstance(h, RecordHook))
    assert record.train == [k for k, n in enumerate(EPOCHS) for _ in range(n * BATCHES)]


def test_plan_is_the_same_under_a_wrapper(tmp_path):
    """DistributedDataParallel hides the head; the plan must still count it."""
    wrapper = MMDistributedDataParallel
    model = build(tmp_path).model
    wrapped = wrapper.__new__(wrapper)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = model
    assert stage_gflops(wrapped) == stage_gflops(model)


def test_damaged_plan_file_is_named(tmp_path):
    (tmp_path / 'plan.json').write_text('{"stages')
    with pytest.raises(ValueError, match=r'plan\.json is damaged; remove it, or give another'):
        run(tmp_path)


def test_stated_ends_of_schedulers_are_warned_of(tmp_path):
    for i, (end, warned) in enumerate(((6, False), (4, True), (None, False))):
        scheduler = dict(type='bvit_mm.REXLR', **({'end': end} if end else {}))
        runner, _ = run(tmp_path / str(i), param_scheduler=[scheduler])
        assert ('leave out `end`' in log_of(runner)) == warned


@pytest.mark.parametrize('size', [0, 100, 20_000])
def test_damaged_checkpoint_is_named(tmp_path, size):
    run(tmp_path / 'a', **{'train_cfg.epochs': [1, 1, 1]})
    cut = tmp_path / 'cut.pth'
    cut.write_bytes((tmp_path / 'a' / 'epoch_1.pth').read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r'cut\.pth cannot be read .*; give --resume an earlier one'
    ):
        run(tmp_path / 'b', resume=True, load_from=str(cut), **{'train_cfg.epochs': [1, 1, 1]})
    torch.save(torch.nn.Linear(2, 2).state_dict(), cut)
    with pytest.raises(ValueError, match=r'cut\.pth is not of a budgeted run'):
        run(tmp_path / 'b', resume=True, load_from=str(cut), **{'train_cfg.epochs': [1, 1, 1]})


def test_more_classes_than_the_head_has_are_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r'4 classes \(a, b, c, \.\.\.\), but model\.head has num_classes=3',
    ):
        run(tmp_path, **{'model.head.num_classes': 3})
    assert not (tmp_path / 'plan.json').exists()
