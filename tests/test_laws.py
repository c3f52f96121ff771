# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The laws that hold for every elastic backbone (docs/laws.md), over the table in cases.py."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_state_dict

from bvit_mm.growth import drawn_anew, grow_

from .support.cases import CASES, of_units, plain_mapping
from .support.closeness import assert_near
from .support.counting import counted, dtype_of, equal

every_case = pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
every_dtype = pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)


def tensors(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


# 1. At the last training stage it is the plain class, bit for bit.


@every_case
def test_same_seed_gives_the_plain_network(case):
    elastic, plain = case.build(), case.build_plain()
    ours, theirs = elastic.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    elastic.load_state_dict(theirs, strict=True)
    plain.load_state_dict(ours, strict=True)


@every_case
@pytest.mark.parametrize('training', [False, True])
def test_whole_network_equals_plain_class(case, training):
    elastic, plain = case.build(), case.build_plain()
    results = []
    for model in (elastic.to(dtype_of(case)), plain.to(dtype_of(case))):
        model.train(training)
        torch.manual_seed(5)  # drop-path
        outputs = tensors(model(case.images().to(dtype_of(case))))
        sum(out.square().sum() for out in outputs).backward()
        results.append((outputs, {name: p.grad for name, p in model.named_parameters()}))
    (ours, our_grads), (theirs, their_grads) = results
    assert all(equal(a, b, case) for a, b in zip(ours, theirs))
    for name, grad in their_grads.items():
        assert equal(our_grads[name], grad, case), name


@pytest.mark.parametrize('frozen', [1, 2])
def test_whole_network_freezes_as_the_plain_class(frozen):
    case = dataclasses.replace(CASES[0], stages=None)
    case.kwargs = {**case.kwargs, 'frozen_stages': frozen}
    elastic, plain = case.build(), case.build_plain()
    for model in (elastic, plain):
        model.train()
        torch.manual_seed(5)
        model(case.images())[0].sum().backward()
    for ours, theirs in zip(elastic.parameters(), plain.parameters()):
        assert ours.requires_grad == theirs.requires_grad
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


@every_case
def test_whole_network_takes_other_image_sizes(case):
    images = torch.randn(1, 3, *case.other_size, dtype=dtype_of(case))
    elastic, plain = (model.to(images) for model in (case.build(), case.build_plain()))
    assert equal(elastic(images)[0], plain(images)[0], case)


@every_case
def test_every_stage_takes_other_image_sizes(case):
    backbone, images = case.build(), torch.randn(1, 3, *case.other_size)
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        assert backbone(images)[-1].isfinite().all()


# 2. At stage k it equals an independent network of that size.


@every_case
@every_dtype
def test_stage_equals_small_network(case, dtype):
    backbone = case.build().to(dtype)
    images = case.images().to(dtype)
    for k, stage in enumerate(backbone.training_stages):
        backbone.set_training_stage(k)
        small = case.small(backbone, stage).to(dtype)
        assert_near(backbone(images)[-1], small(images))


@every_case
def test_stage_shrinks_to_a_network_of_its_own(case):
    """With only that stage's weights it computes the same, and is rebuilt from its arguments.

    But for rounding: other steps between the rows of a matrix may choose another kernel.
    """
    images, stages = case.images(), case.build().training_stages
    for k in range(len(stages)):
        backbone = case.build()
        backbone.set_training_stage(k)
        expected, cost = backbone(images), backbone.flops(k)
        whole = sum(p.numel() for p in backbone.parameters())
        backbone.shrink_(k)
        shrunk = sum(p.numel() for p in backbone.parameters())
        fewer_units = stages[k]._replace(grid=stages[-1].grid) != stages[-1]
        assert shrunk < whole if fewer_units else shrunk == whole
        again = case.build(seed=9, only_stage=k)
        again.load_state_dict(backbone.state_dict(), strict=True)
        outputs = backbone(images)
        for ours, theirs in zip(tensors(outputs), tensors(expected), strict=True):
            assert_near(ours, theirs)
        assert all(map(torch.equal, tensors(again(images)), tensors(outputs)))
        for network in (backbone, again):
            assert network.flops(0) == cost
            assert network.num_training_stages == 1


# 3. Gradients have full shape, exactly 0 for inactive units; the compute shrinks.


@every_case
def test_inactive_units_get_exactly_zero_gradients(case):
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        backbone.zero_grad()
        sum(out.square().sum() for out in tensors(backbone(case.images()))).backward()
        for name, param in backbone.named_parameters():
            assert param.grad is not None and param.grad.shape == param.shape, name
        for module, active in backbone.units(k):
            for slot, param in module.elastic_parameters():
                total = module.total_units
                rest = of_units(slot, param.grad, total, range(active, total))
                assert torch.count_nonzero(rest) == 0
                used = of_units(slot, param.grad, total, range(active))
                assert torch.count_nonzero(used) > 0


# 4. flops(k) equals a counter and rises with k.


@every_case
def test_flops_equal_a_counter(case):
    backbone = case.build().to('meta')
    counts = []
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        counts.append(counted(backbone, case.images(batch=1).to('meta')))
        assert backbone.flops(k) == counts[-1]
    assert counts == sorted(set(counts))


@every_case
def test_flops_of_other_image_sizes_equal_a_counter(case):
    backbone = case.build().to('meta')
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        images = torch.randn(1, 3, *case.other_size, device='meta')
        assert backbone.flops(k, input_size=case.other_size) == counted(backbone, images)


# 6. Growth leaves old units untouched; growing to the same size does nothing.


@every_case
@pytest.mark.parametrize('init', ['copy', 'random', 'noise'])
def test_growth_leaves_old_units_untouched(case, init):
    backbone = case.build()
    backbone.set_training_stage(0)
    for stage in range(1, backbone.num_training_stages):
        before = copy.deepcopy(backbone)
        fresh = drawn_anew(backbone, seed=7) if init == 'random' else None
        grow_(backbone, stage, init=init, fresh=fresh)
        assert backbone.training_stage == stage
        expected = {p: old.detach().clone() for p, old in zip(*parameters(backbone, before))}
        new = {p: torch.zeros_like(p, dtype=torch.bool) for p in expected}
        for (module, now), (old_module, _) in zip(backbone.units(stage), before.units(stage)):
            old, total = old_module.active_units, module.total_units
            assert module.active_units == now
            for slot, param in module.elastic_parameters():
                mapping = plain_mapping(slot, param.shape[slot.dim], total, old, now)
                expected[param] = expected[param].index_select(slot.dim, mapping)
                grown = (mapping != torch.arange(len(mapping))).nonzero().flatten()
                new[param].index_fill_(slot.dim, grown, True)
        for param, value in expected.items():
            assert torch.equal(param[~new[param]], value[~new[param]])
            same = torch.equal(param[new[param]], value[new[param]])
            assert same == (init == 'copy' or not new[param].any())


def parameters(*models):
    return [list(model.parameters()) for model in models]


@every_case
def test_growing_to_the_same_stage_does_nothing(case):
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        before = copy.deepcopy(backbone.state_dict())
        grow_(backbone, k, moments='drop_all')
        assert all(torch.equal(v, before[n]) for n, v in backbone.state_dict().items())


# 7. 'half' growth leaves the output as it is.


@every_case
@every_dtype
def test_half_growth_preserves_the_function(case, dtype):
    stages = case.build().training_stages
    # tokens stay, so that only heads and hidden units grow
    same_grid = [dict(heads=s.heads, hidden=s.hidden) for s in stages]  # and windows
    same_grid = [s for i, s in enumerate(same_grid) if s not in same_grid[:i]]
    backbone, images = case.build(training_stages=same_grid).to(dtype), case.images().to(dtype)
    backbone.set_training_stage(0)
    expected = backbone(images)[-1]
    for stage in range(1, backbone.num_training_stages):
        grow_(backbone, stage, init='half')
        assert_near(backbone(images)[-1], expected)


# Every stage computes in half precision too.


@every_case
def test_stages_run_under_autocast(case):
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        exact = tensors(backbone(case.images()))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rough = tensors(backbone(case.images()))
        sum(out.float().square().sum() for out in rough).backward()
        for a, b in zip(rough, exact):
            assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.9
        assert all(p.grad.isfinite().all() for p in backbone.parameters())


# The stage of unfinished weights travels with them.


@every_case
def test_weights_of_an_unfinished_run_load_as_their_stage(case, tmp_path):
    source = case.build()
    source.set_training_stage(0)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    weights = torch.load(tmp_path / 'weights.pth', weights_only=True)
    for load in (lambda m: m.load_state_dict(weights), lambda m: load_state_dict(m, weights)):
        backbone = case.build(seed=3)
        load(backbone)
        assert backbone.training_stage == 0
        assert torch.equal(backbone(case.images())[-1], source(case.images())[-1])


@every_case
def test_weights_of_an_unfinished_run_do_not_load_elsewhere(case):
    source = case.build()
    source.set_training_stage(0)
    with pytest.raises(ValueError, match='unfinished run, at a training stage with heads='):
        case.build(training_stages=None).load_state_dict(source.state_dict())


@every_case
def test_finished_weights_make_the_whole_network(case):
    """Whatever was loaded before."""
    backbone, unfinished = case.build(), case.build()
    unfinished.set_training_stage(0)
    backbone.load_state_dict(unfinished.state_dict())
    assert backbone.training_stage == 0
    backbone.load_state_dict(case.build_plain().state_dict())
    assert backbone.is_whole
