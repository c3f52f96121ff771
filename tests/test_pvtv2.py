# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ElasticPVTv2 against other libraries' PVTv2, the official weights' names, and wrong input."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from bvit_mm import ElasticPVTv2
from bvit_mm.backbones.pvtv2 import ARCHS
from bvit_mm.testing.case import randomized
from bvit_mm.testing.closeness import assert_near

from .support.other_pvtv2 import mmdet_pvtv2, official_keys, timm_pvtv2

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


every_dtype = pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)


def outputs_and_gradients(model, size, dtype, mode, pooled=False):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    images = images.to(dtype).requires_grad_()
    model.to(dtype).train(mode)
    torch.manual_seed(3)  # drop-path
    outputs = model(images)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    outputs = [out.mean((2, 3)) if pooled and out.dim() == 4 else out for out in outputs]
    sum(out.square().sum() for out in outputs).backward()
    return outputs, images.grad


@pytest.mark.parametrize('size', [(64, 64), (96, 70), (31, 31)])
@pytest.mark.parametrize('arch', ['b0', 'b1'])
@pytest.mark.parametrize('training', [False, True])
@every_dtype
def test_equals_mmdet(arch, size, training, dtype):
    torch.manual_seed(0)
    ours = ElasticPVTv2(arch, out_indices=(0, 1, 2, 3), drop_path_rate=0.1 * training)
    randomized(ours)
    models = ours, mmdet_pvtv2(ours)
    results = [outputs_and_gradients(model, size, dtype, training) for model in models]
    (our_maps, our_grad), (their_maps, their_grad) = results
    assert len(our_maps) == 4
    for a, b in zip(our_maps, their_maps):
        assert_near(a, b)
    assert_near(our_grad, their_grad, passes=3)


@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize('arch', ['b0', 'b2'])
@every_dtype
def test_equals_timm(arch, linear, dtype):
    torch.manual_seed(0)
    ours = randomized(ElasticPVTv2(arch, linear=linear))
    models = ours, timm_pvtv2(ours, linear)
    results = [outputs_and_gradients(m, (96, 96), dtype, False, pooled=True) for m in models]
    (our_outputs, our_grad), (their_outputs, their_grad) = results
    assert_near(our_outputs[0], their_outputs[0], passes=2)  # 16 blocks of b2
    assert_near(our_grad, their_grad, passes=6)


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


def test_unknown_official_keys_are_left_for_strict_to_report():
    backbone = ElasticPVTv2('b0')
    shapes = official_keys(backbone.arch_settings, linear=False)
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    weights['pos_embed1'] = torch.zeros(1, 3136, 32)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"pos_embed1"'):
        backbone.load_state_dict(weights, strict=True)
    unexpected = backbone.load_state_dict(weights, strict=False).unexpected_keys
    assert unexpected == ['pos_embed1']


def test_numpy_numbers_are_numbers():
    stages = [dict(grid=np.int64(8), heads=[np.int64(1), 1, 2, 2]), {}]
    backbone = ElasticPVTv2('b0', img_size=np.int64(64), linear=True, training_stages=stages)
    assert backbone.training_stages[0].grid == (8, 8)
    assert type(backbone.flops(0)) is int


def test_initialization_is_the_official_one():
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


def test_init_cfg_replaces_the_initialization():
    init = dict(type='Constant', layer='Linear', val=0.5)
    backbone = ElasticPVTv2('b0', init_cfg=init)
    backbone.init_weights()
    assert (backbone.levels[0].blocks[0].mlp.fc1.weight == 0.5).all()


def b0_with(**changes):
    return dict(arch={**ARCHS['b0'], **changes})


NUMBERS = 'of ElasticPVTv2 must be whole numbers from 1 on, '
BAD = [
    (dict(arch='b6'), r"arch='b6' of ElasticPVTv2 must be one of \('b0', .* or a dict of"),
    (dict(arch=None), 'arch=None of ElasticPVTv2 must be one of'),
    (dict(arch=dict(depths=(1,))), r'must be one of .* or a dict of \(.embed_dims'),
    (b0_with(depths=3), 'depths=3 ' + NUMBERS + 'one for each level'),
    (b0_with(depths=(1, 0, 1, 1)), r'depths=\(1, 0, 1, 1\) ' + NUMBERS),
    (b0_with(depths=(1.0, 1, 1, 1)), r'depths=\(1.0, 1, 1, 1\) ' + NUMBERS),
    (b0_with(num_heads=(1, 2, 5, -8)), r'num_heads=\(1, 2, 5, -8\) ' + NUMBERS + '4 in all'),
    (b0_with(embed_dims='16'), "embed_dims='16' " + NUMBERS),
    (b0_with(embed_dims=(32, 64)), r'embed_dims=\(32, 64\) ' + NUMBERS + '4 in all'),
    (b0_with(mlp_ratios=(8, 8, 4, 3.5)), 'mlp_ratios=.* ' + NUMBERS),
    (b0_with(sr_ratios=(0, 4, 2, 1)), 'sr_ratios=.* ' + NUMBERS),
    (dict(strides=(4, 2)), r'strides=\(4, 2\) ' + NUMBERS + '4 in all'),
    (dict(strides=(0, 2, 2, 2)), 'strides=.* ' + NUMBERS),
    (dict(patch_sizes=7), 'patch_sizes=7 ' + NUMBERS),
    (dict(in_channels=0), r'in_channels=\[0\] ' + NUMBERS),
    (dict(img_size=32.0), r'img_size=\(32.0, 32.0\) ' + NUMBERS + '2 in all'),
    (dict(img_size=(224, 224, 3)), r'img_size=\(224, 224, 3\) ' + NUMBERS + '2 in all'),
    (dict(img_size=None), 'img_size=.* ' + NUMBERS),
    (dict(linear='False'), "linear='False' of ElasticPVTv2 must be True or False"),
    (dict(with_cp=1), 'with_cp=1 of ElasticPVTv2 must be True or False'),
    (dict(frozen_stages=5), r'frozen_stages=5 of ElasticPVTv2 must be -1 \(nothing\), .* 1\.\.4'),
    (dict(frozen_stages=-2), 'frozen_stages=-2 of ElasticPVTv2 must be -1'),
    (dict(frozen_stages=True), 'frozen_stages=True of ElasticPVTv2 must be -1'),
    (dict(frozen_stages=1.0), 'frozen_stages=1.0 of ElasticPVTv2 must be -1'),
    (dict(frozen_stages=None), 'frozen_stages=None of ElasticPVTv2 must be -1'),
    (dict(training_stages=2, frozen_stages=0), 'frozen_stages=0 freezes weights that growing'),
    (dict(drop_rate=-0.1), r'drop_rate=-0.1 of ElasticPVTv2 must be a number in \[0, 1\)'),
    (dict(attn_drop_rate=2.0), 'attn_drop_rate=2.0 of ElasticPVTv2 must be a number'),
    (dict(drop_path_rate='0.1'), "drop_path_rate='0.1' of ElasticPVTv2 must be a number"),
    (dict(drop_path_rate=None), 'drop_path_rate=None of ElasticPVTv2 must be a number'),
    (
        dict(arch={**ARCHS['b0'], 'num_heads': (1, 2, 3, 8)}),
        'level 3 of ElasticPVTv2: embed_dims=160 is no multiple of num_heads=3',
    ),
    (dict(out_indices=(4,)), r'out_indices=\(4,\) of ElasticPVTv2 must be levels from 0\.\.3'),
    (dict(out_indices=()), r'out_indices=\(\) of ElasticPVTv2 must be levels'),
    (
        dict(training_stages=[dict(grid=4), dict()]),
        r'training stage 1: grid=\(4, 4\) leaves 4x4 tokens at level 1, fewer than its sr_ratio=8',
    ),
    (dict(img_size=16), r'img_size=\(16, 16\) of ElasticPVTv2 leaves 4x4 tokens at level 1'),
    (dict(out_indices=3), 'out_indices=3 of ElasticPVTv2 must be levels'),
    (dict(out_indices=(1.0,)), r'out_indices=\(1.0,\) of ElasticPVTv2 must be levels'),
    (dict(training_stages=[{3: 1, 'head': 2}, {}]), r"stage 1: \['3', 'head'\] is not known"),
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
        'training stage 1: window=5, but ElasticPVTv2 has no window; give what it has',
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
