# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""MuonAdamW: torch's Muon and AdamW on whole matrices, and their steps of active units alone."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier
from torch import nn

from bvit_mm import MuonAdamW
from bvit_mm.compare import ABLATIONS
from bvit_mm.growth import grow_
from bvit_mm.muon import orthogonalized
from bvit_mm.running.optimizer_probe import probe_optimizer
from bvit_mm.testing.closeness import assert_near, distance
from bvit_mm.testing.laws import of_units

from .support.cases import FAMILIES
from .support.files import assert_same_run, last_file
from .support.runs import build
from .support.tools import DEIT_S
from .support.trainings import resume
from .support.variants import EVERY_ITERATION, SHORT, SWITCH

RATE, DECAY = 1e-2, 0.05
# torch's five iterations round the products of three multiplications each to 8 bits.
ROUNDED = 15 * torch.finfo(torch.bfloat16).eps


def matrix(*shape, seed=0, dtype=torch.float32):
    """A parameter of random numbers."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return nn.Parameter(numbers)


def train(optimizers, params, steps=3):
    """Some steps with random gradients, the same for parameters in the same order."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for param in params:
            gradient = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            param.grad = gradient.to(param)
        for optimizer in optimizers:
            optimizer.step()


def step(backbone, optimizer, images, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        out = backbone(images)
        sum(x.square().sum() for x in (out if isinstance(out, tuple) else [out])).backward()
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='torch 2.9 brought Muon')
@pytest.mark.parametrize('shape', [(8, 8), (12, 5), (5, 12)])
@pytest.mark.parametrize('precise', [True, False])
def test_whole_matrices_step_as_torch_does(monkeypatch, shape, precise):
    """To float32's rounding where torch does not compute in bfloat16, and to that one's else."""
    ours, theirs = matrix(*shape), matrix(*shape)
    muon = MuonAdamW([dict(params=[ours], matrices=1)], lr=RATE, weight_decay=DECAY, momentum=0.9)
    options = dict(lr=RATE, weight_decay=DECAY, momentum=0.9, adjust_lr_fn='match_rms_adamw')
    torchs = torch.optim.Muon([theirs], **options)
    if precise:
        monkeypatch.setattr(torch.Tensor, 'bfloat16', torch.Tensor.clone)
    train([muon], [ours])
    train([torchs], [theirs])
    if precise:
        assert_near(ours, theirs)
    else:
        moved = (theirs - matrix(*shape)).norm()
        assert (ours - theirs).norm() < ROUNDED * moved


def test_the_rest_steps_as_adamw():
    """Bit for bit."""
    shapes = (3, 4), (5,), (4, 3, 2, 2), ()
    ours, theirs = ([matrix(*shape) for shape in shapes] for _ in range(2))
    options = dict(lr=RATE, weight_decay=DECAY, betas=(0.8, 0.99), eps=1e-6)
    muon = MuonAdamW([dict(params=[matrix(2, 2)], matrices=1), dict(params=ours)], **options)
    train([muon], ours)
    train([torch.optim.AdamW(theirs, **options)], theirs)
    assert all(map(torch.equal, ours, theirs))


def test_packed_matrices_step_apart():
    """q, k and v in one weight as three weights, though one has larger gradients by far."""
    packed = matrix(12, 6, dtype=torch.float64)
    parts = [nn.Parameter(part.clone()) for part in packed.detach().chunk(3)]
    for param, held in ((packed, 3), *((part, 1) for part in parts)):
        param.matrices = held
    gradient = matrix(12, 6, seed=1, dtype=torch.float64).detach()
    gradient[:4] *= 100
    packed.grad = gradient
    for param, part in zip(parts, gradient.chunk(3)):
        param.grad = part
    for params in ([packed], parts):
        MuonAdamW(params, lr=RATE).step()
    assert_near(packed, torch.cat(parts))


def test_singular_values_are_brought_near_one():
    for shape in ((1, 6, 6), (1, 9, 4), (2, 4, 9)):
        values = torch.linalg.svdvals(orthogonalized(matrix(*shape).detach()))
        assert values.min() > 0.6 and values.max() < 1.3
    assert not orthogonalized(torch.zeros(1, 3, 4)).count_nonzero()


def test_inactive_rows_and_columns_do_not_change_the_step():
    """A small matrix steps as it does as a part of a larger one, whose rest does not move."""
    small = matrix(5, 7, dtype=torch.float64)
    large = nn.Parameter(torch.ones(40, 30, dtype=torch.float64))
    rows, columns = torch.arange(5) * 7, torch.arange(7) * 4
    place = rows[:, None], columns
    large.data[place] = small.detach()
    for param in (small, large):
        param.matrices = 1
    optimizers = MuonAdamW([small], weight_decay=0.0), MuonAdamW([large], weight_decay=0.0)
    for seed in range(3):
        small.grad = matrix(5, 7, seed=seed, dtype=torch.float64).detach()
        large.grad = torch.zeros_like(large)
        large.grad[place] = small.grad
        for optimizer in optimizers:
            optimizer.step()
    assert_near(large[place], small)
    rest = large.detach().clone()
    rest[place] = 1.0
    assert torch.equal(rest, torch.ones_like(rest))


def test_steps_are_as_long_as_said():
    """0.2 of the learning rate, up to how near singular values are to 1."""
    for shape in ((16, 64), (64, 16)):
        param = nn.Parameter(torch.zeros(shape))
        param.matrices = 1
        param.grad = matrix(*shape).detach()
        MuonAdamW([param], lr=RATE).step()
        root_mean_square = param.detach().square().mean().sqrt() / RATE
        assert 0.2 * 0.7 < root_mean_square < 0.2 * 1.2


@pytest.mark.parametrize('case', FAMILIES.values(), ids=list(FAMILIES))
def test_backbones_say_which_weights_are_matrices(case):
    """Those of linear layers; packed ones as their slots say, CSWin's for each direction.

    Those of PoolFormer's are 1 x 1.
    """
    backbone = case.build()
    packed = {'qkv.weight': 3, 'kv.weight': 2}
    elastic = {id(p) for m, axis, _ in backbone.units(0) for _, p in m.elastic_parameters(axis)}
    linear = {id(m.weight) for m in backbone.modules() if isinstance(m, nn.Linear)}
    linear |= {id(p) for p in backbone.parameters() if p.shape[2:] == (1, 1)} & elastic
    assert linear
    for name, param in backbone.named_parameters():
        if id(param) not in linear:
            assert not hasattr(param, 'matrices'), name
        elif id(param) in elastic:
            module, *last_two = name.rsplit('.', 2)
            held = packed.get('.'.join(last_two), 1)
            if held > 1:
                held *= getattr(backbone.get_submodule(module), 'branches', 1)
            assert param.matrices == held, name
        else:
            assert param.matrices == 1, name


@pytest.mark.parametrize('case', FAMILIES.values(), ids=list(FAMILIES))
def test_stages_train_as_small_networks(case):
    """Active units as in a network that has no others; the others never move."""
    for k in range(case.build().num_training_stages - 1):
        backbone, small = case.build().double(), case.build().double()
        backbone.set_training_stage(k)
        small.shrink_(k)
        before = copy.deepcopy(dict(backbone.named_parameters()))
        for each in (backbone, small):
            optimizer = MuonAdamW(each.parameters(), lr=1e-3, weight_decay=0.0)
            step(each, optimizer, case.images(batch=3).double())
        names = {param: name for name, param in backbone.named_parameters()}
        for module, axis, active in backbone.units(k):
            total = module.total(axis)
            for slot, param in module.elastic_parameters(axis):
                rest = of_units(slot, param, total, range(active, total))
                start = of_units(slot, before[names[param]], total, range(active, total))
                assert torch.equal(rest, start), names[param]
        backbone.shrink_(k)
        for (name, ours), theirs in zip(backbone.named_parameters(), small.parameters()):
            assert distance(ours, theirs) < 1e-9, (k, name)


def classifier(case):
    head = dict(type='LinearClsHead', num_classes=2, in_channels=9)
    return ImageClassifier(case.build(), head=head)


@pytest.mark.parametrize('paramwise', [None, dict(norm_decay_mult=0.0)])
def test_built_by_mmengine(paramwise):
    """With a group for each parameter, or with one, which becomes one for each kind."""
    model = classifier(FAMILIES['swin'])
    optimizer = dict(type='bvit_mm.MuonAdamW', lr=RATE, weight_decay=DECAY)
    cfg = dict(optimizer=optimizer, paramwise_cfg=paramwise)
    optimizer = build_optim_wrapper(model, cfg).optimizer
    held = {id(p): group['matrices'] for group in optimizer.param_groups for p in group['params']}
    for name, param in model.named_parameters():
        is_matrix = any(part in name for part in ('qkv.w', 'proj.w', 'ffn.layers', 'reduction'))
        is_matrix = is_matrix and param.dim() == 2
        assert held.pop(id(param)) == (3 if 'qkv.w' in name else int(is_matrix)), name
    assert not held
    number = len(list(model.parameters())) if paramwise else 3
    assert len(optimizer.param_groups) == number


def test_groups_say_otherwise():
    """The user's word counts, for a backbone of others, or against ours."""
    model = classifier(FAMILIES['vit'])
    keys = {'.qkv.weight': dict(matrices=0), 'head.fc.weight': dict(matrices=1)}
    cfg = dict(
        optimizer=dict(type='bvit_mm.MuonAdamW', lr=RATE), paramwise_cfg=dict(custom_keys=keys)
    )
    optimizer = build_optim_wrapper(model, cfg).optimizer
    held = {id(p): group['matrices'] for group in optimizer.param_groups for p in group['params']}
    assert held[id(model.head.fc.weight)] == 1
    assert held[id(model.backbone.layers[0].attn.qkv.weight)] == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(lr=-1.0), r'lr=-1\.0; give a number of at least 0'),
        (dict(eps=-1.0), r'eps=-1\.0; give a number of at least 0'),
        (dict(weight_decay=-0.1), r'weight_decay=-0\.1'),
        (dict(momentum=1.0), r'momentum=1\.0; give a number from 0 to below 1'),
        (dict(betas=(0.9, 1.5)), r'betas\[1\]=1\.5'),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=f'MuonAdamW: {message}'):
        MuonAdamW([dict(params=[matrix(2, 2)], matrices=1)], **options)


def test_matrices_that_do_not_fit():
    for held, shape, message in (
        (3, (8, 4), r'matrices=3 of a parameter of shape \(8, 4\).*\.weight'),
        (1, (8,), r'matrices=1 of a parameter of shape \(8,\)'),
        (True, (8, 4), 'matrices=True of a parameter group; give 0, 1, 2'),
        (-1, (8, 4), 'matrices=-1 of a parameter group'),
    ):
        with pytest.raises(ValueError, match=message):
            MuonAdamW([dict(params=[matrix(*shape)], matrices=held)])
    with pytest.raises(ValueError, match=r'finds no matrices.*only backbones of bvit_mm'):
        MuonAdamW([matrix(2, 2)])
    with pytest.raises(TypeError, match='nesterov'):
        MuonAdamW([matrix(2, 2)], nesterov=False)


def test_growth_serves_the_momentum():
    """It is a moment, which new units have none of, or a copy; 'corrected' is refused by name."""
    case = FAMILIES['vit']
    for moments in ('drop', 'copy'):
        backbone = case.build()
        backbone.set_training_stage(0)
        optimizer = MuonAdamW(backbone.parameters(), lr=RATE)
        step(backbone, optimizer, case.images())
        traits = probe_optimizer(optimizer)
        assert not traits.averages and not traits.counters
        qkv = backbone.layers[0].attn.qkv.weight
        before = optimizer.state[qkv]['momentum'].clone().unflatten(0, (3, 3, -1))
        grow_(backbone, 1, moments=moments, states=optimizer.state)
        after = optimizer.state[qkv]['momentum'].unflatten(0, (3, 3, -1))
        assert before[:, 0].count_nonzero() and torch.equal(after[:, 0], before[:, 0])
        new = before[:, 0] if moments == 'copy' else torch.zeros_like(before[:, 0])
        assert torch.equal(after[:, 1], new)


def test_copies_of_heads_part_only_if_their_momentum_does():
    """Two heads alike, with the same momentum, stay alike; without, they do not."""
    case = FAMILIES['vit']
    parted = {}
    for moments in ('drop', 'copy'):
        backbone = case.build().double()
        backbone.set_training_stage(0)
        optimizer = MuonAdamW(backbone.parameters(), lr=RATE)
        images = case.images().double()
        step(backbone, optimizer, images)
        grow_(backbone, 1, moments=moments, states=optimizer.state)
        step(backbone, optimizer, images)
        heads = backbone.layers[0].attn.qkv.weight.detach().unflatten(0, (3, 3, -1))
        parted[moments] = distance(heads[:, 0], heads[:, 1])
    assert parted['copy'] < 1e-9 and parted['drop'] > 1e-3


def test_state_dict_says_all():
    """A new optimizer that loads it goes on bit for bit."""
    params = [matrix(6, 4), matrix(4)]
    params[0].matrices = 2
    whole = MuonAdamW(params, lr=RATE)
    train([whole], params, steps=2)
    again = [nn.Parameter(param.detach().clone()) for param in params]
    again[0].matrices = 2
    resumed = MuonAdamW(again, lr=1.0)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for optimizer, group in ((whole, params), (resumed, again)):
        train([optimizer], group, steps=2)
    assert all(map(torch.equal, params, again))


def test_stopped_and_resumed(tmp_path):
    """Two iterations after a switch that grew the momentum, and before another."""
    muon = {'optim_wrapper.optimizer.type': 'bvit_mm.MuonAdamW', 'custom_hooks': [SWITCH]}
    changes = {**muon, **SHORT, **EVERY_ITERATION}
    build(tmp_path / 'whole', **changes).train()
    resumed = resume(tmp_path / 'resumed', tmp_path / 'whole', 8, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))
    states = resumed['optimizer']['state'].values()
    assert {frozenset(state) for state in states} == {
        frozenset({'momentum'}),
        frozenset({'step', 'exp_avg', 'exp_avg_sq'}),
    }


def test_method_takes_the_rate_of_adamw():
    cfg = Config.fromfile(DEIT_S)
    rate = cfg.optim_wrapper.optimizer.lr
    cfg.merge_from_dict(ABLATIONS['muon'](cfg, 0.5))
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'bvit_mm.MuonAdamW' and math.isclose(optimizer.lr, rate)
    cfg.optim_wrapper.optimizer.type = 'SGD'
    with pytest.raises(ValueError, match=r'learning rate is that of AdamW, but .* SGD'):
        ABLATIONS['muon'](cfg, 0.5)
