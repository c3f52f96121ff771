# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What detectors' configs set for a backbone: checkpointed blocks, frozen levels, modes."""

import pytest
import torch

from bvit_mm import ElasticPVTv2
from bvit_mm.testing.laws import equal

from .support.cases import CASES, PVTV2, cswin, pvtv2, swin, swinv2

DROPS = dict(drop_path_rate=0.3, drop_rate=0.2)
CHECKPOINTED = [
    pvtv2('base', attn_drop_rate=0.2, **DROPS),
    pvtv2('linear', linear=True, **DROPS),
    cswin('base', attn_drop_rate=0.2, **DROPS),
    swin('base', **DROPS),
    swin('position', use_abs_pos_embed=True, **DROPS),
    swinv2('base', **DROPS),
]


def results(backbone, case):
    """Outputs, gradients, the random state after them, and how often a block was computed."""
    calls = []
    levels = backbone.stages if hasattr(backbone, 'stages') else backbone.levels
    levels[-1].blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    backbone.zero_grad()
    torch.manual_seed(4)
    outputs = backbone(case.images().to(case.dtype))
    sum(out.square().sum() for out in outputs).backward()
    grads = {name: param.grad for name, param in backbone.named_parameters()}
    return outputs, grads, torch.get_rng_state(), len(calls)


@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint:UserWarning')
@pytest.mark.parametrize('case', CHECKPOINTED, ids=lambda case: case.name)
def test_checkpointed_blocks_compute_the_same_at_every_stage(case):
    """Bit for bit; Swin nearly: mmpretrain computes without gradients first, by another kernel."""
    for k in range(case.build().num_training_stages):
        found = []
        for with_cp in (False, True):
            backbone = case.build(with_cp=with_cp)
            backbone.set_training_stage(k)
            found.append(results(backbone.train().to(case.dtype), case))
        (kept, kept_grads, kept_state, once), (again, grads, state, twice) = found
        assert (once, twice) == (1, 2)
        assert all(equal(a, b, case) for a, b in zip(again, kept))
        assert all(equal(grads[name], grad, case) for name, grad in kept_grads.items())
        assert torch.equal(kept_state, state)


def test_checkpointed_blocks_run_once_without_gradients():
    case = CHECKPOINTED[0]
    backbone, calls = case.build(with_cp=True), []
    backbone.levels[0].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        outputs = backbone(case.images())
    assert len(calls) == 1
    assert all(map(torch.equal, outputs, case.build()(case.images())))


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3])
def test_frozen_levels_are_not_trained(frozen, with_cp):
    """The others get the gradients that they would have if nothing were frozen."""
    case = pvtv2('frozen', stages=None, drop_path_rate=0.0)
    grads = results(case.build().train(), case)[1]
    backbone = case.build(frozen_stages=frozen, with_cp=with_cp).train()
    frozen_names = [f'levels.{i}.' for i in range(frozen)]
    if frozen >= 0:
        frozen_names.append('levels.0.patch_embed.')
    (output,) = backbone(case.images())
    assert output.requires_grad == (frozen < 3)
    if output.requires_grad:
        output.square().sum().backward()
    for name, param in backbone.named_parameters():
        if name.startswith(tuple(frozen_names)):
            assert param.grad is None and not param.requires_grad, name
        else:
            assert torch.equal(param.grad, grads[name]), name


@pytest.mark.parametrize('mode', [True, False])
def test_frozen_levels_stay_in_evaluation_mode(mode):
    options = {**PVTV2, 'out_indices': (0, 1, 2), 'drop_path_rate': 0.9, 'drop_rate': 0.9}
    backbone = ElasticPVTv2(**options, frozen_stages=1)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # as made, and after train()
        assert not any(module.training for module in backbone.levels[0].modules())
        backbone.train(mode)
        trained = {level.training for level in backbone.levels[1:]}
        assert trained == {mode}
    first, again = backbone(images), backbone(images)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[2], again[2]) == (not mode)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_modes_return_the_backbone(case):
    """As torch's modules do; mmpretrain's return None."""
    backbone = case.elastic(**case.kwargs)
    assert backbone.eval() is backbone
    assert not backbone.training
    assert backbone.train() is backbone
    assert backbone.training
