# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Growth: values of weights and moments, symmetry of copies, the size of first steps."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bvit_mm.elastic import Slot
from bvit_mm.growth import (
    _Units,
    check_growth,
    check_optimizer,
    correct_bias_,
    drawn_anew,
    grow_,
    grow_weight_,
)

from .cases import vit

CASE = vit('growth', stages=[dict(heads=3, hidden=48), dict(heads=6, hidden=96)])


def trained(optimizer, steps=3, case=CASE, stage=0, seed=0):
    """A backbone after some steps, and its optimizer."""
    backbone = case.build(seed)
    backbone.set_training_stage(stage)
    optimizer = optimizer(backbone.parameters())
    train(backbone, optimizer, steps, case)
    return backbone, optimizer


def train(backbone, optimizer, steps, case=CASE):
    for step in range(steps):
        optimizer.zero_grad()
        target = torch.randn(4, 48, generator=torch.Generator().manual_seed(step))
        (backbone(case.images(batch=4, seed=step))[-1] - target).square().mean().backward()
        optimizer.step()


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.05)


OPTIMIZERS = dict(
    adamw=adamw,
    adam=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.01),
    sgd=lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=1e-4),
    amsgrad=lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    rmsprop=lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
    radam=lambda p: torch.optim.RAdam(p, lr=1e-3),
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_units_are_copied_cyclically(data):
    """4 from 2, 5 from 4, 8 from 3, any packing and any place of the units."""
    total = data.draw(st.integers(2, 9))
    old = data.draw(st.integers(1, total - 1))
    new = data.draw(st.integers(old + 1, total))
    blocks, size, dim = data.draw(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
    )
    shape = [2, 3]
    shape.insert(dim, blocks * total * size)
    before = torch.randn(shape)
    after = before.clone()
    units = _Units(Slot('w', dim, blocks), total, old, new)
    grow_weight_(after, units, 'copy', before, None)
    for index in range(blocks * total * size):
        block, unit, entry = index // (total * size), index // size % total, index % size
        source = unit % old if old <= unit < new else unit
        expected = before.select(dim, (block * total + source) * size + entry)
        assert torch.equal(after.select(dim, index), expected)


@given(st.integers(1, 8), st.data())
@settings(max_examples=200, deadline=None)
def test_half_divides_by_multiplicity(old, data):
    """The outgoing weights of a unit and its copies sum to what the unit's was."""
    total = data.draw(st.integers(old + 1, 12))
    new = data.draw(st.integers(old + 1, total))
    weight = torch.randn(5, total, dtype=torch.float64)
    grown = weight.clone()
    grow_weight_(grown, _Units(Slot('w', 1, out=True), total, old, new), 'half', weight, None)
    for unit in range(old):
        family = [i for i in range(new) if i % old == unit]
        torch.testing.assert_close(grown[:, family].sum(1), weight[:, unit])
        assert all(torch.equal(grown[:, i], grown[:, unit]) for i in family)


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('moments', ['drop', 'copy', 'drop_all'])
def test_moments_of_new_and_old_units(name, moments):
    backbone, optimizer = trained(OPTIMIZERS[name])
    before = {p: copy.deepcopy(s) for p, s in optimizer.state.items()}
    sizes = {module: module.active_units for module, _ in backbone.units(1)}
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    elastic = set()
    for module, new in backbone.units(1):
        old, total = sizes[module], module.total_units
        for slot, param in module.elastic_parameters():
            elastic.add(param)
            tensors = [k for k, v in before[param].items() if v.shape == param.shape]
            assert tensors
            for key in tensors:
                now = slot.units(optimizer.state[param][key], total)
                was = slot.units(before[param][key], total)
                dim = slot.dim + 1
                kept, source = was.narrow(dim, 0, old), was.narrow(dim, 0, new - old)
                assert torch.count_nonzero(source) > 0
                expected_new = source if moments == 'copy' else torch.zeros_like(source)
                expected_old = torch.zeros_like(kept) if moments == 'drop_all' else kept
                assert torch.equal(now.narrow(dim, old, new - old), expected_new)
                assert torch.equal(now.narrow(dim, 0, old), expected_old)
            if 'step' in before[param]:
                step = 0 if moments == 'drop_all' else before[param]['step']
                assert optimizer.state[param]['step'] == step
    for param in set(before) - elastic:
        for key, value in before[param].items():
            assert torch.equal(optimizer.state[param][key], value)
    train(backbone, optimizer, 1)


def distance_of_copies(backbone):
    """The largest difference between a unit and its copy, over all elastic weights."""
    worst = 0.0
    for module, active in backbone.units(1):
        for slot, param in module.elastic_parameters():
            units = slot.units(param.detach(), module.total_units)
            first, second = units.split([active // 2] * 2, dim=slot.dim + 1)
            worst = max(worst, (first - second).abs().max().item())
    return worst


@pytest.mark.parametrize(
    'moments, parted', [('copy', False), ('drop_all', False), ('drop', True), ('corrected', True)]
)
def test_only_dropped_moments_part_copies(moments, parted):
    """Table 11: with their moments copied, copies stay copies after 20 steps; so they do if all
    moments are dropped. Dropping those of the new units alone parts them."""
    backbone, optimizer = trained(adamw)
    backbone.double()
    for state in optimizer.state.values():
        state.update({k: v.double() for k, v in state.items() if k != 'step'})
    double = copy.deepcopy(CASE)
    double.images = lambda **kwargs: CASE.images(**kwargs).double()
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    assert distance_of_copies(backbone) == 0
    train(backbone, optimizer, 20, double)
    distance = distance_of_copies(backbone)
    assert distance > 1e-3 if parted else distance < 1e-10


def first_steps(moments, steps):
    """Mean size of updates of new units over the learning rate, for a steady gradient."""
    backbone = CASE.build()
    backbone.set_training_stage(0)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-4, weight_decay=0.0)
    modules = [module for module, _ in backbone.units(0)]
    if moments == 'corrected':
        optimizer.register_step_post_hook(lambda opt, *_: correct_bias_(opt, modules))

    def step():
        for param in backbone.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()

    for _ in range(4):
        step()
    for state in optimizer.state.values():  # as after a long training
        state['step'].fill_(50_000)
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    sizes = []
    for _ in range(steps):
        before = copy.deepcopy(backbone)
        step()
        updates = []
        for (module, new), (old_module, _) in zip(backbone.units(1), before.units(1)):
            rows = zip(module.elastic_parameters(), old_module.elastic_parameters())
            for (slot, param), (_, old_param) in rows:
                change = slot.units(param - old_param, module.total_units)
                updates.append(change.narrow(slot.dim + 1, new // 2, new // 2).abs().flatten())
        sizes.append(torch.cat(updates).mean().item() / 1e-4)
    return sizes


def test_dropped_moments_overshoot_and_corrected_ones_do_not():
    dropped = first_steps('drop', 12)
    assert dropped[0] == pytest.approx(3.16, abs=0.02)
    assert dropped[11] == pytest.approx(6.6, abs=0.1)
    assert first_steps('corrected', 12) == pytest.approx([1.0] * 12, abs=0.01)


def test_corrected_equals_a_fresh_adam_for_new_units():
    """New units step as if their own optimizer had begun at the switch, weight decay included."""
    backbone, optimizer = trained(adamw, steps=5)
    modules = [module for module, _ in backbone.units(0)]
    optimizer.register_step_post_hook(lambda opt, *_: correct_bias_(opt, modules))
    grow_(backbone, 1, moments='corrected', states=optimizer.state)
    _slot, param = next(iter(modules[1].elastic_parameters()))
    alone = nn.Parameter(param.detach()[48:].clone())
    fresh = adamw([alone])
    for step in range(30):
        backbone.zero_grad()
        backbone(CASE.images(seed=step))[-1].square().sum().backward()
        alone.grad = param.grad[48:].clone()
        optimizer.step()
        fresh.step()
        torch.testing.assert_close(param.detach()[48:], alone.detach(), atol=1e-6, rtol=1e-4)
    saved = optimizer.state_dict()
    resumed = adamw(backbone.parameters())
    resumed.load_state_dict(saved)
    assert resumed.state[param]['births'] == [[48, 96, 5]]


def test_pending_gradient_follows_the_moments():
    backbone, _optimizer = trained(adamw)
    for moments, expected in (('drop', 0), ('copy', 1), ('drop_all', 0)):
        grown = copy.deepcopy(backbone)
        for param in grown.parameters():
            param.grad = torch.ones_like(param)
        grow_(grown, 1, moments=moments)
        assert grown.layers[0].ffn.layers[0][0].bias.grad[48:].unique() == expected
        assert grown.layers[0].ffn.layers[0][0].bias.grad[:48].unique() == 1


@pytest.mark.parametrize('init', ['copy', 'half', 'noise', 'random'])
def test_twin_grows_with_the_model(init):
    backbone, _ = trained(adamw)
    twin = CASE.build(seed=9)
    twin.set_training_stage(0)
    alone = copy.deepcopy(twin)
    fresh = drawn_anew(backbone, seed=3) if init == 'random' else None
    grow_(backbone, 1, init=init, twins=[twin], fresh=fresh, seed=3)
    grow_(alone, 1, init=init, fresh=fresh, seed=3)
    assert twin.training_stage == 1
    for (name, a), b in zip(twin.named_parameters(), alone.parameters()):
        assert torch.equal(a, b), name


def test_random_is_drawn_as_at_the_start_and_the_same_for_a_seed():
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='bvit_mm.ElasticVisionTransformer', arch='deit-tiny'),
            init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02)],
        )
    )
    for param in model.parameters():
        param.data.zero_()
    state = torch.get_rng_state()
    weights = [drawn_anew(model, seed).backbone.layers[3].attn.qkv.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].std().item() == pytest.approx(0.02, rel=0.05)


def test_noise_is_small_and_the_same_for_a_seed():
    grown = []
    for seed in (1, 1, 2):
        backbone = CASE.build()
        backbone.set_training_stage(0)
        grow_(backbone, 1, init='noise', seed=seed)
        grown.append(backbone.layers[0].ffn.layers[0][0].weight.detach())
    assert torch.equal(grown[0], grown[1]) and not torch.equal(grown[0], grown[2])
    difference = (grown[0][48:] - grown[0][:48]).std() / grown[0][:48].std()
    assert difference.item() == pytest.approx(0.01, rel=0.1)


def test_bad_growth():
    backbone = CASE.build()
    with pytest.raises(ValueError, match='training stage 1 is before training stage 2'):
        grow_(backbone, 0)
    with pytest.raises(ValueError, match="init='random' needs fresh"):
        grow_(backbone, 1, init='random')
    with pytest.raises(ValueError, match="init='zero' is not known; give one of"):
        check_growth('zero', 'drop')
    with pytest.raises(ValueError, match="moments='keep' is not known; give one of"):
        check_growth('copy', 'keep')


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_optimizers_that_growth_can_serve(name):
    optimizer = OPTIMIZERS[name](CASE.build().parameters())
    check_optimizer(optimizer)
    assert not optimizer.state


class Sharded(torch.optim.Optimizer):
    """Keeps its state elsewhere, as sharding optimizers do."""

    def __init__(self, params):
        super().__init__(params, dict(lr=0.1))
        self.shard = torch.optim.Adam(self.param_groups[0]['params'])

    def step(self):
        raise KeyError('no shard for this parameter')


class Quantised(torch.optim.SGD):
    """Keeps 8-bit moments of large parameters, as some optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                if param.numel() > 1000:
                    self.state[param]['moment'] = torch.zeros_like(param, dtype=torch.uint8)


@pytest.mark.parametrize(
    'optimizer, message',
    [
        (Quantised, 'optimizer Quantised keeps state of another shape or kind'),
        (torch.optim.Adafactor, 'optimizer Adafactor keeps state of another shape'),
        (torch.optim.LBFGS, 'optimizer LBFGS cannot be stepped'),
        (Sharded, 'optimizer Sharded cannot be stepped on a single parameter'),
    ],
)
def test_optimizers_that_growth_cannot_serve(optimizer, message):
    with pytest.raises(ValueError, match=message):
        check_optimizer(optimizer([nn.Parameter(torch.ones(40, 40))]))


@pytest.mark.parametrize('name', ['sgd', 'amsgrad', 'rmsprop'])
def test_corrected_moments_are_for_adam(name):
    with pytest.raises(ValueError, match="moments='corrected' is for Adam and AdamW"):
        check_optimizer(OPTIMIZERS[name](CASE.build().parameters()), 'corrected')
