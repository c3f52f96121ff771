# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""DeiT III and T2T-ViT, of which mmpretrain's classes are faulty: docs/patches corrects them."""

import importlib.util
import re
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmpretrain.models.backbones import DeiT3, T2T_ViT, VisionTransformer
from mmpretrain.models.utils import MultiheadAttention
from mmpretrain.registry import MODELS

from bvit_mm import ElasticDeiT3, ElasticT2TViT
from bvit_mm.elastic import find_backbone
from bvit_mm.testing import LAWS, Case
from bvit_mm.testing.case import randomized
from bvit_mm.testing.closeness import assert_near, distance

from .support import cases
from .support.cases import DEIT3, T2T, deit3, t2t
from .support.runs import build
from .support.tools import ROOT

PATCHES = {
    'mmpretrain-deit3': ('deit3.py', ElasticDeiT3),
    'mmpretrain-t2t-vit': ('t2t_vit.py', ElasticT2TViT),
}


def corrected(patch, tmp_path, monkeypatch):
    """The module of mmpretrain that a patch corrects, from a corrected copy of its file."""
    page = (ROOT / 'docs' / 'patches' / f'{patch}.patch').read_text()
    (name,) = re.findall(r'^\+\+\+ b/(\S+)$', page, flags=re.M)
    (hunk,) = re.findall(r'^@@ .* @@\n((?:[ +-].*\n)+)', page, flags=re.M)
    lines = hunk.splitlines(keepends=True)
    before = ''.join(line[1:] for line in lines if line[0] != '+')
    after = ''.join(line[1:] for line in lines if line[0] != '-')
    source = (Path(mmpretrain.__file__).parent.parent / name).read_text()
    own, elastic = PATCHES[patch]
    assert source.count(before) == 1, (
        f'{name} is no longer what docs/patches/{patch}.patch corrects. If mmpretrain has '
        f'corrected it, remove that patch, its tests here, and plain_fault of {elastic.__name__}; '
        f'set its plain_type, compare it with the plain class in tests/support/cases.py, and drop '
        f'what backbones/{own} puts right and what docs/options.md says of it'
    )
    file = tmp_path / f'{patch}.py'
    file.write_text(source.replace(before, after))
    parts = (*Path(name).parent.parts, 'corrected')
    spec = importlib.util.spec_from_file_location('.'.join(parts), file)
    module = importlib.util.module_from_spec(spec)
    for registered in re.findall(r'@MODELS.register_module\(\)\nclass (\w+)', source):
        monkeypatch.delitem(MODELS.module_dict, registered)  # and put back after the test
    spec.loader.exec_module(module)
    return module


def same_weights(ours, theirs):
    """Two networks in float64, nowhere at rest, the second with the weights of the first."""
    randomized(ours).double()
    theirs.double().load_state_dict(ours.state_dict(), strict=True)
    theirs.eval()
    return ours, theirs


def outputs_and_gradients(network, images):
    network.train()
    torch.manual_seed(3)  # drop-path
    (out,) = network(images)
    out.square().sum().backward()
    return [out, *(param.grad for param in network.parameters())]


@pytest.mark.parametrize('options', [{}, dict(use_layer_scale=False, out_type='featmap')])
def test_corrected_deit3_equals_ours(options, tmp_path, monkeypatch):
    """Bit for bit, gradients too."""
    options = {**DEIT3, **options}
    module = corrected('mmpretrain-deit3', tmp_path, monkeypatch)
    ours, theirs = same_weights(ElasticDeiT3(**options), module.DeiT3(**options))
    images = deit3('images').images().double()
    pairs = zip(outputs_and_gradients(ours, images), outputs_and_gradients(theirs, images))
    assert all(torch.equal(a, b) for a, b in pairs)


def test_corrected_t2t_vit_equals_ours(tmp_path, monkeypatch):
    module = corrected('mmpretrain-t2t-vit', tmp_path, monkeypatch)
    layers = 'mmpretrain.models.backbones.t2t_vit'
    monkeypatch.setattr(f'{layers}.MultiheadAttention', module.MultiheadAttention)
    ours, theirs = same_weights(ElasticT2TViT(**T2T), T2T_ViT(**T2T))
    images = t2t('images').images().double()
    for a, b in zip(outputs_and_gradients(ours, images), outputs_and_gradients(theirs, images)):
        assert_near(a, b)


def test_deit3_is_a_vision_transformer_without_a_position_of_its_class_token():
    """As another class of mmpretrain computes it, which is right."""
    ours = randomized(ElasticDeiT3(**DEIT3))
    theirs = VisionTransformer(**DEIT3, layer_scale_init_value=1e-5)
    weights = dict(ours.state_dict())
    none = weights['pos_embed'].new_zeros(1, 1, 24)
    weights['pos_embed'] = torch.cat([none, weights['pos_embed']], dim=1)
    theirs.load_state_dict(weights, strict=True)
    theirs.eval()
    images = deit3('images').images()
    assert torch.equal(ours(images)[-1], theirs(images)[-1])


def test_t2t_vit_is_mmpretrains_with_smaller_queries():
    """Divided by two roots of a width, so that multiplying scores by one leaves them divided."""
    ours, theirs = same_weights(ElasticT2TViT(**T2T), T2T_ViT(**T2T))
    images = t2t('images').images().double()
    assert distance(theirs(images)[-1], ours(images)[-1]) > 0.1
    for module in theirs.modules():
        if isinstance(module, MultiheadAttention):
            came_in = module.input_dims // module.num_heads
            queries = module.qkv.weight.data[: module.embed_dims]
            queries /= (came_in * module.head_dims) ** 0.5
    assert_near(ours(images)[-1], theirs(images)[-1])


@pytest.mark.parametrize(
    'family, plain, fault',
    [
        (deit3, DeiT3, 'applies the first norm of a layer twice and the second never'),
        (t2t, T2T_ViT, 'multiplies attention scores by a root of the width'),
    ],
)
def test_faults_are_named_where_the_plain_class_is_compared(family, plain, fault, tmp_path):
    own = family('own')
    case = Case('mine', own.elastic, plain, own.small, own.stages, own.kwargs)
    LAWS['same_seed_gives_the_plain_network'](case)
    for name in ('whole_network_equals_plain_class-False', 'whole_network_takes_other_image_sizes'):
        with pytest.raises(AssertionError, match=f'other outputs .*{fault}'):
            LAWS[name](case)
    model = build(tmp_path, **cases.FAMILIES[own.family].run_changes()).model
    model.backbone = case.build_plain()
    with pytest.raises(ValueError, match=rf'such as bvit_mm\.{own.elastic.__name__}, .*{fault}'):
        find_backbone(model)
