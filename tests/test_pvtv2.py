# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ElasticPVTv2 against other libraries' PVTv2, the official weights' names, and wrong input."""

import pytest
import torch
from mmengine.registry import MODELS

from bvit_mm import ElasticPVTv2
from bvit_mm.backbones.pvtv2 import ARCHS

from .cases import randomised
from .other_pvtv2 import mmdet_pvtv2, official_keys, timm_pvtv2

# Millions of parameters and GFLOPs that the official repository prints.
OFFICIAL_SIZES = [
    ('b0', False, 3.7, 0.6),
    ('b1', False, 14.0, 2.1),
    ('b2', False, 25.4, 4.0),
    ('b2', True, 22.6, 3.9),
    ('b3', False, 45.2, 6.9),
    ('b4', False, 62.6, 10.1),
    ('b5', False, 82.0, 11.8),
]


@pytest.mark.parametrize('arch, linear, million, gflops', OFFICIAL_SIZES)
def test_sizes_are_the_official_ones(arch, linear, million, gflops):
    with torch.device('meta'):
        backbone = ElasticPVTv2(arch, linear=linear)
    classifier = backbone.embed_dims[-1] * 1000
    parameters = sum(p.numel() for p in backbone.parameters()) + classifier + 1000
    assert parameters / 1e6 == pytest.approx(million, abs=0.06)
    assert (backbone.flops(0) + classifier) / 1e9 == pytest.approx(gflops, abs=0.1)


def outputs_and_gradients(model, images, mode):
    model.train(mode)
    torch.manual_seed(3)  # drop-path
    outputs = model(images)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    sum(out.square().sum() for out in outputs).backward()
    return outputs, images.grad


@pytest.mark.parametrize('size', [(64, 64), (96, 70), (31, 31)])
@pytest.mark.parametrize('arch', ['b0', 'b1'])
@pytest.mark.parametrize('training', [False, True])
def test_equals_mmdet(arch, size, training):
    torch.manual_seed(0)
    ours = ElasticPVTv2(arch, out_indices=(0, 1, 2, 3), drop_path_rate=0.1 * training)
    randomised(ours)
    results = []
    for model in (ours, mmdet_pvtv2(ours)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        results.append(outputs_and_gradients(model, images.requires_grad_(), training))
    (our_maps, our_grad), (their_maps, their_grad) = results
    assert len(our_maps) == 4
    for a, b in zip(our_maps, their_maps):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert (our_grad - their_grad).abs().max() <= 1e-5 * their_grad.abs().max()


@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize('arch', ['b0', 'b2'])
def test_equals_timm(arch, linear):
    torch.manual_seed(0)
    ours = randomised(ElasticPVTv2(arch, linear=linear))
    results = []
    for model in (ours, timm_pvtv2(ours, linear)):
        images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        results.append(outputs_and_gradients(model, images.requires_grad_(), False))
    (our_maps, our_grad), (their_maps, their_grad) = results
    pooled = our_maps[0].mean((2, 3))
    assert (pooled - their_maps[0]).abs().max() <= 1e-5 * their_maps[0].abs().max()
    assert our_grad.isfinite().all() and their_grad.isfinite().all()


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(
    'arch, linear', [('b0', False), ('b2', False), ('b2', True), ('b5', False)]
)
def test_official_weights_load(arch, linear, prefix):
    backbone = ElasticPVTv2(arch, linear=linear)
    generator = torch.Generator().manual_seed(0)
    official = {
        name: torch.randn(shape, generator=generator)
        for name, shape in official_keys(backbone.arch_settings, linear).items()
    }
    weights = {prefix + name: value for name, value in official.items()}
    model = torch.nn.ModuleDict(dict(backbone=backbone)) if prefix else backbone
    model.load_state_dict(weights, strict=True)
    ours = backbone.state_dict()
    assert len(ours) == len(official) - 2  # the classifier
    for there, here in (
        ('patch_embed1.proj.weight', 'levels.0.patch_embed.proj.weight'),
        ('block3.1.attn.kv.bias', 'levels.2.blocks.1.attn.kv.bias'),
        ('block2.0.mlp.dwconv.dwconv.weight', 'levels.1.blocks.0.mlp.dwconv.weight'),
        ('norm4.bias', 'levels.3.norm.bias'),
    ):
        assert torch.equal(ours[here], official[there])


def test_our_own_weights_load():
    torch.manual_seed(0)
    source, backbone = ElasticPVTv2('b0'), ElasticPVTv2('b0')
    backbone.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(
        backbone.levels[2].blocks[1].mlp.dwconv.weight, source.levels[2].blocks[1].mlp.dwconv.weight
    )


def test_initialisation_is_the_official_one():
    torch.manual_seed(0)
    backbone = ElasticPVTv2('b2', linear=True)
    backbone.init_weights()
    level = backbone.levels[2]
    block = level.blocks[0]
    for weight, std in (
        (block.attn.kv.weight, 0.02),
        (block.mlp.fc1.weight, 0.02),
        (block.mlp.dwconv.weight, (2 / 9) ** 0.5),
        (block.attn.sr.weight, (2 / 320) ** 0.5),
        (level.patch_embed.proj.weight, (2 / 9 / 320) ** 0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    biases = [p for name, p in backbone.named_parameters() if name.endswith('bias')]
    assert all(torch.count_nonzero(bias) == 0 for bias in biases)
    assert torch.equal(block.norm1.weight, torch.ones(320))


def test_init_cfg_replaces_the_initialisation():
    init = dict(type='Constant', layer='Linear', val=0.5)
    backbone = ElasticPVTv2('b0', init_cfg=init)
    backbone.init_weights()
    assert (backbone.levels[0].blocks[0].mlp.fc1.weight == 0.5).all()


BAD = [
    (dict(arch='b6'), r"arch='b6' of ElasticPVTv2 is not known; give \('b0', "),
    (dict(arch=dict(depths=(1,))), r'must be one of .* or a dict of \(.embed_dims'),
    (dict(strides=(4, 2)), "needs one number a level of everything, but has .*'strides': 2"),
    (
        dict(arch={**ARCHS['b0'], 'num_heads': (1, 2, 3, 8)}),
        'level 3 of ElasticPVTv2: embed_dims=160 is no multiple of num_heads=3',
    ),
    (dict(out_indices=(4,)), r'out_indices=\(4,\) of ElasticPVTv2 must be levels from 0\.\.3'),
    (dict(img_size=(224, 224, 3)), r'img_size=\(224, 224, 3\) of ElasticPVTv2 must be the side'),
    (dict(out_indices=()), r'out_indices=\(\) of ElasticPVTv2 must be levels'),
    (
        dict(training_stages=[dict(grid=4), dict()]),
        r'training stage 1: grid=\(4, 4\) leaves 4x4 tokens at level 1, fewer than its sr_ratio=8',
    ),
    (dict(img_size=16), r'training stage 1: grid=\(4, 4\) leaves 4x4 tokens at level 1'),
    (
        dict(training_stages=[dict(heads=2), dict()]),
        r'stage 1: heads=2 must be one number for each of 4 levels, such as \(1, 2, 5, 8\)',
    ),
    (
        dict(training_stages=[dict(heads=(1, 2, 6, 8)), dict()]),
        r'training stage 1: heads=\(1, 2, 6, 8\), but level 3 has 5 heads; give 1\.\.5',
    ),
    (
        dict(training_stages=[dict(hidden=(256, 512, 0, 1024)), dict()]),
        r'hidden=\(256, 512, 0, 1024\), but level 3 has 640 hidden; give 1\.\.640',
    ),
    (
        dict(training_stages=[dict(heads=(1, 2.0, 5, 8)), dict()]),
        'but 2.0 of level 2 is not a whole number',
    ),
    (
        dict(training_stages=[dict(window=5), dict()]),
        r"training stage 1: \['window'\] is not known",
    ),
    (
        dict(training_stages=[dict(heads=(1, 2, 4, 8)), dict(heads=(1, 2, 5, 7)), dict()]),
        r'training stage 2: heads=\(1, 2, 5, 7\) is less than \(1, 2, 4, 8\) in training stage 1',
    ),
]


@pytest.mark.parametrize('options, message', BAD)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='bvit_mm.ElasticPVTv2', **{'arch': 'b0', **options}))
