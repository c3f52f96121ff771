# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Stages that see the whole image scaled down: law 9, and what surrounds it.

The laws of every backbone run over scaled and mixed rows of cases.py; here are mmpretrain's own
classes built at the small size, growth between views, costs, and wrong inputs.
"""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmpretrain.models.backbones import (
    ConvNeXt,
    PoolFormer,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
)

from bvit_mm import (
    ElasticConvNeXt,
    ElasticCSWin,
    ElasticDeiT3,
    ElasticPoolFormer,
    ElasticPVTv2,
    ElasticSwinTransformer,
    ElasticSwinTransformerV2,
    ElasticT2TViT,
    ElasticVisionTransformer,
)
from bvit_mm.cost import plan_of_config
from bvit_mm.growth import grow_
from bvit_mm.plan import make_plan
from bvit_mm.report import plan_table
from bvit_mm.resampling import resized_map, resizing_matrix, scaled_images
from bvit_mm.testing.closeness import assert_near
from bvit_mm.testing.laws import gradient

from .support.cases import CASES, CONVNEXT, CSWIN, DEIT3, POOLFORMER, PVTV2, SWIN, SWINV2, T2T, VIT
from .support.tools import ROOT

pytestmark = pytest.mark.laws


def rows(name):
    return [case for case in CASES if case.name.endswith(name)]


def smaller(flat, side, size):
    """A square map (side^2, C) resized by torch, apart from bvit_mm."""
    channels_first = flat.T.unflatten(1, (side, side))[None]
    small = F.interpolate(channels_first, (size, size), mode='bicubic', antialias=True)
    return small[0].flatten(1).T


def plain_vit(weights, grid):
    plain = VisionTransformer(**{**VIT, 'img_size': 4 * grid})
    weights['pos_embed'] = torch.cat(
        [weights['pos_embed'][:, :1], smaller(weights['pos_embed'][0, 1:], 8, grid)[None]], dim=1
    )
    return plain, weights


def plain_deit3(weights, grid):
    """Its class token has no position."""
    weights['pos_embed'] = smaller(weights['pos_embed'][0], 8, grid)[None]
    return ElasticDeiT3(**{**DEIT3, 'img_size': 2 * grid}), weights


def plain_t2t(weights, grid):
    pos = weights['pos_embed']
    weights['pos_embed'] = torch.cat([pos[:, :1], smaller(pos[0, 1:], 4, grid)[None]], dim=1)
    return ElasticT2TViT(**{**T2T, 'img_size': 16 * grid}), weights


def plain_pvtv2(weights, grid):
    return ElasticPVTv2(**{**PVTV2, 'img_size': 4 * grid}), weights


def plain_cswin(weights, grid):
    return ElasticCSWin(**{**CSWIN, 'img_size': 2 * grid, 'window': (2, 3, 3)}), weights


def plain_swin(weights, grid):
    window = 3
    plain = SwinTransformer(**{**SWIN, 'img_size': 2 * grid, 'window_size': window})
    for name in list(weights):
        if name.endswith('bias_table'):
            weights[name] = smaller(weights[name], 7, 2 * window - 1)
        elif name.endswith('relative_position_index'):
            weights[name] = plain.state_dict()[name]
    return plain, weights


def plain_swinv2(weights, grid):
    plain = SwinTransformerV2(**{**SWINV2, 'img_size': 2 * grid, 'window_size': 3})
    own = dict(plain.named_buffers())
    plain._load_state_dict_pre_hooks.clear()  # which delete its own buffers
    return plain, OrderedDict((name, own.get(name, value)) for name, value in weights.items())


def without_size(plain, kwargs):
    """A class whose weights know nothing of the size of images."""
    given = {key: value for key, value in kwargs.items() if key != 'img_size'}
    return lambda weights, grid: (plain(**given), weights)


FAMILIES = {
    'vit': (ElasticVisionTransformer, VIT, plain_vit, dict(grid=5)),
    'pvtv2': (ElasticPVTv2, PVTV2, plain_pvtv2, dict(grid=9)),
    'cswin': (ElasticCSWin, CSWIN, plain_cswin, dict(grid=12)),
    'swin': (ElasticSwinTransformer, SWIN, plain_swin, dict(grid=12, window=3)),
    'swinv2': (ElasticSwinTransformerV2, SWINV2, plain_swinv2, dict(grid=12, window=3)),
    'convnext': (ElasticConvNeXt, CONVNEXT, without_size(ConvNeXt, CONVNEXT), dict(grid=9)),
    'poolformer': (
        ElasticPoolFormer,
        POOLFORMER,
        without_size(PoolFormer, POOLFORMER),
        dict(grid=9),
    ),
    'deit3': (ElasticDeiT3, DEIT3, plain_deit3, dict(grid=5)),
    't2t': (ElasticT2TViT, T2T, plain_t2t, dict(grid=3)),
}


def scaled_backbone(family, dtype=torch.float64):
    elastic, kwargs, _, stage = FAMILIES[family]
    torch.manual_seed(0)
    backbone = elastic(training_stages=[dict(view='scale', **stage), {}], **kwargs)
    for param in backbone.parameters():
        param.data.add_(0.1 * torch.randn_like(param))
    backbone.set_training_stage(0)
    return backbone.to(dtype).eval()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('family', FAMILIES)
def test_equals_the_plain_class_built_at_the_small_size(family, dtype):
    backbone = scaled_backbone(family, dtype)
    _, kwargs, plain_of, stage = FAMILIES[family]
    side, size = kwargs['img_size'], backbone.seen_size(0)[0]
    plain, weights = plain_of(copy.deepcopy(backbone.state_dict()), stage['grid'])
    vars(weights).pop('_metadata', None)  # the training stage
    plain.to(dtype).load_state_dict(weights, strict=True)
    plain.eval()
    images = torch.rand(2, 3, side, side, dtype=dtype)
    small = F.interpolate(images, (size, size), mode='bicubic', antialias=True)
    assert_near(backbone(images)[-1], plain(small)[-1])


@pytest.mark.parametrize('family', ['vit', 'swin', 'deit3'])
def test_every_position_gets_a_gradient(family):
    backbone = scaled_backbone(family)
    images = torch.rand(4, 3, *backbone.img_size, dtype=torch.float64)
    backbone(images)[-1].square().sum().backward()
    found = [
        gradient(param)
        for name, param in backbone.named_parameters()
        if name.endswith(('pos_embed', 'bias_table'))
    ]
    assert found and all((grad != 0).all() for grad in found)


def test_position_embedding_of_swin_gets_a_gradient():
    backbone = ElasticSwinTransformer(
        training_stages=[dict(grid=8, window=2, view='scale'), {}], use_abs_pos_embed=True, **SWIN
    )
    backbone.set_training_stage(0)
    backbone(torch.rand(2, 3, 32, 32))[-1].square().sum().backward()
    assert (gradient(backbone.absolute_pos_embed) != 0).all()


# Resizing.


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_entry_is_read_and_constants_stay(total, size):
    matrix = resizing_matrix(total, size)
    assert matrix.shape == (size, total)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size).double(), rtol=0, atol=1e-12)
    if size <= total:
        assert (matrix != 0).any(0).all()
    if size == total:
        torch.testing.assert_close(matrix, torch.eye(size).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [(6, 6), (3, 10), (9, 4), (20, 5)])
def test_resized_map_is_torch_interpolation(size):
    weights = torch.randn(9, 10, 5, dtype=torch.float64)
    expected = F.interpolate(weights.permute(2, 0, 1)[None], size, mode='bicubic', antialias=True)
    assert_near(resized_map(weights, size), expected[0].permute(1, 2, 0))


def test_resized_map_is_exact_in_mixed_precision():
    weights = torch.randn(9, 9, 5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert resized_map(weights, (4, 4)).dtype == torch.float32


def test_images_in_half_precision_are_scaled():
    images = torch.rand(1, 3, 16, 16)
    assert scaled_images(images, (16, 16)) is images
    rough = scaled_images(images.bfloat16(), (8, 8))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - scaled_images(images, (8, 8))).abs().max() < 2**-7


# Costs.


def deit_small(*stages):
    return ElasticVisionTransformer(
        arch='deit-small', img_size=224, patch_size=16, training_stages=[*stages, {}]
    )


def test_costs_of_deit_small():
    stages = [
        dict(heads=2, hidden=384, grid=10, view='scale'),
        dict(heads=4, hidden=768, grid=12, view='scale'),
    ]
    backbone = deit_small(*stages)
    classifier = 384 * 1000
    costs = [round((backbone.flops(k) + classifier) / 1e9, 4) for k in range(3)]
    assert costs == [0.6618, 1.8895, 4.6083]
    whole_units = deit_small(dict(grid=6, view='scale'))
    assert round((whole_units.flops(0) + classifier) / 1e9, 3) == 0.811
    few = deit_small(dict(heads=2, hidden=384, grid=6, view='scale'))
    assert round((few.flops(0) + classifier) / 1e9, 3) == 0.235


def test_table_tells_the_view_where_it_matters():
    stages = deit_small(dict(grid=6, view='scale'), dict(grid=10)).training_stages
    plan = make_plan((1, 2, 4), 0.5, 30)
    header, *lines = (line.split() for line in plan_table(plan, stages).splitlines())
    assert header[3:6] == ['tokens', 'view', 'GFLOPs']
    assert [line[3:5] for line in lines[:3]] == [['36', 'scale'], ['100', 'crop'], ['196', 'whole']]
    assert 'view' not in plan_table(
        make_plan((1, 4), 0.5, 30), deit_small(dict(grid=6)).training_stages
    )


# Growth between views.


def swin_of(*views):
    stages = [
        dict(grid=4 * w, window=w, view=view) for w, view in zip((1, 2, 3), views, strict=True)
    ]
    torch.manual_seed(0)
    backbone = ElasticSwinTransformer(training_stages=[*stages, {}], **SWIN)
    for name, param in backbone.named_parameters():
        if name.endswith('bias_table'):
            torch.nn.init.normal_(param)
    backbone.set_training_stage(0)
    return backbone


def tables(backbone):
    return [p for name, p in backbone.named_parameters() if name.endswith('bias_table')]


def test_scaled_stages_leave_no_offset_to_invent():
    backbone = swin_of('scale', 'crop', 'scale')
    twin = copy.deepcopy(backbone)
    states = {param: dict(exp_avg=torch.ones_like(param)) for param in backbone.parameters()}
    before = [table.clone() for table in tables(backbone)]
    for stage in (1, 2, 3):
        grow_(backbone, stage, states=states, twins=[twin])
        for each in (backbone, twin):
            assert all(map(torch.equal, tables(each), before))
    assert all((states[table]['exp_avg'] == 1).all() for table in tables(backbone))


def test_offsets_that_crops_left_out_are_filled_before_a_scaled_stage():
    backbone = swin_of('crop', 'scale', 'crop')
    twin = copy.deepcopy(backbone)
    states = {param: dict(exp_avg=torch.ones_like(param)) for param in backbone.parameters()}
    before = [table.clone().unflatten(0, (7, 7)) for table in tables(backbone)]
    grow_(backbone, 1, states=states, twins=[twin])
    for each in (backbone, twin):
        for table, old in zip(tables(each), before):
            assert torch.equal(table.unflatten(0, (7, 7)), old[3:4, 3:4].expand_as(old))
    for table in tables(backbone):
        moment = states[table]['exp_avg'].unflatten(0, (7, 7)).clone()
        assert (moment[3, 3] == 1).all()
        moment[3, 3] = 0
        assert not moment.any()
    filled = [table.clone() for table in tables(backbone)]
    for stage in (2, 3):
        grow_(backbone, stage)
        assert all(map(torch.equal, tables(backbone), filled))


def test_a_crop_after_a_scaled_stage_reads_the_center():
    backbone = swin_of('scale', 'crop', 'scale')
    backbone.set_training_stage(1)
    alone = ElasticSwinTransformer(training_stages=[dict(grid=8, window=2), {}], **SWIN)
    finished = dict(backbone.state_dict())  # without the stage that it is of
    alone.load_state_dict(finished, strict=True)
    alone.set_training_stage(0)
    images = torch.rand(1, 3, 32, 32)
    backbone.eval()
    alone.eval()
    assert torch.equal(backbone(images)[-1], alone(images)[-1])


# Weights.


@pytest.mark.parametrize('case', rows('-scaled'), ids=lambda case: case.name)
def test_records_without_a_view_are_of_crops(case):
    first, *_, whole = case.build().training_stages
    cropped = dict(first.as_dict(), view='crop', grid=min(6, *(n - 2 for n in whole.grid)))
    backbone = case.build(training_stages=[cropped, {}])
    backbone.set_training_stage(0)
    weights = backbone.state_dict()
    record = weights._metadata['']['training_stage']
    assert record.pop('view') == 'crop'
    again = case.build(seed=3, training_stages=[cropped, {}])
    again.load_state_dict(weights)
    assert again.training_stage == 0
    scaled = case.build(training_stages=[dict(cropped, view='scale'), {}])
    with pytest.raises(ValueError, match='unfinished run'):
        scaled.load_state_dict(weights)


@pytest.mark.parametrize('case', rows('-scaled'), ids=lambda case: case.name)
def test_images_of_other_sizes_are_scaled_by_the_same_share(case):
    backbone = case.build()
    rows_of, columns = backbone.training_stages[0].grid
    backbone.set_training_stage(0)
    height, width = (2 * n for n in case.size)
    assert backbone.seen_size(0) == tuple(
        n * g // full for n, g, full in zip(case.size, (rows_of, columns), backbone.whole.grid)
    )
    assert backbone.seen_size(0, (height, width)) == tuple(2 * n for n in backbone.seen_size(0))
    assert backbone.seen_size(2) == case.size


# Wrong inputs.


@pytest.mark.parametrize(
    'stage, message',
    [
        (
            dict(grid=9, view='crop'),
            r'grid=9 is no centre crop .* or view=.scale., which takes any',
        ),
        (dict(grid=15, view='scale'), r'grid=15 is no number of patches.*give 1\.\.14'),
        (dict(grid=0, view='scale'), r'grid=0 is no number of patches'),
        (dict(grid=6.5, view='scale'), r'grid=6.5 is no number of patches'),
        (dict(grid=(6, 15), view='scale'), r'grid=\(6, 15\) is no number of patches'),
        (dict(grid=6, view='zoom'), r"view='zoom' is not known; give one of \('crop', 'scale'\)"),
        (dict(grid=6, view=None), r'view=None is not known'),
    ],
)
def test_wrong_views_are_refused(stage, message):
    with pytest.raises(ValueError, match='training stage 1: ' + message):
        deit_small(stage)


def test_windows_that_do_not_fit_the_scaled_map_are_refused():
    with pytest.raises(ValueError, match=r'training stage 1: window=4 is larger than level 3'):
        ElasticSwinTransformer(training_stages=[dict(grid=12, view='scale'), {}], **SWIN)


def test_a_scaled_stage_that_costs_less_than_a_cropped_one_is_refused():
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py')
    cfg.model.backbone.training_stages = [dict(grid=5), dict(grid=5, view='scale'), dict()]
    message = (
        r'training stage 2 \(.*view=scale\) costs 0.01\d+ GFLOPs, less than 0.01\d+ of training '
        r"stage 1 .* give it a larger grid, or view='scale' to training stage 1"
    )
    with pytest.raises(ValueError, match=message):
        plan_of_config(cfg)
