# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ElasticSwinTransformerV2: offsets, costs, loading, and wrong input."""

import pytest
import torch
from mmpretrain.models.backbones import SwinTransformerV2
from mmpretrain.models.utils import WindowMSAV2
from torch import nn

from bvit_mm import ElasticSwinTransformerV2
from bvit_mm.growth import grow_
from bvit_mm.testing.closeness import assert_near, distance
from bvit_mm.testing.counting import counted

from .support.cases import SWINV2, swin, swinv2

CASE = swinv2('windows', stages=[dict(grid=8, window=2), dict(grid=12, window=3), dict()])
BUFFERS = 'relative_coords_table', 'relative_position_index'


def attention(backbone):
    return backbone.stages[0].blocks[0].attn.w_msa


@pytest.mark.parametrize(
    'windows, parameters, gflops, grids, of_stages',
    [  # with a classifier of 1000 classes
        (8, 28_347_154, (1.040, 2.626, 5.962), (48, 56, 64), [6, 7, 8]),
        (
            [16, 16, 16, 8],
            28_347_154,
            (0.963, 2.915, 6.683),
            (44, 56, 64),
            [(11, 11, 11, 6), (14, 14, 14, 7), (16, 16, 16, 8)],
        ),
    ],
)
def test_costs_and_the_ladder_of_three_stages(windows, parameters, gflops, grids, of_stages):
    with torch.random.fork_rng():
        network = ElasticSwinTransformerV2(arch='tiny', window_size=windows, training_stages=3)
    stages = network.training_stages
    assert [stage.grid for stage in stages] == [(n, n) for n in grids]
    assert [stage.window for stage in stages] == of_stages
    assert [stage.heads for stage in stages] == [(1, 2, 4, 8), (2, 4, 8, 16), (3, 6, 12, 24)]
    assert sum(p.numel() for p in network.parameters()) + 1000 * 769 == parameters
    found = [(network.flops(k) + 768_000) / 1e9 for k in range(3)]
    assert found == pytest.approx(gflops, abs=5e-4)


def test_position_biases_cost_once_an_image_and_are_made_once_a_batch():
    backbone = CASE.build().to('meta')
    for k, window in enumerate((2, 3, 4)):
        backbone.set_training_stage(k)
        # two numbers to 512 hidden units, and those to 3 heads twice, 6 twice and 4 once
        made = (2 * window - 1) ** 2 * 512 * (5 * 2 + 2 * 3 + 2 * 6 + 4)
        four = counted(backbone, CASE.images(batch=4).to('meta'))
        assert 4 * backbone.flops(k) - four == 3 * made


@pytest.mark.parametrize('pretrained', [0, 6])
def test_smaller_windows_read_the_offsets_of_mmpretrains_tables(pretrained):
    """Bit for bit: of crops the whole window's own, of scaled images offsets that reach as far."""
    w_msa = attention(CASE.build(pretrained_window_sizes=[pretrained] * 3))
    for window in (2, 3, 4):
        for scaled in (False, True):
            w_msa.reads_all_offsets = scaled
            spacing = (pretrained or 4) - 1
            if scaled:
                spacing *= (window - 1) / 3
            theirs = WindowMSAV2(24, (window, window), 3, pretrained_window_size=(1 + spacing,) * 2)
            ours = w_msa._offsets(window).reshape(theirs.relative_coords_table.shape)
            assert torch.equal(ours, theirs.relative_coords_table)
            if scaled:
                assert ours[0, -1, -1].tolist() == w_msa.relative_coords_table[0, -1, -1].tolist()


def test_a_larger_window_brings_nothing_to_start_from():
    backbone = CASE.build()
    backbone.set_training_stage(0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    for stage in (1, 2):
        grow_(backbone, stage)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize('units', [dict(heads=(1, 2, 2)), dict(hidden=(48, 96, 192))])
def test_norms_take_back_what_copies_double(units):
    """Biases aside, and what norms add to the variance; in Swin they come before."""
    moved = []
    for make in (swin, swinv2):
        case = make('copies', stages=[units, dict()], arch=TWICE[make])
        backbone = case.build()
        for name, param in backbone.named_parameters():
            if name.endswith(('proj.bias', 'layers.1.bias')):
                nn.init.zeros_(param)
        backbone.set_training_stage(0)
        before = backbone(case.images())[-1]
        grow_(backbone, 1)
        moved.append(distance(backbone(case.images())[-1], before))
    assert moved[0] > 0.05 and moved[1] < 1e-3


_ARCH = dict(embed_dims=24, depths=[2, 2, 1], num_heads=[2, 4, 4])
TWICE = {swin: _ARCH, swinv2: dict(_ARCH, extra_norm_every_n_blocks=0)}


def test_logit_scales_are_clamped_as_in_mmpretrain():
    outs = []
    for backbone in (CASE.build(), CASE.build_plain()):
        backbone.double()
        for name, param in backbone.named_parameters():
            if name.endswith('logit_scale'):
                param.data[0] = 7.0
        outs.append(backbone(CASE.images().double())[-1])
    assert_near(*outs)


@pytest.mark.parametrize('size', [(32, 32), (50, 45), (21, 90)])
def test_equals_mmpretrain_on_maps_of_any_size(size):
    options = dict(SWINV2, pad_small_map=True, pretrained_window_sizes=[3, 3, 6])
    torch.manual_seed(0)
    plain = SwinTransformerV2(**options)
    ours = ElasticSwinTransformerV2(**options)
    ours.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(1, 3, *size)
    for network in (ours, plain):
        network.eval()
    assert_near(ours(images)[0], plain(images)[0])


@pytest.mark.parametrize('given', ['others', 'none'])
def test_tables_are_never_read_from_weights(given):
    """Those of other windows, and weights without tables, load into these windows."""
    backbone, other = CASE.build(), CASE.build(seed=1, window_size=3, training_stages=None)
    weights = dict(other.state_dict())
    if given == 'none':
        weights = {name: value for name, value in weights.items() if not name.endswith(BUFFERS)}
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.load_state_dict(weights, strict=True)
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    parameters = dict(other.named_parameters())
    assert all(torch.equal(param, parameters[n]) for n, param in backbone.named_parameters())
    with pytest.raises(RuntimeError, match='Missing key'):  # of its own weights
        CASE.build_plain().load_state_dict(CASE.build_plain().state_dict(), strict=True)


def test_missing_weights_are_still_missed():
    weights = CASE.build().state_dict()
    del weights['stages.0.blocks.0.attn.w_msa.logit_scale']
    with pytest.raises(RuntimeError, match=r'Missing key.*logit_scale'):
        CASE.build().load_state_dict(weights, strict=True)


def test_a_small_network_says_its_sizes():
    backbone = CASE.build(training_stages=[dict(heads=(2, 3, 1), grid=8, window=2), dict()])
    backbone.shrink_(0)
    w_msa = attention(backbone)
    assert (w_msa.num_heads, w_msa.window_size, w_msa.qkv.out_features) == (2, (2, 2), 48)
    assert w_msa.relative_coords_table.shape == (1, 3, 3, 2)
    whole = attention(CASE.build()).relative_coords_table
    assert torch.equal(w_msa.relative_coords_table, whole[:, 2:5, 2:5])
    theirs = WindowMSAV2(24, (2, 2), 3).relative_position_index
    assert torch.equal(w_msa.relative_position_index, theirs)


def test_attention_drop_out_and_checkpointing_run():
    options = dict(stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(attn_drop=0.5))), with_cp=True)
    backbone = CASE.build(**options).train()
    backbone.set_training_stage(1)
    torch.manual_seed(0)
    first, second = (backbone(CASE.images())[-1] for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


BAD = [
    (dict(window_size=1), 'window_size=1 of level 1 of ElasticSwinTransformerV2 cannot be served'),
    (dict(window_size=[4, 1, 4]), 'window_size=1 of level 2 .* log-spaced table .* give 2 or more'),
    (
        dict(pretrained_window_sizes=[4, 4, 1]),
        'pretrained_window_sizes=1 of level 3 .* divides by that window less 1; give 2 or more',
    ),
    (
        dict(training_stages=[dict(grid=4, window=(2, 2, 1), view='scale'), dict()]),
        r'training stage 1: window=\(2, 2, 1\) has a single token at level 3, .* give 2 or more, '
        r"or view='crop'",
    ),
    (
        dict(training_stages=[dict(grid=12), dict()]),
        'training stage 1: window=4 is larger than level 3, which has 3x3 tokens; give a smaller',
    ),
    (
        dict(training_stages=[dict(window=5), dict()]),
        r'training stage 1: window=5, but the model has windows of 4x4 tokens; give 1\.\.4',
    ),
    (
        dict(training_stages=[dict(heads=(4, 6, 4)), dict()]),
        r'training stage 1: heads=\(4, 6, 4\), but level 1 has 3 heads; give 1\.\.3',
    ),
    (dict(training_stages=2, frozen_stages=0), 'frozen_stages=0 freezes weights that growing'),
    (
        dict(training_stages=2, stage_cfgs=dict(block_cfgs=dict(ffn_cfgs=dict(num_fcs=3)))),
        'level 1 of ElasticSwinTransformerV2 has an MLP other than two linear layers',
    ),
]


@pytest.mark.parametrize('options, message', BAD)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ElasticSwinTransformerV2(**{**SWINV2, **options})


def test_windows_of_one_token_are_fine_in_crops():
    case = swinv2('one', stages=[dict(grid=4, window=1), dict()])
    backbone = case.build()
    backbone.set_training_stage(0)
    small = case.small(backbone, backbone.training_stages[0])
    assert_near(backbone(case.images())[-1], small(case.images()))
