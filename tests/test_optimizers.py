# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What optimizers keep: what follows the weights, what counts, what growth cannot serve."""

import copy

import pytest
import torch
from torch import nn

from bvit_mm.growth import grow_
from bvit_mm.running.optimizer_probe import ABSENT, forget_, probe_optimizer
from bvit_mm.testing.laws import of_units

from .support.cases import vit
from .support.files import differences
from .support.optimizers import COUNTERS, REFUSED, SERVED, WEIGHTS, Optional, Primal

CASE = vit('optimizers', stages=[dict(heads=3, hidden=48), dict()])


def parameters():
    """A square matrix and one that is not, a vector, a convolution; each with a gradient."""
    shapes = (24, 24), (40, 24), (40,), (40, 1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


@pytest.mark.parametrize('name', SERVED)
def test_probe_tells_what_follows_weights_and_what_counts(name):
    params = parameters()
    before = copy.deepcopy(params)
    optimizer = SERVED[name](params)
    groups = copy.deepcopy([{**g, 'params': None} for g in optimizer.param_groups])
    states = [copy.deepcopy(dict(optimizer.state[p])) for p in params]  # of Adagrad there is some
    state = torch.get_rng_state()
    traits = probe_optimizer(optimizer)
    assert traits.averages == WEIGHTS.get(name, set())
    assert traits.counters.keys() == COUNTERS.get(name, set())
    assert not differences([dict(optimizer.state[p]) for p in params], states)
    assert [{**g, 'params': None} for g in optimizer.param_groups] == groups
    assert all(map(torch.equal, params, before))
    assert torch.equal(torch.get_rng_state(), state)
    optimizer.step()
    assert probe_optimizer(optimizer) == traits  # in the middle of a run too


@pytest.mark.parametrize('name', REFUSED)
def test_optimizers_that_growth_cannot_serve(name):
    build, message = REFUSED[name]
    params = parameters()
    before = copy.deepcopy(params)
    with pytest.raises(ValueError, match=f'optimizer {name.removeprefix("Timm")[:5]}.*{message}'):
        probe_optimizer(build(params))
    assert all(map(torch.equal, params, before))


def grown(name, init='copy', moments='drop', steps=4):
    """A backbone that grew after some steps, its optimizer, and both as they were before."""
    backbone = CASE.build()
    backbone.set_training_stage(0)
    optimizer = SERVED[name](backbone.parameters())
    step(backbone, optimizer, steps)
    states = copy.deepcopy({n: optimizer.state[p] for n, p in backbone.named_parameters()})
    weights = copy.deepcopy(dict(backbone.named_parameters()))
    traits = probe_optimizer(optimizer)
    averages = dict.fromkeys(backbone.parameters(), traits.averages)
    grow_(backbone, 1, init, moments, states=optimizer.state, averages=averages)
    if moments == 'drop_all':
        forget_(optimizer, traits.counters)
    return backbone, optimizer, weights, states


def step(backbone, optimizer, steps):
    for seed in range(steps):
        optimizer.zero_grad()
        backbone(CASE.images(batch=4, seed=seed))[-1].square().sum().backward()
        optimizer.step()


def grown_parameters(backbone):
    """Name, parameter, and a function to its old or new units, of all that grew by a half."""
    names = {param: name for name, param in backbone.named_parameters()}
    for module, axis, total in backbone.units(1):
        for slot, param in module.elastic_parameters(axis):
            half = total // 2

            def part(tensor, new, slot=slot, total=total, half=half):
                return of_units(slot, tensor, total, range(half * new, half * (1 + new)))

            yield names[param], param, slot, part


@pytest.mark.parametrize('name', WEIGHTS)
@pytest.mark.parametrize('moments', ['drop', 'copy'])
@pytest.mark.parametrize('init', ['copy', 'half'])
def test_state_that_follows_the_weights_grows_like_them(name, moments, init):
    """That of new units is their weights, or a copy; that of old ones is divided as they are."""
    backbone, optimizer, weights, states = grown(name, init, moments)
    for key, param, slot, part in grown_parameters(backbone):
        shared = 2 if init == 'half' and slot.out else 1
        for kept in WEIGHTS[name]:
            now, before = optimizer.state[param][kept], states[key][kept]
            assert torch.count_nonzero(part(before, 0)) > 0
            assert torch.equal(part(now, 0), part(before, 0) / shared)
            if moments == 'copy':
                assert torch.equal(part(now, 1), part(before, 0) / shared)
            else:
                assert torch.equal(part(now, 1), part(param, 1))
                assert torch.equal(part(param, 1), part(weights[key], 0) / shared)


@pytest.mark.parametrize('name', WEIGHTS)
def test_new_units_are_not_pulled_away(name):
    """One step after a switch a new unit is near the one that it is a copy of, not near zero."""
    backbone, optimizer, *_ = grown(name)
    step(backbone, optimizer, 1)
    for _, param, _, part in grown_parameters(backbone):
        old, new = part(param.detach(), 0), part(param.detach(), 1)
        assert (old - new).norm() < 0.1 * old.norm()


@pytest.mark.parametrize('name', SERVED)
def test_all_moments_forgotten_is_a_new_optimizer(name):
    """After 'drop_all' parameters that grew step as under an optimizer that never stepped."""
    backbone, optimizer, *_ = grown(name, moments='drop_all')
    twin = copy.deepcopy(backbone)
    fresh = SERVED[name](twin.parameters())
    for each in (backbone, twin):
        each.zero_grad()
        each(CASE.images(batch=4, seed=9))[-1].square().sum().backward()
    for each in (optimizer, fresh):
        torch.manual_seed(0)
        each.step()
    names = {key for key, *_ in grown_parameters(backbone)}
    assert names
    for (key, ours), theirs in zip(backbone.named_parameters(), twin.parameters()):
        if key in names or name in COUNTERS:
            assert torch.equal(ours, theirs), key
    for group in optimizer.param_groups:
        for counter in COUNTERS.get(name, ()):
            assert group[counter] == fresh.param_groups[0][counter]


def test_counters_begin_where_the_optimizer_says():
    traits = probe_optimizer(Primal(parameters()))
    assert traits.counters == {'steps': 0}
    assert probe_optimizer(SERVED['Lamb'](parameters())).counters == {'step': ABSENT}


def test_groups_that_are_set_up_otherwise_are_tried_each():
    """Only the second one keeps weights."""
    params = parameters()
    asks = dict(params=params[1:], nesterov=True, momentum=0.9)
    optimizer = Optional([dict(params=params[:1]), asks])
    assert probe_optimizer(optimizer).averages == {'kept'}


def test_a_parameter_may_be_a_number():
    """Such as the scales in heads of detectors."""
    params = [*parameters(), nn.Parameter(torch.ones(()))]
    assert probe_optimizer(SERVED['AdamW'](params)).averages == set()


def test_hooks_of_the_user_are_not_called():
    optimizer = SERVED['AdamW'](parameters())
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    probe_optimizer(optimizer)
    assert not called
    optimizer.step()
    assert called


def test_an_optimizer_may_know_itself_and_the_model():
    optimizer = SERVED['AdamW'](parameters())
    optimizer.me, optimizer.model = [optimizer], nn.Linear(3, 3)
    assert probe_optimizer(optimizer).averages == set()
