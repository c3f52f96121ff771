# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Growth: values of weights and moments, symmetry of copies, the size of first steps."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bvit_mm.backbones.swin import OffsetSlot
from bvit_mm.elastic_modules import UnitSlot
from bvit_mm.growth import (
    INITS,
    NewUnits,
    check_growth,
    check_moments,
    correct_bias_,
    drawn_anew,
    grow_,
)
from bvit_mm.testing.closeness import assert_near
from bvit_mm.testing.laws import of_units, plain_mapping

from .support.cases import pvtv2, swin, vit

CASE = vit('growth', stages=[dict(heads=3, hidden=48), dict(heads=6, hidden=96)])
CASES = [
    CASE,
    pvtv2('growth', stages=[dict(heads=(1, 2, 4), hidden=(32, 40, 50), grid=10), dict()]),
    swin('growth', stages=[dict(heads=(2, 4, 3), hidden=(48, 50, 192), grid=12, window=3), dict()]),
]
every_case = pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)


def trained(optimizer, steps=3, case=CASE, stage=0, seed=0, dtype=torch.float32):
    """A backbone after some steps, and its optimizer."""
    backbone = case.build(seed).to(dtype)
    backbone.set_training_stage(stage)
    optimizer = optimizer(backbone.parameters())
    train(backbone, optimizer, steps, case)
    return backbone, optimizer


def train(backbone, optimizer, steps, case=CASE):
    dtype = next(backbone.parameters()).dtype
    for step in range(steps):
        optimizer.zero_grad()
        outputs = backbone(case.images(batch=4, seed=step).to(dtype))[-1]
        target = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(step))
        (outputs - target).square().mean().backward()
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
    units = NewUnits(UnitSlot('w', dim, 'heads', blocks), shape[dim], total, old, new)
    INITS['copy'](after, units, None)
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
    units = NewUnits(UnitSlot('w', 1, 'heads', out=True), total, total, old, new)
    INITS['half'](grown, units, None)
    for unit in range(old):
        family = [i for i in range(new) if i % old == unit]
        assert_near(grown[:, family].sum(1), weight[:, unit])
        assert all(torch.equal(grown[:, i], grown[:, unit]) for i in family)


def test_units_of_uneven_levels_are_copied_cyclically():
    """PVTv2's 4 -> 5 and 4 -> 8 heads, and another number of hidden units at each level."""
    stages = [
        dict(heads=(1, 2, 4, 4), hidden=(64, 100, 500, 1000), grid=48),
        dict(heads=(1, 2, 5, 8)),
    ]
    case = pvtv2('b0', stages=stages, arch='b0', img_size=224)
    case.kwargs.update(patch_sizes=(7, 3, 3, 3), strides=(4, 2, 2, 2), out_indices=(3,))
    backbone = case.build()
    backbone.set_training_stage(0)
    before = copy.deepcopy(backbone.state_dict())
    grow_(backbone, 1)
    weights = backbone.state_dict()
    for level, old, new, dims in ((2, 4, 5, 32), (3, 4, 8, 32)):
        name = f'levels.{level}.blocks.1.attn.q.weight'
        now, was = (w[name].unflatten(0, (-1, dims)) for w in (weights, before))
        for head in range(new):
            assert torch.equal(now[head], was[head % old])
    for level, old, new in ((0, 64, 256), (1, 100, 512), (2, 500, 640), (3, 1000, 1024)):
        name = f'levels.{level}.blocks.1.mlp.dwconv.weight'
        for unit in range(new):
            assert torch.equal(weights[name][unit], before[name][unit % old])


@st.composite
def uneven_stages(draw, total, window=None):
    """Two training stages of a pyramid, each level growing by any number of units, or by none."""
    smaller = {key: tuple(draw(st.integers(1, n)) for n in units) for key, units in total.items()}
    if window is not None:
        smaller['window'] = draw(st.integers(1, window))
    whole = {**total, **({} if window is None else {'window': window})}
    return [smaller, {}] if smaller != whole else [{}]


PVTV2_UNITS = dict(heads=(2, 4, 5), hidden=(64, 64, 80))
SWIN_UNITS = dict(heads=(3, 6, 4), hidden=(96, 192, 384))


def check_uneven_growth(case, init):
    """Every new unit is the copy of the one that it should be; 'half' keeps the function."""
    backbone, images = case.build().double(), case.images().double()
    backbone.set_training_stage(0)
    before = dict(zip(backbone.parameters(), copy.deepcopy(list(backbone.parameters()))))
    output = backbone(images)[-1]
    sizes = active_units(backbone)
    last = backbone.num_training_stages - 1
    grow_(backbone, last, init=init)
    if init == 'half':
        assert_near(backbone(images)[-1], output)
        return
    expected = dict(before)
    for module, axis, new in backbone.units(last):
        for slot, param, mapping in grown_entries(module, axis, sizes[module, axis], new):
            expected[param] = expected[param].index_select(slot.dim, mapping)
    assert all(torch.equal(param, value) for param, value in expected.items())


@given(uneven_stages(PVTV2_UNITS), st.sampled_from(['copy', 'half']))
@settings(max_examples=60, deadline=None)
def test_uneven_growth_of_pvtv2(stages, init):
    check_uneven_growth(pvtv2('uneven', stages=stages), init)


@given(uneven_stages(SWIN_UNITS, window=4))
@settings(max_examples=40, deadline=None)
def test_uneven_growth_of_swin(stages):
    check_uneven_growth(swin('uneven', stages=stages), 'copy')


@given(uneven_stages(SWIN_UNITS))
@settings(max_examples=40, deadline=None)
def test_uneven_half_growth_of_swin(stages):
    """At the whole window: another one attends to other tokens."""
    check_uneven_growth(swin('uneven', stages=stages), 'half')


def active_units(backbone):
    """How many units are active, by module and axis."""
    return {(module, axis): module.active[axis] for module, axis, _ in backbone.units(0)}


def grown_entries(module, axis, old, new):
    """For each elastic parameter of a module: which entries are new, and where they came from."""
    for slot, param in module.elastic_parameters(axis):
        mapping = plain_mapping(slot, param.shape[slot.dim], module.total(axis), old, new)
        yield slot, param, mapping


@every_case
@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('moments', ['drop', 'copy', 'drop_all'])
def test_moments_of_new_and_old_units(case, name, moments):
    backbone, optimizer = trained(OPTIMIZERS[name], case=case)
    before = {p: copy.deepcopy(s) for p, s in optimizer.state.items()}
    expected = copy.deepcopy(before)
    expected = dict(zip(before, expected.values()))
    sizes = active_units(backbone)
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    for module, axis, new in backbone.units(1):
        if new == sizes[module, axis]:
            continue
        for slot, param, mapping in grown_entries(module, axis, sizes[module, axis], new):
            grown = (mapping != torch.arange(len(mapping))).nonzero().flatten()
            tensors = [
                k for k, v in before[param].items() if torch.as_tensor(v).shape == param.shape
            ]
            assert tensors
            for key in tensors:
                assert torch.count_nonzero(before[param][key]) > 0
                if moments == 'drop_all':
                    expected[param] = {}
                    continue
                moment = expected[param][key]
                if moments == 'copy':
                    moment.copy_(moment.index_select(slot.dim, mapping))
                else:
                    moment.index_fill_(slot.dim, grown, 0)
    for param, state in expected.items():
        assert optimizer.state[param].keys() == state.keys()
        for key, value in state.items():
            # torch 2.1's RMSprop counts its steps in an int
            assert torch.equal(torch.as_tensor(optimizer.state[param][key]), torch.as_tensor(value))
    train(backbone, optimizer, 1, case)


def distance_of_copies(backbone, sizes):
    """The largest difference between a head or hidden unit and its copy, over all weights."""
    worst = 0.0
    for module, axis, new in backbone.units(1):
        old, total = sizes[module, axis], module.total(axis)
        for slot, param in module.elastic_parameters(axis):
            if isinstance(slot, OffsetSlot):
                continue  # a new offset is no copy of one, it only starts as one
            for unit in range(old, new):
                copied, source = (
                    of_units(slot, param.detach(), total, [n]) for n in (unit, unit % old)
                )
                worst = max(worst, (copied - source).abs().max().item())
    return worst


@every_case
@pytest.mark.parametrize(
    'moments, parted', [('copy', False), ('drop_all', False), ('drop', True), ('corrected', True)]
)
def test_only_dropped_moments_part_copies(case, moments, parted):
    """Table 11: with their moments copied, copies stay copies after 20 steps; so they do if all
    moments are dropped. Dropping those of the new units alone parts them."""
    backbone, optimizer = trained(adamw, case=case, dtype=torch.float64)
    sizes = active_units(backbone)
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    assert distance_of_copies(backbone, sizes) == 0
    train(backbone, optimizer, 20, case)
    distance = distance_of_copies(backbone, sizes)
    assert distance > 1e-3 if parted else distance < 1e-10


def first_steps(moments, steps, case=CASE):
    """Mean size of updates of new units over the learning rate, for a steady gradient."""
    backbone = case.build()
    backbone.set_training_stage(0)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-4, weight_decay=0.0)
    if moments == 'corrected':
        optimizer.register_step_post_hook(lambda opt, *_: correct_bias_(opt))

    def step():
        for param in backbone.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()

    for _ in range(4):
        step()
    for state in optimizer.state.values():  # as after a long training
        state['step'].fill_(50_000)
    sizes = active_units(backbone)
    grow_(backbone, 1, moments=moments, states=optimizer.state)
    means = []
    for _ in range(steps):
        before = {param: param.detach().clone() for param in backbone.parameters()}
        step()
        updates = []
        for module, axis, new in backbone.units(1):
            grown = range(sizes[module, axis], new)
            for slot, param in module.elastic_parameters(axis):
                change = (param.detach() - before[param]).abs()
                updates.append(of_units(slot, change, module.total(axis), grown).flatten())
        means.append(torch.cat(updates).mean().item() / 1e-4)
    return means


@every_case
def test_dropped_moments_overshoot_and_corrected_ones_do_not(case):
    """Swin's bias tables grow in two dimensions at once, and are corrected once."""
    dropped = first_steps('drop', 12, case)
    assert dropped[0] == pytest.approx(3.16, abs=0.02)
    assert dropped[11] == pytest.approx(6.6, abs=0.1)
    assert first_steps('corrected', 12, case) == pytest.approx([1.0] * 12, abs=0.01)


def test_corrected_equals_a_fresh_adam_for_new_units():
    """New units step as if their own optimizer had begun at the switch, weight decay included."""
    backbone, optimizer = trained(adamw, steps=5, dtype=torch.float64)
    optimizer.register_step_post_hook(lambda opt, *_: correct_bias_(opt))
    grow_(backbone, 1, moments='corrected', states=optimizer.state)
    param = backbone.layers[0].ffn.layers[0][0].weight
    alone = nn.Parameter(param.detach()[48:].clone())
    fresh = adamw([alone])
    for step in range(30):
        backbone.zero_grad()
        backbone(CASE.images(seed=step).double())[-1].square().sum().backward()
        alone.grad = param.grad[48:].clone()
        optimizer.step()
        fresh.step()
        assert_near(param.detach()[48:], alone.detach())
    resumed = adamw(backbone.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    saved = resumed.state[param]
    assert torch.equal(saved['births'][0], torch.tensor([0.0] * 48 + [5.0] * 48))
    assert saved['last_birth'] == 5


def test_pending_gradient_follows_the_moments():
    backbone, _optimizer = trained(adamw)
    for moments, expected in (('drop', 0), ('copy', 1), ('drop_all', 0)):
        grown = copy.deepcopy(backbone)
        for param in grown.parameters():
            param.grad = torch.ones_like(param)
        grow_(grown, 1, moments=moments)
        assert grown.layers[0].ffn.layers[0][0].bias.grad[48:].unique() == expected
        assert grown.layers[0].ffn.layers[0][0].bias.grad[:48].unique() == 1


@every_case
@pytest.mark.parametrize('init', INITS)
def test_twin_grows_with_the_model(case, init):
    backbone, _ = trained(adamw, case=case)
    twin = case.build(seed=9)
    twin.set_training_stage(0)
    alone = copy.deepcopy(twin)
    fresh = drawn_anew(backbone, seed=3)
    grow_(backbone, 1, init=init, twins=[twin], fresh=lambda: fresh, seed=3)
    grow_(alone, 1, init=init, fresh=lambda: fresh, seed=3)
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
    backbone.set_training_stage(0)
    with pytest.raises(ValueError, match="init='random' needs fresh"):
        grow_(backbone, 1, init='random')
    with pytest.raises(ValueError, match="init='zero' is not known; give one of"):
        check_growth('zero', 'drop')
    with pytest.raises(ValueError, match="moments='keep' is not known; give one of"):
        check_growth('copy', 'keep')


@pytest.mark.parametrize('name', ['sgd', 'amsgrad', 'rmsprop'])
def test_corrected_moments_are_for_adam(name):
    with pytest.raises(ValueError, match="moments='corrected' is for Adam and AdamW"):
        check_moments(OPTIMIZERS[name](CASE.build().parameters()), 'corrected')
