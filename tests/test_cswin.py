# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ElasticCSWin: its authors' numbers and names, stripes on maps of any size, and wrong input."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from bvit_mm import ElasticCSWin
from bvit_mm.backbones.cswin import ARCHS, StripeAttention
from bvit_mm.growth import grow_
from bvit_mm.publish.timm_names import to_timm
from bvit_mm.testing.closeness import assert_near

from .support.cases import CSWIN, cswin

CLASSES = 1000
TINY = dict(embed_dims=(4,) * 4, depths=(1,) * 4, num_heads=(2,) * 4, mlp_ratios=(1,) * 4)


def on_meta(*args, **kwargs):
    with torch.device('meta'):
        return ElasticCSWin(*args, **kwargs)


# The official network's parameters, classifier included; and the FLOPs that mmpretrain's proposed
# metafile (pull request 1278) states, which counts the pooling of 7 x 7 tokens and no classifier.
@pytest.mark.parametrize(
    'arch, parameters, multiply_adds',
    [
        ('tiny', 22_320_552, 4_340_525_056),
        ('small', 34_643_304, 6_826_821_120),
        ('base', 77_382_184, 14_994_508_032),
        ('large', 173_262_664, 33_188_883_840),
    ],
)
def test_sizes_are_the_official_ones(arch, parameters, multiply_adds):
    backbone = on_meta(arch)
    width = backbone.embed_dims[-1]
    found = sum(p.numel() for p in backbone.parameters())
    assert found + (width + 1) * CLASSES == parameters
    assert backbone.flops(0) + 49 * width == multiply_adds


@pytest.mark.parametrize(
    'arch, heads, gflops',
    [
        ('tiny', [(2, 2, 2, 5), (2, 2, 6, 11), (2, 4, 8, 16)], [0.6820, 1.9228, 4.3410]),
        ('small', [(2, 2, 2, 5), (2, 2, 6, 11), (2, 4, 8, 16)], [1.0379, 2.9799, 6.8273]),
        ('base', [(2, 2, 6, 11), (2, 6, 10, 21), (4, 8, 16, 32)], [2.3826, 6.1389, 14.9952]),
    ],
)
def test_ladder_of_three_stages(arch, heads, gflops):
    backbone = on_meta(arch, training_stages=3)
    stages = backbone.training_stages
    assert [stage.heads for stage in stages] == heads
    assert [stage.grid for stage in stages] == [(40, 40), (48, 48), (56, 56)]
    assert [stage.window for stage in stages] == [(1, 2, 5, 5), (1, 2, 6, 6), (1, 2, 7, 7)]
    assert [[h // stage.hidden[0] for h in stages[2].hidden[:1]] for stage in stages] == [
        [4],
        [2],
        [1],
    ]
    classifier = CLASSES * backbone.embed_dims[-1]
    assert [round((backbone.flops(k) + classifier) / 1e9, 4) for k in range(3)] == gflops


@pytest.mark.parametrize('arch, gflops', [('base', 47.0809), ('large', 102.0578)])
def test_larger_images_have_wider_stripes(arch, gflops):
    backbone = on_meta(arch, img_size=384, window=(1, 2, 12, 12), training_stages=3)
    assert round((backbone.flops(2) + CLASSES * backbone.embed_dims[-1]) / 1e9, 4) == gflops
    assert [stage.window for stage in backbone.training_stages] == [
        (1, 2, 9, 9),
        (1, 2, 11, 11),
        (1, 2, 12, 12),
    ]


# Stripes.


def window_of(grid, view='crop'):
    """The stripes of a training stage with a first-level grid, with images of 224 pixels."""
    try:
        backbone = on_meta(TINY, training_stages=[dict(grid=grid, view=view), {}])
    except ValueError:
        return None
    return backbone.training_stages[0].window


def test_grids_that_stripes_fit():
    windows = {grid: window_of(grid) for grid in range(2, 58, 2)}
    assert {grid: window for grid, window in windows.items() if window} == {
        8: (1, 2, 1, 1),
        16: (1, 2, 2, 2),
        24: (1, 2, 3, 3),
        28: (1, 2, 7, 4),
        32: (1, 2, 4, 4),
        40: (1, 2, 5, 5),
        48: (1, 2, 6, 6),
        56: (1, 2, 7, 7),
    }


def test_scaled_grids_may_be_odd():
    windows = [window_of(grid, view='scale') for grid in (39, 40, 41, 55)]
    assert windows == [(1, 2, 5, 5), (1, 2, 5, 5), None, (1, 2, 7, 7)]


def test_stripes_may_become_narrower():
    """They have no weights, so a later stage may have narrower ones."""
    stages = [dict(grid=28, view='scale'), dict(grid=40, view='scale'), dict()]
    backbone = on_meta(TINY, training_stages=stages)
    assert [stage.window[2] for stage in backbone.training_stages] == [7, 5, 7]


def test_stripes_alike_in_all_levels_are_one_number():
    backbone = on_meta(TINY, window=(2, 2, 2, 2), training_stages=[dict(grid=32), dict()])
    assert [stage.window for stage in backbone.training_stages] == [2, 2]
    narrow = on_meta(TINY, window=(2,) * 4, training_stages=[dict(grid=16, window=1), dict()])
    assert [stage.window for stage in narrow.training_stages] == [1, 2]


@pytest.mark.parametrize('training_stages', [2, 4])
def test_other_numbers_of_stages(training_stages):
    stages = on_meta('tiny', training_stages=training_stages).training_stages
    assert len(stages) == training_stages
    assert all(heads % 2 == 0 for stage in stages for heads in stage.heads[:-1])


def test_a_token_sees_a_cross():
    """With stripes of two, two columns by the first half of its heads, and two rows by the rest."""
    torch.manual_seed(0)
    attention = StripeAttention(width=8, heads=2, window=2, attn_drop=0.0)
    seen = []
    attention.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.randn(1, 6, 8, 8, requires_grad=True)
    attention(images)
    row, column = 3, 4
    for channels, place in (
        (slice(0, 4), (slice(0, 6), slice(4, 6))),
        (slice(4, 8), (slice(2, 4), slice(0, 8))),
    ):
        (grad,) = torch.autograd.grad(
            seen[0][0, row, column, channels].sum(), images, retain_graph=True
        )
        reached = torch.zeros(6, 8, dtype=torch.bool)
        reached[place] = True
        assert torch.equal((grad[0] != 0).any(-1), reached)


@pytest.mark.parametrize('changed', [0, 1])
def test_heads_of_one_direction_are_untouched_by_the_other(changed):
    torch.manual_seed(0)
    attention, outs = StripeAttention(width=24, heads=6, window=2, attn_drop=0.0), []
    attention.proj.register_forward_pre_hook(lambda _, args: outs.append(args[0].chunk(2, -1)))
    images = torch.randn(2, 4, 6, 24)
    attention(images)
    with torch.no_grad():
        for param in (attention.qkv.weight, attention.qkv.bias):
            param.unflatten(0, (3, 2, 12))[:, changed] += 1
        attention.lepe[changed].weight += 1
        attention(images)
    before, after = outs
    assert not torch.equal(before[changed], after[changed])
    assert torch.equal(before[1 - changed], after[1 - changed])


def test_grown_pairs_are_copies_of_pairs():
    """From one pair of heads to two, of both directions, in all that has heads."""
    backbone = cswin('growth', stages=[dict(heads=(2, 2, 2)), dict()]).build()
    backbone.set_training_stage(0)
    grow_(backbone, 1)
    attention = backbone.levels[0].blocks[0].attn  # four heads, each of four dims
    for weight, blocks in (
        (attention.qkv.weight, 6),
        (attention.qkv.bias, 6),
        (attention.lepe[0].weight, 1),
        (attention.lepe[1].bias, 1),
        (attention.proj.weight.T, 2),
    ):
        heads = weight.unflatten(0, (blocks, 2, -1))
        assert torch.equal(heads[:, 0], heads[:, 1])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size', [(32, 32), (50, 37), (31, 66), (5, 5)])
def test_maps_of_any_size_and_of_all_levels(size, dtype):
    """Padded to whole stripes, as in the plain network."""
    case = cswin('any', out_indices=(0, 1, 2))
    backbone = case.build(training_stages=None).to(dtype)
    small = case.small(backbone, backbone.training_stages[-1]).to(dtype)
    images = torch.randn(2, 3, *size, dtype=dtype)
    maps = backbone(images)
    assert len(maps) == 3
    for ours, theirs in zip(maps, small.maps(images), strict=True):
        assert ours.is_contiguous()
        assert_near(ours, theirs)


def test_costs_of_padded_maps():
    """A map of 9 x 9 at the third level is attended to as 14 columns, and as 14 rows, of 9."""
    backbone = on_meta(TINY)
    first, second = (backbone.levels[2].blocks[0].attn.flops(n, 7, 1) for n in ((9, 9), (9, 14)))
    branch = 9 * 14 * 2 * (2 * 9 * 7 + 9)  # two of four channels
    assert first == 4 * 81 * 4 * 4 + 2 * branch
    assert second == 4 * 126 * 4 * 4 + branch + 14 * 14 * 2 * (2 * 14 * 7 + 9)


# Weights.


def official_shapes(arch, norms):
    """Names and shapes of the official weights, of the classifier or of the segmentation."""
    widths, depths, _, ratios = arch.values()
    shapes = {'stage1_conv_embed.0': (widths[0], 3, 7, 7), 'stage1_conv_embed.2': (widths[0],)}
    for i, (width, depth, ratio) in enumerate(zip(widths, depths, ratios), start=1):
        if i > 1:
            shapes[f'merge{i - 1}.conv'] = (width, widths[i - 2], 3, 3)
            shapes[f'merge{i - 1}.norm'] = (width,)
        for j in range(depth):
            name = f'stage{i}.{j}'
            shapes |= {f'{name}.qkv': (3 * width, width), f'{name}.proj': (width, width)}
            shapes |= {f'{name}.norm1': (width,), f'{name}.norm2': (width,)}
            shapes[f'{name}.mlp.fc1'] = (ratio * width, width)
            shapes[f'{name}.mlp.fc2'] = (width, ratio * width)
            for branch in range(1 if i == 4 else 2):
                shapes[f'{name}.attns.{branch}.get_v'] = (width // (1 if i == 4 else 2), 1, 3, 3)
    for name in norms:
        shapes[name] = (widths[int(name[4:] or 4) - 1],)
    shapes['head'] = (CLASSES, widths[-1])
    return {
        f'{name}.{part}': shape if part == 'weight' else shape[:1]
        for name, shape in shapes.items()
        for part in ('weight', 'bias')
    }


def official_weights(arch, norms=('norm',)):
    generator = torch.Generator().manual_seed(0)
    shapes = official_shapes(arch, norms)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_official_weights_load(prefix):
    official = official_weights(ARCHS['tiny'])
    assert len(official) == 418
    backbone = ElasticCSWin('tiny')
    model = torch.nn.ModuleDict(dict(backbone=backbone)) if prefix else backbone
    model.load_state_dict({prefix + name: v for name, v in official.items()}, strict=True)
    ours = backbone.state_dict()
    assert len(ours) == len(official) - 2  # the classifier
    for there, here in (
        ('stage1_conv_embed.0.bias', 'levels.0.embed.proj.bias'),
        ('stage1_conv_embed.2.weight', 'levels.0.embed.norm.weight'),
        ('merge1.conv.weight', 'levels.1.embed.proj.weight'),
        ('merge3.norm.weight', 'levels.3.embed.norm.weight'),
        ('stage1.0.qkv.weight', 'levels.0.blocks.0.attn.qkv.weight'),
        ('stage3.20.proj.weight', 'levels.2.blocks.20.attn.proj.weight'),
        ('stage3.12.attns.1.get_v.weight', 'levels.2.blocks.12.attn.lepe.1.weight'),
        ('stage4.0.attns.0.get_v.bias', 'levels.3.blocks.0.attn.lepe.0.bias'),
        ('stage2.1.norm2.weight', 'levels.1.blocks.1.norm2.weight'),
        ('stage2.0.mlp.fc1.bias', 'levels.1.blocks.0.mlp.fc1.bias'),
        ('norm.bias', 'levels.3.norm.bias'),
    ):
        assert torch.equal(ours[here], official[there]), here


@pytest.mark.parametrize('arch', ['small', 'base', 'large'])
def test_official_names_of_the_others(arch):
    backbone = on_meta(arch)
    weights = {name: torch.empty(shape, device='meta') for name, shape in
               official_shapes(ARCHS[arch], ['norm']).items()}  # fmt: skip
    backbone.load_state_dict(weights, strict=True, assign=True)


def test_weights_of_the_official_segmentation_load():
    official = official_weights(TINY, [f'norm{i}' for i in range(1, 5)])
    backbone = ElasticCSWin(TINY, out_indices=(0, 1, 2, 3))
    backbone.load_state_dict(official, strict=True)
    for i in range(4):
        assert torch.equal(backbone.levels[i].norm.weight, official[f'norm{i + 1}.weight'])


def test_released_file_starts_a_detector(tmp_path):
    """Its averaged weights; only the norms of the other maps are new."""
    official = official_weights(TINY)
    raw = {name: torch.zeros_like(value) for name, value in official.items()}
    torch.save(dict(state_dict=raw, state_dict_ema=official), tmp_path / 'released.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'released.pth'))
    backbone = ElasticCSWin(TINY, out_indices=(0, 1, 2, 3), init_cfg=start)
    backbone.init_weights()
    assert torch.equal(backbone.levels[3].norm.bias, official['norm.bias'])
    assert torch.equal(backbone.levels[0].norm.weight, torch.ones(4))


def test_unknown_official_keys_are_left_for_strict_to_report():
    backbone = on_meta(TINY)
    weights = {'stage1_conv_embed.0.bias': torch.zeros(4), 'pos_embed': torch.zeros(1)}
    unexpected = backbone.load_state_dict(weights, strict=False, assign=True).unexpected_keys
    assert unexpected == ['pos_embed']


def test_timm_has_no_such_network():
    message = r"timm has no network for ElasticCSWin; give .* one of \('ElasticConvNeXt', "
    with pytest.raises(ValueError, match=message):
        to_timm({}, on_meta(TINY))


def test_initialization_is_the_official_one():
    torch.manual_seed(0)
    backbone = ElasticCSWin('tiny')
    conv = backbone.levels[3].embed.proj.weight.clone()
    backbone.init_weights()
    block = backbone.levels[3].blocks[0]
    for weight in (block.attn.qkv.weight, block.mlp.fc2.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not block.attn.qkv.bias.count_nonzero()
    assert torch.equal(block.norm1.weight, torch.ones(512))
    assert torch.equal(backbone.levels[3].embed.proj.weight, conv)  # as torch draws it


# Wrong input.


def stage(**changes):
    return dict(training_stages=[changes, dict()])


def small_with(**changes):
    return dict(CSWIN, arch={**CSWIN['arch'], **changes})


NUMBERS = 'of ElasticCSWin must be whole numbers from 1 on, '
BAD = [
    (dict(arch='huge'), r"arch='huge' of ElasticCSWin must be one of \('tiny', .* or a dict of"),
    (dict(arch=dict(depths=(1,))), r'must be one of .* or a dict of \(.embed_dims'),
    (small_with(depths=(1, 0, 1)), r'depths=\(1, 0, 1\) ' + NUMBERS),
    (small_with(num_heads=(4, 4)), r'num_heads=\(4, 4\) ' + NUMBERS + '3 in all'),
    (small_with(num_heads=(4, 4, 3)), 'level 3 of ElasticCSWin: embed_dims=40 is no multiple'),
    (
        small_with(num_heads=(4, 3, 5)),
        r'num_heads=\(4, 3, 5\), but ElasticCSWin has heads in pairs.* 3 of level 2 is odd',
    ),
    (dict(window=(1, 2, 7)), r'window=\(1, 2, 7\) ' + NUMBERS + '4 in all'),
    (dict(window=7), 'window=7 ' + NUMBERS),
    (dict(strides=(4, 2)), r'strides=\(4, 2\) ' + NUMBERS + '4 in all'),
    (dict(in_channels=0), r'in_channels=\[0\] ' + NUMBERS),
    (dict(img_size=None), 'img_size=.* ' + NUMBERS),
    (dict(with_cp=1), 'with_cp=1 of ElasticCSWin must be True or False'),
    (dict(drop_path_rate=1.0), r'drop_path_rate=1.0 of ElasticCSWin must be a number in \[0, 1\)'),
    (dict(out_indices=(4,)), r'out_indices=\(4,\) of ElasticCSWin must be levels from 0\.\.3'),
    (
        dict(img_size=384),
        r'img_size=\(384, 384\) of ElasticCSWin makes 24x24 tokens at level 3, which stripes of '
        r'width 7 do not divide into two or more; give window=\(1, 2, 12, 12\), or another',
    ),
    (
        dict(img_size=112),  # the official network has other weights for one stripe
        r'makes 7x7 tokens at level 3, .* width 7 do not .*; give window=\(1, 2, 1, 4\)',
    ),
    (dict(img_size=16, window=(1, 1, 1, 1)), 'makes 1x1 tokens at level 3, .* give larger images'),
    (
        dict(window=(56, 2, 7, 7)),
        r'makes 56x56 tokens at level 1, which stripes of width 56 .*; give window=\(28, 2, 7, 7\)',
    ),
    (
        stage(heads=(2, 3, 8, 16)),
        r'training stage 1: heads=\(2, 3, 8, 16\), but ElasticCSWin has heads in pairs, for '
        'vertical and horizontal stripes, and 3 of level 2 is odd; give even numbers in all levels',
    ),
    (stage(heads=(1, 4, 8, 16)), 'training stage 1: .* 1 of level 1 is odd'),
    (stage(heads=(2, 4, 8, 17)), r'level 4 has 16 heads; give 1\.\.16'),
    (
        stage(grid=36),
        r'training stage 1: grid=\(36, 36\) leaves 9x9 tokens at level 3, which stripes of width 7 '
        r'do not divide; give window=\(1, 2, 3, 5\), or another grid, such as \(40, 40\)',
    ),
    (stage(grid=44), r'leaves 11x11 tokens .*; give window=\(1, 2, 1, 6\), .* \(48, 48\)'),
    (stage(grid=52), r'leaves 13x13 tokens .*; give window=\(1, 2, 1, 7\), .* \(56, 56\)'),
    (stage(grid=36, view='scale'), r'; give window=\(1, 2, 3, 5\), or .*, such as \(39, 39\)'),
    (stage(grid=4), r'leaves 1x1 tokens at level 3.*; give window=\(1, 2, 1, 1\).* \(8, 8\)'),
    (
        stage(grid=40, window=(1, 2, 4, 5)),
        r'grid=\(40, 40\) leaves 10x10 tokens at level 3, which stripes of width 4 do not divide; '
        r'give window=\(1, 2, 5, 5\), as a stage has that says none',
    ),
    (stage(window=(1, 2, 14, 7)), r'level 3 has windows of 7x7 tokens; give 1\.\.7'),
    (
        stage(window=(1, 2, 7)),
        r'window=\(1, 2, 7\) must be one number, or one for each of 4 levels',
    ),
    (stage(windows=5), r"\['windows'\] is not known; give \('heads', .* 'window'\)"),
    (dict(training_stages='3'), "training_stages='3' must be a number of stages or a list of"),
    (dict(training_stages=0), 'training_stages=0 must be a number of stages, at least 1'),
    (dict(training_stages=[3, {}]), 'training stage 1: 3 must be a dict of'),
]


@pytest.mark.parametrize('options, message', BAD)
def test_bad_options(options, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='bvit_mm.ElasticCSWin', **options))


def test_numpy_numbers_are_numbers():
    stages = [dict(grid=np.int64(40), heads=[np.int64(2), 2, 2, 5]), {}]
    backbone = on_meta('tiny', img_size=np.int64(224), training_stages=stages)
    assert backbone.training_stages[0].window == (1, 2, 5, 5)
    assert type(backbone.flops(0)) is int
