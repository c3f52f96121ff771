# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The ledger, schedulers that follow it, batches in parts, memory, compilation."""

import copy
import json
import re
from functools import partial

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.utils import parameters_to_vector

from bvit_mm.cost import find_backbone
from bvit_mm.ledger import Ledger
from bvit_mm.meter import Clock
from bvit_mm.running.memory import is_out_of_memory
from bvit_mm.running.rehearsal import rehearsal
from bvit_mm.running.train_in_parts import count_samples, split
from bvit_mm.running.training_step import make_groups_plain_
from bvit_mm.testing.closeness import assert_near, distance, tolerance_of_training

from .support.files import assert_same_run, differences, last_file
from .support.runs import BATCHES, EPOCHS, FAMILIES, build
from .support.small_memory import allow_images
from .support.trainings import log_of, run
from .support.variants import EMA, RECORD, SWITCH

# The ledger.


def test_ledger_of_a_finished_run_is_the_plan(tmp_path):
    runner, _ = run(tmp_path)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert ledger.epochs == plan.epochs and ledger.cost == pytest.approx(plan.cost, rel=1e-12)
    assert ledger.samples == [4 * BATCHES * n for n in EPOCHS]
    assert min(ledger.seconds) > 0 and ledger.other['validation'] > 0
    saved = last_file(tmp_path)['meta']['bvit_mm']['ledger']
    assert Ledger.from_dict(saved).iterations == [BATCHES * n for n in EPOCHS]
    table = re.search(r'Planned and spent:\n(.*?)and setup (.*)', log_of(runner), re.S)
    rows = [line.split() for line in table[1].splitlines()]
    assert [row[:3] for row in rows[1:5]] == [
        ['1', '2', '2'],
        ['2', '2', '2'],
        ['3', '2', '2'],
        ['total', '6', '6'],
    ]
    assert f'{ledger.elapsed:.1f} s' in table[2]


def test_all_time_is_booked_once(tmp_path, monkeypatch):
    """The clock advances by one whenever somebody looks; what is booked adds up to it."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(Clock, 'read', lambda _: float(next(ticks)))
    loop = run(tmp_path)[0].train_loop
    assert loop.ledger.elapsed == next(ticks) - 1
    assert sum(loop.ledger.seconds) >= sum(EPOCHS) * BATCHES


def test_ledger_survives_a_resume(tmp_path):
    class Stop(Exception):
        pass

    def stop(self, runner, *args, **kwargs):
        if runner.iter == 12:
            raise Stop

    hook = type('StopTwelfth', (Hook,), dict(after_train_iter=stop))
    HOOKS.register_module(name='StopTwelfth', module=hook, force=True)
    with pytest.raises(Stop):
        run(tmp_path, custom_hooks=[SWITCH, dict(type='StopTwelfth')])
    before = last_file(tmp_path)['meta']['bvit_mm']['ledger']
    ledger = run(tmp_path, custom_hooks=[SWITCH], resume=True)[0].train_loop.ledger
    assert ledger.epochs == tuple(EPOCHS)
    assert ledger.seconds[0] == before['seconds'][0] > 0
    assert ledger.other['setup'] > before['other']['setup']


def test_what_is_spent_is_logged(tmp_path):
    """In mmengine's scalars, which TensorBoard and all its other backends are given."""
    vis = dict(
        visualizer=dict(
            type='UniversalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        )
    )
    runner, _ = run(tmp_path, **{'default_hooks.logger.interval': 2}, **vis)
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    scalars = [s for s in map(json.loads, lines) if 'loss' in s]
    plan = runner.train_loop.plan
    assert [s['samples'] for s in scalars[:3]] == [8, 16, 28]
    last = scalars[-1]
    assert last['spent'] == pytest.approx(29 / 30, abs=0.05) and last['hours'] > 0
    assert last['gflops_epochs'] == pytest.approx(plan.cost * last['spent'])


# Schedulers that follow the budget.

DECAYS = [
    dict(type='bvit_mm.REXLR', convert_to_iter_based=True),
    dict(type='bvit_mm.LinearDecayLR', convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, convert_to_iter_based=True),
]


def curve(kind, z):
    if 'REX' in kind:
        return (1 - z) / (0.5 + 0.5 * (1 - z))
    if 'Linear' in kind:
        return 1 - z
    return 1e-3 + (1 - 1e-3) * (1 + torch.cos(torch.tensor(z * torch.pi)).item()) / 2


@pytest.mark.parametrize('decay', DECAYS, ids=lambda d: d['type'])
@pytest.mark.parametrize('warm_up', [0, 1])
def test_learning_rate_over_what_is_spent(tmp_path, decay, warm_up):
    """A closed form of the share spent, after a warm-up that still counts epochs."""
    schedulers = [{**decay, 'begin': warm_up}]
    if warm_up:
        ramp = dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True)
        schedulers.insert(0, ramp)
    runner, record = run(tmp_path, param_scheduler=schedulers, **{'train_cfg.schedule': 'budget'})
    plan, first = runner.train_loop.plan, warm_up * BATCHES
    costs = [plan.gflops[stage] / BATCHES / plan.cost for stage in record.train]
    begun = sum(costs[:first])
    steps = (sum(EPOCHS) - warm_up) * BATCHES
    for i in range(first, len(costs)):
        z = (sum(costs[:i]) - begun) / (1 - begun)
        low, high = (curve(decay['type'], min(1, max(0, z + d / steps))) for d in (1, -1))
        assert 0.999 * low <= record.rates[i] / 1e-2 <= 1.001 * high, i
    if warm_up:
        assert record.rates[:first] == pytest.approx([1e-3, 3.25e-3, 5.5e-3, 7.75e-3, 1e-2])


def test_early_stages_keep_a_higher_rate_than_over_epochs(tmp_path):
    decay = [dict(type='bvit_mm.LinearDecayLR', convert_to_iter_based=True)]
    _, over_epochs = run(tmp_path / 'a', param_scheduler=decay)
    schedule = {'train_cfg.schedule': 'budget'}
    _, over_budget = run(tmp_path / 'b', param_scheduler=decay, **schedule)
    assert over_budget.rates[10] > 1.2 * over_epochs.rates[10]


def test_by_epoch_schedulers_follow_too(tmp_path):
    decay = [dict(type='bvit_mm.LinearDecayLR')]
    _, record = run(tmp_path, param_scheduler=decay, **{'train_cfg.schedule': 'budget'})
    assert record.rates[0] == 1e-2 and sorted(record.rates, reverse=True) == record.rates
    assert len(set(record.rates)) == sum(EPOCHS)  # as many steps as epochs
    assert record.rates[-1] == pytest.approx(1e-2 / sum(EPOCHS))


@pytest.mark.parametrize('at', [3, 13, 22])
def test_resumed_schedule_over_the_budget(tmp_path, at):
    from .support.trainings import stop_and_resume
    from .support.variants import EVERY_ITERATION

    changes = {**EVERY_ITERATION, 'train_cfg.schedule': 'budget', 'custom_hooks': [SWITCH, EMA]}
    build(tmp_path / 'whole', **changes).train()
    resumed = stop_and_resume(tmp_path / 'resumed', at, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))


# Batches in parts.


@pytest.mark.parametrize('family', FAMILIES)
def test_parts_train_the_same(tmp_path, family):
    """The same batches, updates and random numbers as at once, to rounding."""
    changes = {
        **FAMILIES[family],
        'model.backbone.drop_path_rate': 0.0,  # is drawn for each part
        'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.02, momentum=0.9),
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.clip_grad': dict(max_norm=1.0),
    }
    runner, record = run(tmp_path / 'a', **changes)
    parts = {'train_cfg.accumulative_counts': [1, 3, 4]}
    other, divided = run(tmp_path / 'b', **changes, **parts)
    assert other.train_loop.parts.counts == (1, 3, 4)
    assert_near(torch.tensor(divided.losses), torch.tensor(record.losses))
    weights = (parameters_to_vector(r.model.parameters()) for r in (other, runner))
    assert distance(*weights) <= tolerance_of_training(sum(EPOCHS) * BATCHES)
    assert other.train_loop.ledger.samples == runner.train_loop.ledger.samples


@pytest.mark.parametrize('parts, sizes', [(1, [5]), (2, [3, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_split(parts, sizes):
    data = dict(inputs=torch.arange(10).view(5, 2), data_samples=list('abcde'), other=None)
    pieces = split(data, parts)
    assert [count_samples(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece['inputs'] for piece in pieces]), data['inputs'])
    assert [s for piece in pieces for s in piece['data_samples']] == data['data_samples']
    assert pieces[0]['other'] is None


# Memory.


@pytest.fixture
def small_memory(monkeypatch):
    """A device on which the stages' activations take memory as of their FLOPs, and run out."""

    return partial(allow_images, monkeypatch)


def test_last_stage_that_does_not_fit_is_told_before_the_run(tmp_path, small_memory):
    small_memory(2)
    with pytest.raises(MemoryError) as error:
        run(tmp_path)
    assert str(error.value) == (
        'training stage 3 of 3 does not fit into memory with a batch of 4 images in 1 parts: '
        'train_cfg.accumulative_counts=[1, 1, 2] divides the batches and fits, at the same '
        "global batch; give that, 'auto', or a smaller train_dataloader.batch_size"
    )
    assert not list(tmp_path.glob('*.pth')) and not (tmp_path / 'plan.json').exists()


def test_nothing_fits(tmp_path, small_memory):
    small_memory(0.1)
    with pytest.raises(MemoryError, match='not even one of them does; give a smaller model'):
        run(tmp_path, **{'train_cfg.accumulative_counts': 'auto'})


def test_auto_finds_the_fewest_parts(tmp_path, small_memory):
    small_memory(1)
    runner, record = run(tmp_path, **{'train_cfg.accumulative_counts': 'auto'})
    assert runner.train_loop.parts.counts == (1, 2, 4)
    assert len(record.losses) == sum(EPOCHS) * BATCHES
    assert 'divided into [1, 2, 4] parts in the training stages' in log_of(runner)


def test_advice_fits(tmp_path, small_memory):
    small_memory(2)
    runner, _ = run(tmp_path, **{'train_cfg.accumulative_counts': [1, 1, 2]})
    assert runner.train_loop.ledger.epochs == tuple(EPOCHS)


def test_moments_are_there_when_memory_is_tried(tmp_path, monkeypatch):
    """An optimizer that has made no step yet holds less than it will."""
    from mmpretrain.models import ImageClassifier

    forward, seen = ImageClassifier.loss, []
    runner = build(tmp_path, **{'optim_wrapper.accumulative_counts': 2})

    def loss(self, inputs, data_samples):
        seen.append(
            (find_backbone(self).training_stage, len(runner.optim_wrapper.state_dict()['state']))
        )
        return forward(self, inputs, data_samples)

    monkeypatch.setattr(ImageClassifier, 'loss', loss)
    runner.train()
    assert seen[0] == (2, 0) and seen[1][0] == 2 and seen[1][1] > 20
    assert seen[2] == (0, 0)  # the run begins, with an optimizer that knows nothing of it


def test_a_single_checkpoint_is_not_removed_before_the_next(tmp_path):
    """mmengine with max_keep_ckpts=1 would have none while it writes."""
    present = []
    save = torch.save

    def look(*args, **kwargs):
        present.append(len(list(tmp_path.glob('epoch_*.pth'))))
        return save(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'save', look)
        runner, _ = run(tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    assert present[0] == 0 and min(present[1:]) >= 1
    assert '2 are kept' in log_of(runner)


@pytest.mark.parametrize(
    'error, is_memory',
    [
        (torch.cuda.OutOfMemoryError('x'), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), False),
    ],
)
def test_which_errors_are_about_memory(error, is_memory):
    assert is_out_of_memory(error) == is_memory


def test_other_errors_of_the_last_stage_are_told_at_once(tmp_path, monkeypatch):
    from mmpretrain.models import ImageClassifier

    forward = ImageClassifier.loss

    def loss(self, inputs, data_samples):
        if find_backbone(self).is_whole:
            raise RuntimeError('an operator is missing')
        return forward(self, inputs, data_samples)

    monkeypatch.setattr(ImageClassifier, 'loss', loss)
    with pytest.raises(RuntimeError, match='an operator is missing'):
        run(tmp_path)
    assert not (tmp_path / 'plan.json').exists()


@pytest.mark.parametrize('family', FAMILIES)
def test_rehearsal_leaves_nothing(tmp_path, family):
    """Weights, buffers, moments, gradients, stage, counts, logged values, random states."""
    changes = {**FAMILIES[family], 'optim_wrapper.accumulative_counts': 2}
    found = []

    class Rehearse(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter not in (0, 14):  # one with gradients pending
                return
            before = picture(runner)
            batch = next(iter(runner.train_dataloader))
            generator = torch.get_rng_state()
            with rehearsal(runner):
                for stage in (2, 0, 1):
                    find_backbone(runner.model).set_training_stage(stage)
                    runner.model.train_step(copy.deepcopy(batch), runner.optim_wrapper)
                assert differences(before, picture(runner))
            found.append(differences(before, picture(runner)))
            assert torch.equal(generator, torch.get_rng_state())

    def picture(runner):
        wrapper = runner.optim_wrapper
        return copy.deepcopy(
            dict(
                weights=dict(runner.model.state_dict()),
                gradients=[p.grad for p in runner.model.parameters()],
                moments=wrapper.state_dict()['state'],
                count=wrapper._inner_count,
                stage=find_backbone(runner.model).training_stage,
                logged=sorted(runner.message_hub.log_scalars),
            )
        )

    HOOKS.register_module(name='Rehearse', module=Rehearse, force=True)
    run(tmp_path, custom_hooks=[SWITCH, RECORD, dict(type='Rehearse')], **changes)
    assert found == [[], []]


# Compilation.


@pytest.fixture
def graphs(monkeypatch):
    """A backend of torch.compile that counts how often forward and backward are compiled."""
    compiled = []

    def backend(module, inputs):
        compiled.append(len(inputs))
        return module.forward

    torch._dynamo.reset()
    torch._dynamo.register_backend(backend, name='counting')
    yield compiled
    torch._dynamo.backends.registry._BACKENDS.pop('counting')
    torch._dynamo.reset()


def test_compiled_once_a_stage(tmp_path, graphs):
    """Never within one, and with the same result as without; its time is booked apart."""
    per_epoch = []

    class CountHook(Hook):
        def after_train_epoch(self, runner):
            per_epoch.append(len(graphs))

    HOOKS.register_module(name='CountHook', module=CountHook, force=True)
    hooks = [SWITCH, RECORD, dict(type='CountHook')]
    small = {'model.backbone.arch.num_layers': 1}  # tracing takes seconds a layer
    compiled = dict(custom_hooks=hooks, compile=dict(backend='counting'))
    runner, record = run(tmp_path / 'a', **compiled, **small)
    assert 0 < per_epoch[0] == per_epoch[1] < per_epoch[2] == per_epoch[3] < per_epoch[4]
    assert per_epoch[4] == per_epoch[5]
    assert runner.train_loop.ledger.other['compilation'] > 0
    _, plain = run(tmp_path / 'b', **small)
    assert_near(torch.tensor(record.losses), torch.tensor(plain.losses))


def test_groups_of_paramwise_cfg_are_made_plain(tmp_path):
    """Which torch.compile can read; the optimizer is the same."""
    changes = {'optim_wrapper.paramwise_cfg': dict(bias_decay_mult=0.0)}
    runner = build(tmp_path, **changes)
    optimizer = runner.train_loop.runner.optim_wrapper.optimizer
    before = [(*group.items(),) for group in optimizer.param_groups]
    assert {type(group) for group in optimizer.param_groups} == {ConfigDict}
    make_groups_plain_(optimizer)
    assert {type(group) for group in optimizer.param_groups} == {dict}
    for group, old in zip(optimizer.param_groups, before, strict=True):
        for (key, value), (old_key, old_value) in zip(group.items(), old, strict=True):
            same = value == old_value if key != 'params' else value[0] is old_value[0]
            assert key == old_key and same


@pytest.mark.parametrize('works', [0, 5, 16])  # the first step has 17 graphs
def test_compilation_that_fails_goes_on_without(tmp_path, works):
    """At the first graph, after images were mixed, and after the gradient was computed."""
    compiled = []

    def broken(module, inputs):
        compiled.append(module)
        if len(compiled) > works:
            raise NotImplementedError('no compiler here')
        return module.forward

    torch._dynamo.reset()
    torch._dynamo.register_backend(broken, name=f'broken{works}')
    runner, record = run(tmp_path / 'a', compile=dict(backend=f'broken{works}'))
    log = log_of(runner)
    assert len(compiled) == works + 1
    assert log.count('torch.compile failed in training stage 1') == 1
    assert 'no compiler here' in log and 'going on without it' in log
    _, plain = run(tmp_path / 'b')
    assert record.losses == plain.losses
