# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The laws that hold for every elastic backbone (docs/laws.md), over the table in cases.py."""

import copy
import dataclasses

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bvit_mm import ElasticVisionTransformer
from bvit_mm.growth import drawn_anew, grow_

from .cases import CASES

every_case = pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)


def tensors(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def inactive(slot, tensor, total, active):
    """The entries of units that are not active."""
    return slot.units(tensor, total).narrow(slot.dim + 1, active, total - active)


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
    for model in (elastic, plain):
        model.train(training)
        torch.manual_seed(5)  # drop-path
        outputs = tensors(model(case.images()))
        sum(out.square().sum() for out in outputs).backward()
        results.append((outputs, {name: p.grad for name, p in model.named_parameters()}))
    (ours, our_grads), (theirs, their_grads) = results
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    for name, grad in their_grads.items():
        assert torch.equal(our_grads[name], grad), name


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
    patch = case.kwargs['patch_size']
    images = torch.randn(1, 3, 11 * patch, 9 * patch)
    assert torch.equal(case.build()(images)[0], case.build_plain()(images)[0])


# 2. At stage k it equals an independent network of that size.


@every_case
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_stage_equals_small_network(case, dtype, tolerance):
    backbone = case.build().to(dtype)
    images = case.images().to(dtype)
    for k, stage in enumerate(backbone.training_stages):
        backbone.set_training_stage(k)
        small = case.small(backbone, stage).to(dtype)
        ours, theirs = backbone(images)[-1], small(images)
        assert ours.shape == theirs.shape
        scale = theirs.abs().max()
        assert (ours - theirs).abs().max() <= tolerance * scale


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
                rest = inactive(slot, param.grad, module.total_units, active)
                assert torch.count_nonzero(rest) == 0
                used = slot.active(param.grad, module.total_units, active)
                assert torch.count_nonzero(used) > 0


def counted(backbone, images):
    """Multiply-adds by torch's counter, and 5 an element of each layer norm."""
    norms = []
    handles = [
        module.register_forward_hook(lambda m, args, out: norms.append(5 * out.numel()))
        for module in backbone.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    counter = FlopCounterMode(display=False)
    with counter:  # on the meta device: on the CPU it counts fused attention as nothing
        backbone(images)
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() // 2 + sum(norms)


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


@pytest.mark.parametrize('size', [224, 288, (256, 192)])
def test_flops_of_other_image_sizes_equal_a_counter(size):
    with torch.device('meta'):
        backbone = ElasticVisionTransformer(arch='deit-tiny', training_stages=3)
    height, width = size if isinstance(size, tuple) else (size, size)
    for k in range(3):
        backbone.set_training_stage(k)
        images = torch.randn(1, 3, height, width, device='meta')
        assert backbone.flops(k, input_size=size) == counted(backbone, images)


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
        elastic_parameters = set()
        for (module, new), (old_module, _) in zip(backbone.units(stage), before.units(stage)):
            old, total = old_module.active_units, module.total_units
            assert module.active_units == new
            rows = zip(module.elastic_parameters(), old_module.elastic_parameters())
            for (slot, param), (_, old_param) in rows:
                elastic_parameters.add(param)
                now, was = slot.units(param, total), slot.units(old_param, total)
                dim = slot.dim + 1
                assert torch.equal(now.narrow(dim, 0, old), was.narrow(dim, 0, old))
                rest = total - new
                assert torch.equal(now.narrow(dim, new, rest), was.narrow(dim, new, rest))
                for unit in range(old, new):
                    grown, source = now.select(dim, unit), was.select(dim, unit % old)
                    assert torch.equal(grown, source) == (init == 'copy')
        for param, old_param in zip(backbone.parameters(), before.parameters()):
            if param not in elastic_parameters:
                assert torch.equal(param, old_param)


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
def test_half_growth_preserves_the_function(case):
    stages = case.build().training_stages
    # tokens stay, so that only heads and hidden units grow
    same_grid = [dict(heads=s.heads, hidden=s.hidden) for s in stages]
    same_grid = [s for i, s in enumerate(same_grid) if s not in same_grid[:i]]
    backbone = case.build(training_stages=same_grid)
    backbone.set_training_stage(0)
    expected = backbone(case.images())[-1]
    for stage in range(1, backbone.num_training_stages):
        grow_(backbone, stage, init='half')
        torch.testing.assert_close(backbone(case.images())[-1], expected, atol=1e-5, rtol=1e-5)


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
