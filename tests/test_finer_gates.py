# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The networks of the experiment on finer gates are what it says that it compares."""

import copy
from itertools import pairwise

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from bvit_mm.cost import classifier_flops
from bvit_mm.slim.cutting import chosen, units_of
from bvit_mm.testing.closeness import assert_near

from .support.scripts import load_script
from .support.tools import ROOT

finer = load_script(ROOT / '.dev_scripts' / 'finer_gates.py')
KINDS = 'heads', 'dims', 'tokens'
LAYERS, HEADS, WIDTH = 3, 3, 24


@pytest.fixture(autouse=True)
def absent_tokens(monkeypatch):
    """Tokens that hardly are there are absent."""
    monkeypatch.setattr(finer, 'FLOOR', 1e-30)


def network():
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    arch = dict(
        embed_dims=WIDTH, num_layers=LAYERS, num_heads=HEADS, feedforward_channels=2 * WIDTH
    )
    backbone = dict(type='bvit_mm.ElasticVisionTransformer', arch=arch, img_size=16, patch_size=4)
    head = dict(type='VisionTransformerClsHead', num_classes=5, in_channels=WIDTH)
    model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    for param in model.parameters():
        param.data += 0.2 * torch.randn_like(param)
    return model.double().eval()


def searched(kind):
    """With gates that differ, and what half of the FLOPs keeps of them."""
    model = finer.with_gates(network(), kind)
    for name, param in model.named_parameters():
        if 'gate' in name:
            param.data = torch.empty_like(param).uniform_(0.2, 1)
    units = finer.units_of(model.backbone, None)
    budget = whole_flops(model) // 2
    kept = finer.choose(units, lambda kept: finer.flops_of(model, kept), budget)
    assert 0.97 * budget < finer.flops_of(model, kept) <= budget
    return model.double(), units, kept


def whole_flops(model):
    return network().backbone.flops(0) + classifier_flops(model)


def features(model):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return model.backbone(images.double())[0]


@pytest.mark.parametrize('kind', KINDS)
def test_gates_of_1_are_the_whole_network(kind):
    model = finer.with_gates(network(), kind).double()
    assert_near(features(model), features(network()))
    everything = [range(len(each.scores)) for each in finer.units_of(model.backbone, None)]
    assert finer.flops_of(model, everything) == whole_flops(model)


@pytest.mark.parametrize('kind', KINDS)
def test_cut_network_is_the_one_with_gates_at_0(kind):
    model, _, kept = searched(kind)
    backbone, cut = model.backbone, copy.deepcopy(model)
    for (module, _), units in zip(backbone.read_units(), kept):
        gone = sorted(set(range(len(module.gate))) - set(units))
        module.gate.data[gone] = 0
    if kind == 'tokens':
        backbone.token_gate.data.zero_()
        for gates, positions in zip(backbone.token_gate.data, finer.positions_of(backbone, kept)):
            gates[sorted(positions)] = 1  # what they learned is dropped
    finer.cut_(cut, kept)
    assert_near(features(cut.double()), features(model))


@pytest.mark.parametrize('kind', ['heads', 'dims'])
def test_units_are_chosen_as_the_package_does(kind):
    model, units, kept = searched(kind)
    theirs = chosen(
        model.backbone,
        units_of(model.backbone, [each.scores for each in units]),
        classifier_flops(model),
        whole_flops(model) // 2,
        fill=True,
    )
    assert [sorted(each) for each in kept] == [sorted(each) for each in theirs]


def test_positions_are_nested_and_drawn_ones_as_many():
    model, _, kept = searched('tokens')
    permutation = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    units = finer.units_of(model.backbone, permutation)
    drawn = finer.choose(units, lambda kept: finer.flops_of(model, kept), whole_flops(model) // 2)
    assert [*map(len, drawn)] == [*map(len, kept)]
    for chosen_units in (kept, drawn):
        sets = finer.positions_of(model.backbone, chosen_units)
        assert all(later <= earlier for earlier, later in pairwise(sets))
        assert sets == [set(each) for each in chosen_units[2 * LAYERS :]]
    assert kept[2 * LAYERS] != drawn[2 * LAYERS]
