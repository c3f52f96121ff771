# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""SlimHook: its penalty however a batch is divided (S8), resumed runs (S9), logs, refusals."""

import copy
import json
import re
from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import Dataset

from bvit_mm import SlimHook
from bvit_mm.cost import classifier_flops, plan_of_config
from bvit_mm.elastic import find_backbone
from bvit_mm.running.train_in_parts import train_in_parts
from bvit_mm.slim.cutting import chosen, flops_of, scores, slim_, units_of, widths_argument
from bvit_mm.slim.hook import add_penalty_, gates_text, penalty
from bvit_mm.testing.case import randomized
from bvit_mm.testing.closeness import assert_near
from bvit_mm.testing.laws import tensors

from .support.cases import FAMILIES as CASES
from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, build, config
from .support.tools import ROOT
from .support.trainings import log_of, refused, resume
from .support.variants import EVERY_ITERATION, SEARCH, SLIM, SWITCH, VARIANTS

HEADS, HIDDEN = SLIM['heads'], SLIM['hidden']
GATES = dict(heads=6, hidden=96)  # of all modules
# Single classes and whole paths, so that losses draw no numbers.
STILL = {
    'model.backbone.drop_path_rate': 0.0,
    'model.train_cfg': None,
    'model.head.loss.use_soft': False,
}


def classifier():
    """A tiny classifier with gates between -1 and 1."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = randomized(MODELS.build(config('unused', **SEARCH, **STILL).model))
    for module, _ in find_backbone(model).read_units():
        module.gate.data.uniform_(-1, 1)
    return model


def gates_of(model):
    """The gates of each kind, one after another."""
    rows = [(axis, module.gate.detach()) for module, axis in find_backbone(model).read_units()]
    return {kind: torch.cat([gate for axis, gate in rows if axis == kind]) for kind in GATES}


def test_penalty_is_a_mean_of_each_kind():
    model = classifier()
    backbone, gates = find_backbone(model), gates_of(model)
    found = penalty(backbone, HEADS, HIDDEN)
    means = {kind: sum(map(abs, each.tolist())) / GATES[kind] for kind, each in gates.items()}
    assert found.item() == pytest.approx(HEADS * means['heads'] + HIDDEN * means['hidden'])
    found.backward()
    for module, axis in backbone.read_units():
        weight = dict(heads=HEADS, hidden=HIDDEN)[axis] / GATES[axis]
        assert torch.allclose(module.gate.grad, weight * module.gate.sign(), rtol=1e-6)
    layer = backbone.layers[0]
    for module, _ in backbone.read_units():
        module.gates_learn = module is layer.attn
    expected = HEADS * layer.attn.gate.abs().mean().item()
    assert penalty(backbone, HEADS, HIDDEN).item() == pytest.approx(expected)


def steps_of(model, way, has_penalty):
    """How far gates go by a step of SGD with a rate of 1, on eight images that come in some way."""
    model = copy.deepcopy(model)
    handle = add_penalty_(model, HEADS, HIDDEN) if has_penalty else None
    images = list(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    labels = [torch.tensor([i % 4]) for i in range(8)]
    samples = [DataSample().set_gt_label(label) for label in labels]
    batch = dict(inputs=images, data_samples=samples)
    halves = [{key: value[i : i + 4] for key, value in batch.items()} for i in (0, 4)]
    before = gates_of(model)

    def train(batches, parts=1, **options):
        ours = copy.deepcopy(model)
        wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=1.0), **options)
        wrapper.initialize_count_status(ours, 0, len(batches))
        for each in copy.deepcopy(batches):
            if parts == 1:
                ours.train_step(each, wrapper)
            else:
                train_in_parts(ours, each, wrapper, parts)
        return {kind: gate - before[kind] for kind, gate in gates_of(ours).items()}

    if way == 'processes':  # of which DistributedDataParallel averages the gradients
        both = [train([half]) for half in halves]
        found = {kind: (both[0][kind] + both[1][kind]) / 2 for kind in GATES}
    elif way == 'accumulation':
        found = train(halves, accumulative_counts=2)
    else:
        half = torch.autocast('cpu', torch.bfloat16) if way == 'autocast' else nullcontext()
        with half:
            found = train([batch], parts=3 if way == 'parts' else 1)
    if handle:
        handle.remove()
    return found


@pytest.mark.parametrize('way', ['whole', 'parts', 'accumulation', 'processes', 'autocast'])
def test_gradient_of_the_penalty_is_the_same(way):
    """The weight over the number of gates, by their signs: also in three parts of 3, 3 and 2."""
    model = classifier()
    signs = {kind: gates.sign() for kind, gates in gates_of(model).items()}
    given, without = steps_of(model, way, True), steps_of(model, way, False)
    for kind, weight in (('heads', HEADS), ('hidden', HIDDEN)):
        step = -weight / GATES[kind] * signs[kind]
        assert torch.allclose(given[kind] - without[kind], step, rtol=0, atol=1e-6)
        assert without[kind].abs().max() > 1e-4


def test_copies_have_a_penalty_of_their_own():
    """As averages of the weights and trials copy the model; and it can be taken off again."""
    model = classifier()
    data = model.data_preprocessor(
        dict(inputs=list(torch.randn(2, 3, 16, 16)), data_samples=None), False
    )
    handle = add_penalty_(model, HEADS, HIDDEN)
    twin = copy.deepcopy(model)
    for module, _ in find_backbone(model).read_units():
        module.gate.data.fill_(100.0)

    def losses(each):
        each.loss = lambda inputs, data_samples: dict(loss=each.backbone(inputs)[0].sum())
        return each(**data, mode='loss')

    assert losses(model)['loss_slim'].item() == pytest.approx(100 * (HEADS + HIDDEN))
    assert losses(twin)['loss_slim'].item() < HEADS + HIDDEN
    assert isinstance(twin(**data, mode='tensor'), torch.Tensor)
    for module, _ in find_backbone(twin).read_units():
        module.gates_learn = False
    assert list(losses(twin)) == ['loss']
    handle.remove()
    assert list(losses(model)) == ['loss']


def scalars(work_dir):
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def train(work_dir, heads, hidden, **changes):
    slim = dict(SLIM, heads=heads, hidden=hidden)
    runner = build(work_dir, **{**SEARCH, 'custom_hooks': [SWITCH, slim], **changes})
    runner.train()
    return runner


def test_large_penalty_moves_gates_to_0(tmp_path):
    """And none leaves them near 1; logs have it beside the loss of the head."""
    decay = {'optim_wrapper.paramwise_cfg': dict(custom_keys={'gate': dict(decay_mult=0.0)})}
    means = {}
    for weight in (0, 50):
        runner = train(tmp_path / str(weight), weight, weight, **decay)
        means[weight] = {kind: each.mean().item() for kind, each in gates_of(runner.model).items()}
        assert not runner.model._forward_hooks
    assert all(mean > 0.97 for mean in means[0].values())
    assert all(mean < 0.96 for mean in means[50].values())
    with_it, without = (
        [line for line in scalars(tmp_path / each) if 'loss' in line] for each in ('50', '0')
    )
    assert with_it[0]['loss_slim'] == pytest.approx(100.0)  # of gates of 1
    assert with_it[0]['loss'] == without[0]['loss'] and without[0]['loss_slim'] == 0
    losses = [line['loss_slim'] for line in with_it]
    assert losses == sorted(losses, reverse=True) and len(losses) == 2 * BATCHES
    validated = [line for line in scalars(tmp_path / '50') if 'accuracy/top1' in line]
    assert validated and not any('loss_slim' in line for line in validated)
    assert 'pulls gates to 0' not in log_of(runner)


def test_log_says_what_a_cut_would_keep(tmp_path):
    """At its interval and after the last epoch; the same choice as of ``choose``."""
    runner = train(
        tmp_path, 5, 5, **{'train_cfg.epochs': [3]}, custom_hooks=[SWITCH, {**SLIM, 'interval': 2}]
    )
    log = log_of(runner)
    lines = re.findall(r'gates below .*', log)
    assert len(lines) == 2 and lines[-1] == gates_text(runner.model)
    assert 'weight decay (0.05) pulls gates to 0' in log  # once
    assert log.count('pulls gates') == 1
    backbone = find_backbone(runner.model)
    for kind, gates in gates_of(runner.model).items():
        low = sum(gate < 0.5 for gate in gates.abs().tolist()) / len(gates)
        assert f'{low:.1%} of {GATES[kind]} {kind}' in lines[-1]
    units = units_of(backbone, [scores(module).tolist() for module, _ in backbone.read_units()])
    classifier = classifier_flops(runner.model)
    whole = flops_of(backbone, backbone.totals()) + classifier
    for share in (0.5, 0.7, 0.9):
        kept = list(map(len, chosen(backbone, units, classifier, int(share * whole))))
        heads, hidden = (
            f'{sum(each) / 2:.1f} ({min(each)} to {max(each)})' for each in (kept[::2], kept[1::2])
        )
        assert f'{share:.0%}: {heads} of 3 heads, {hidden} of 48 hidden' in lines[-1]
    backbone.layers[0].attn.gate.data[0] = float('nan')
    assert '90%: not possible (module 1: unit 1 of 3 (heads) has the score nan' in gates_text(
        runner.model
    )


@pytest.mark.parametrize('at', [3, 6])
def test_resumed_equals_uninterrupted(tmp_path_factory, at, whole_search):
    """Within the first epoch, and as the second begins; with averages and accumulation."""
    changes = search_changes()
    resumed = resume(tmp_path_factory.mktemp('resumed'), whole_search, at, changes)
    assert_same_run(resumed, last_file(whole_search))


def search_changes():
    both = VARIANTS['both']
    return {**both, **SEARCH, **EVERY_ITERATION, 'custom_hooks': [*both['custom_hooks'], SLIM]}


@pytest.fixture(scope='module')
def whole_search(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('whole')
    build(work_dir, **search_changes()).train()
    gates = {
        key: value for key, value in last_file(work_dir)['state_dict'].items() if 'gate' in key
    }
    assert len(gates) == 4 and not any((gate == 1).all() for gate in gates.values())
    return work_dir


@MODELS.register_module()
class Finder(BaseModel):
    """Has the interface of detectors: losses by name, of which some are lists."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.heads = nn.ModuleList([nn.Linear(24, 1), nn.Linear(24, 1)])

    def forward(self, inputs, data_samples=None, mode='tensor'):
        outputs = [head(self.backbone(inputs)[-1]) for head in self.heads]
        if mode != 'loss':
            return outputs
        return dict(loss_cls=[out.square() for out in outputs], acc=outputs[0].mean())


@DATASETS.register_module()
class SomeImages(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(3, 16, 16))


def test_compiled_with_the_rest_of_the_step():
    """In one graph, which knows when gates begin to learn."""
    torch.manual_seed(0)
    model = Finder(config('unused', **SEARCH, **STILL).model.backbone)
    model.backbone.forward = lambda images: [images.new_ones(2, 24)]  # which is soon compiled
    handle = add_penalty_(model, HEADS, HIDDEN)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda images: model(images, mode='loss'), backend='eager', fullgraph=True
    )
    images = torch.randn(2, 3, 16, 16)
    for learn in (False, True):
        for module, _ in find_backbone(model).read_units():
            module.gates_learn = learn
        losses = compiled(images)
        assert ('loss_slim' in losses) == learn
    assert losses['loss_slim'].item() == pytest.approx(HEADS + HIDDEN)
    handle.remove()
    torch._dynamo.reset()


@pytest.mark.parametrize('family, gates', [*((family, True) for family in CASES), ('vit', 'dims')])
def test_compiled_gates_learn_as_others_do(family, gates):
    """torch.compile could take the plain path without a word, and gates would have no gradient."""
    torch.manual_seed(0)
    backbone = CASES[family].build(gates=gates)
    images = CASES[family].images()
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        backbone.zero_grad()
        model = torch.compile(backbone, backend='eager') if compiled else backbone
        torch.autograd.backward([out.square().sum() for out in tensors(model(images))])
        found.append([module.gate.grad.clone() for module, _ in backbone.read_units()])
    torch._dynamo.reset()
    for ours, theirs in zip(*found, strict=True):
        assert_near(ours, theirs)


def test_other_models_in_other_loops(tmp_path):
    cfg = config(tmp_path, **SEARCH)
    loader = dict(cfg.train_dataloader, dataset=dict(type='SomeImages'))
    runner = Runner(
        dict(type='Finder', backbone=cfg.model.backbone),
        str(tmp_path),
        loader,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=9),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[SLIM],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        experiment_name='finder',
        default_scope='mmpretrain',
    )
    runner.train()
    first, _ = scalars(tmp_path)
    assert first['loss_slim'] == pytest.approx(HEADS + HIDDEN)
    assert first['loss'] == pytest.approx(first['loss_cls'] + first['loss_slim'], rel=1e-4)
    assert log_of(runner).count('gates below') == 1


@pytest.mark.parametrize('name', ['heads', 'hidden'])
@pytest.mark.parametrize('value', [-0.1, float('nan'), float('inf'), True, '0.2', None])
def test_hook_refuses_weights(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r} of SlimHook must be a number, at'):
        SlimHook(**{name: value})


@pytest.mark.parametrize('value', [0, 1.5, True, '2'])
def test_hook_refuses_intervals(value):
    with pytest.raises(ValueError, match=f'interval={value!r} of SlimHook must be a whole'):
        SlimHook(interval=value)


@pytest.mark.parametrize('loop', ['budgeted', 'plain'])
def test_networks_without_gates_are_refused(tmp_path, loop):
    changes = {**SEARCH, 'model.backbone.gates': False}
    if loop == 'plain':
        changes['train_cfg'] = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)
        changes['custom_hooks'] = [SLIM]
        del changes['train_cfg.epochs']
    refused(tmp_path, 'ElasticVisionTransformer has none; give gates=True or', **changes)


RETRAINED = [
    ('slim/deit-small_slim-retrain-f70_4xb256_in1k', 4.6083),
    ('slim/swin-tiny_slim-retrain-f70_16xb64_in1k', 4.5092),
]


@pytest.mark.parametrize('name, whole', RETRAINED)
def test_retraining_is_planned_without_a_file(name, whole):
    """Of a network for 70 % of the FLOPs."""
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    plan, _ = plan_of_config(cfg)
    assert 0.68 < plan.gflops[0] / whole <= 0.7 and plan.epochs == (300,)


def test_retraining_takes_what_was_cut(tmp_path, monkeypatch):
    """The widths of the config beside the weights; and these fit."""
    init_default_scope('mmpretrain')
    search = Config.fromfile(ROOT / 'configs/demo/deit-digits_slim-search.py')
    model = MODELS.build(search.model)
    backbone = find_backbone(model)
    kept = [range(n) for n in (1, 100, 2, 384, 3, 50, 1, 7)]
    widths = widths_argument(backbone, slim_(backbone, kept))
    assert widths == dict(heads=[1, 2, 3, 1], hidden=[100, 384, 50, 7])
    file = tmp_path / 'digits-0.6-abcdef01.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    written = dict(
        model=dict(backbone=dict(type='bvit_mm.ElasticVisionTransformer', widths=widths))
    )
    Config(written).dump(file.with_suffix('.py'))
    monkeypatch.setenv('SLIM', str(file))
    cfg = Config.fromfile(ROOT / 'configs/demo/deit-digits_slim-retrain.py')
    assert cfg.load_from == str(file) and cfg.model.backbone.widths == widths
    again = MODELS.build(cfg.model)
    again.load_state_dict(torch.load(file)['state_dict'], strict=True)
    assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
