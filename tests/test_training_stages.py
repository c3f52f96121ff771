# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The training_stages argument: what it means, and what it refuses at build time."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS

from bvit_mm import ElasticPVTv2, ElasticSwinTransformer, ElasticVisionTransformer
from bvit_mm.elastic import center_crop
from bvit_mm.training_stages import (
    TrainingStage,
    centered,
    check_distinct,
    parse_training_stages,
)

DEIT_S = TrainingStage(heads=6, hidden=1536, grid=(14, 14))


def test_three_stages_are_table_6():
    for name, heads, hidden in (
        ('deit-tiny', (1, 2, 3), (192, 384, 768)),
        ('deit-small', (2, 4, 6), (384, 768, 1536)),
        ('deit-base', (4, 8, 12), (768, 1536, 3072)),
    ):
        with torch.device('meta'):
            stages = ElasticVisionTransformer(arch=name, training_stages=3).training_stages
        assert [s.heads for s in stages] == list(heads)
        assert [s.hidden for s in stages] == list(hidden)
        assert [s.grid for s in stages] == [(10, 10), (12, 12), (14, 14)]


@pytest.mark.parametrize(
    'arch, expected',
    [
        ('deit-tiny', (0.1961, 0.5248, 1.2584)),
        ('deit-small', (0.6901, 1.9048, 4.6083)),
        ('deit-base', (2.5716, 7.2306, 17.5827)),
    ],
)
def test_flops_of_table_6(arch, expected):
    with torch.device('meta'):
        backbone = ElasticVisionTransformer(arch=arch, training_stages=3)
    classifier = backbone.embed_dims * 1000
    gflops = [(backbone.flops(k) + classifier) / 1e9 for k in range(3)]
    assert gflops == pytest.approx(expected, abs=5e-5)


def test_three_stages_of_a_pyramid_are_table_6():
    """But for the heads of PVTv2, which follow no rule."""
    with torch.device('meta'):
        pvtv2 = ElasticPVTv2('b2', linear=True, training_stages=3).training_stages
    assert [s.hidden for s in pvtv2] == [
        (128, 256, 320, 512),
        (256, 512, 640, 1024),
        (512, 1024, 1280, 2048),
    ]
    assert [s.grid for s in pvtv2] == [(40, 40), (48, 48), (56, 56)]
    assert [s.heads for s in pvtv2] == [(1, 1, 2, 3), (1, 1, 3, 5), (1, 2, 5, 8)]
    swin = ElasticSwinTransformer(arch='small', training_stages=3).training_stages
    assert [(s.heads, s.hidden, s.grid, s.view, s.window) for s in swin] == [
        ((1, 2, 4, 8), (96, 192, 384, 768), (40, 40), 'crop', 5),
        ((2, 4, 8, 16), (192, 384, 768, 1536), (48, 48), 'crop', 6),
        ((3, 6, 12, 24), (384, 768, 1536, 3072), (56, 56), 'whole', 7),
    ]


def test_stages_in_print():
    assert str(DEIT_S) == 'heads=6, hidden=1536, grid=14'
    swin = TrainingStage(heads=(1, 2), hidden=(96, 192), grid=(40, 56), window=5)
    assert str(swin) == 'heads=(1, 2), hidden=(96, 192), grid=(40, 56), window=5'


def test_a_stage_is_a_value():
    same = TrainingStage(grid=(14, 14), hidden=1536, heads=6)
    assert same == DEIT_S and hash(same) == hash(DEIT_S) and same.keys == DEIT_S.keys
    assert copy.deepcopy(DEIT_S) == DEIT_S == pickle.loads(pickle.dumps(DEIT_S))
    assert TrainingStage(hidden=1536, grid=(14, 14)) != DEIT_S
    with pytest.raises(AttributeError, match="'heads' of a training stage cannot be set"):
        same.heads = 3
    with pytest.raises(AttributeError, match="this training stage has no 'window', but"):
        same.window  # noqa: B018
    assert not hasattr(TrainingStage(hidden=8), 'heads')


def test_stages_in_checkpoints_are_plain_and_old_ones_load():
    assert DEIT_S.as_dict() == dict(heads=6, hidden=1536, grid=(14, 14))
    assert TrainingStage.from_dict(DEIT_S.as_dict()) == DEIT_S
    assert TrainingStage.from_dict({**DEIT_S.as_dict(), 'window': None}) == DEIT_S
    backbone = ElasticVisionTransformer(arch='deit-tiny', training_stages=3)
    backbone.set_training_stage(0)
    weights = backbone.state_dict()
    recorded = weights._metadata['']['training_stage']
    assert recorded == dict(heads=1, hidden=192, grid=(10, 10), view='crop')
    old = dict(heads=1, hidden=192, grid=(10, 10))
    for stage, k in ((recorded, 0), (old, 0), (dict(old, window=None), 0)):
        weights._metadata['']['training_stage'] = stage
        backbone.set_training_stage(2)
        backbone.load_state_dict(weights)
        assert backbone.training_stage == k
    weights._metadata['']['training_stage'] = dict(recorded, depth=0.5)
    with pytest.raises(ValueError, match=r"a training stage with \['depth'\] is not known here"):
        backbone.load_state_dict(weights)


def test_stages_of_the_same_shape_differ_in_their_recipe():
    spec = [dict(heads=2), dict(heads=2), dict(), dict()]
    stages = parse_training_stages(spec, DEIT_S)
    assert stages[0] == stages[1] and stages[2] == stages[3] == DEIT_S
    message = r'training stage 2: heads=2, .* is the same as training stage 1; drop one'
    for recipes in ((), ['a', 'a', 'a', 'b']):
        with pytest.raises(ValueError, match=message):
            check_distinct(stages, recipes)
    with pytest.raises(ValueError, match=r'training stage 4: heads=6, .* training stage 3'):
        check_distinct(stages, [dict(lr=1), dict(lr=2), dict(), dict()])
    check_distinct(stages, ['a', 'b', 'b', 'a'])
    check_distinct(stages[1:3])


def test_loaded_weights_find_the_first_stage_of_their_shape_or_the_whole():
    backbone = ElasticVisionTransformer(
        arch='deit-tiny', training_stages=[dict(heads=1), dict(heads=1), dict(), dict()]
    )
    found = []
    for k in range(4):
        backbone.set_training_stage(k)
        assert backbone.is_whole == (k >= 2)
        backbone.load_state_dict(backbone.state_dict())
        found.append(backbone.training_stage)
    assert found == [0, 0, 3, 3]


def test_numbers_of_stages():
    def stages(count):
        return [(s.heads, s.hidden, s.grid[0]) for s in parse_training_stages(count, DEIT_S)]

    assert stages(1) == [(6, 1536, 14)]
    assert stages(2) == [(3, 768, 10), (6, 1536, 14)]
    assert stages(4) == [(2, 192, 10), (3, 384, 12), (5, 768, 12), (6, 1536, 14)]


def test_left_out_keys_are_whole():
    spec = [dict(heads=2, grid=12), dict(heads=2), dict()]
    assert parse_training_stages(spec, DEIT_S) == (
        TrainingStage(heads=2, hidden=1536, grid=(12, 12)),
        TrainingStage(heads=2, hidden=1536, grid=(14, 14)),
        DEIT_S,
    )


BAD = [
    ([dict(heads=7), dict()], 'training stage 1: heads=7, but the model has 6 heads; give 1..6'),
    ([dict(heads=0), dict()], r'training stage 1: heads=0, but the model has 6 heads; give 1\.\.6'),
    ([dict(heads=2.5), dict()], 'training stage 1: heads=2.5 is not a whole number of heads'),
    ([dict(heads=True), dict()], 'training stage 1: heads=True is not a whole number of heads'),
    ([dict(hidden=2000), dict()], 'training stage 1: hidden=2000, but the model has 1536 hidden'),
    (
        [dict(grid=16), dict()],
        'training stage 1: grid=16 is no centre crop of the 14x14 patch grid',
    ),
    ([dict(grid=11), dict()], r'give one of \[2, 4, 6, 8, 10, 12, 14\]'),
    ([dict(grid=0), dict()], 'training stage 1: grid=0 is no centre crop'),
    ([dict(grid=(10, 11)), dict()], r'grid=\(10, 11\) is no centre crop'),
    ([dict(grid='10'), dict()], "grid='10' is no centre crop"),
    (
        [dict(heads=4), dict(heads=2), dict()],
        'training stage 2: heads=2 is less than 4 in training',
    ),
    ([dict(grid=12), dict(grid=10), dict()], r'training stage 2: grid=\(10, 10\) is less than'),
    ([dict(heads=2), dict(heads=4)], 'training stage 2 is the last and must be the whole network'),
    ([dict(head=2), dict()], r"training stage 1: \['head'\] is not known; give"),
    ([2, 4, 6], 'training stage 1: 2 must be a dict'),
    ([], r'training_stages=\[\] must be a number of stages or a list'),
    ('3', "training_stages='3' must be a number of stages or a list"),
    (dict(heads=2), 'must be a number of stages or a list'),
    (0, 'training_stages=0 must be a number of stages, at least 1'),
    (-1, 'training_stages=-1 must be'),
    (2.0, 'training_stages=2.0 must be'),
    (True, 'training_stages=True must be'),
    (12, 'training_stages=12 doubles the hidden units up to 1536, which cannot be halved 11 times'),
]


@pytest.mark.parametrize('spec, message', BAD)
def test_bad_training_stages(spec, message):
    config = dict(type='bvit_mm.ElasticVisionTransformer', arch='deit-small', training_stages=spec)
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        MODELS.build(config)


SWIN = TrainingStage(heads=(2, 4), hidden=(64, 128), grid=(16, 16), window=8)
OTHER_WINDOWS = TrainingStage(heads=(2, 4), hidden=(64, 128), grid=(16, 16), window=(8, 4))


def test_windows_are_one_number_or_one_a_level():
    def windows(spec, whole):
        return [s.window for s in parse_training_stages(spec, whole)]

    assert windows([dict(window=4), {}], SWIN) == [4, 8]
    assert windows([dict(window=[4, 4]), dict(window=(6, 4)), dict(window=7), {}], SWIN)[:3] == [
        4,
        (6, 4),
        7,
    ]
    assert windows([dict(window=4), dict(window=(5, 4)), {}], OTHER_WINDOWS) == [4, (5, 4), (8, 4)]
    stages = parse_training_stages(3, OTHER_WINDOWS)
    assert [s.window for s in stages] == [(6, 3), (7, 3), (8, 4)]
    assert [s.grid for s in stages] == [(12, 12), (14, 14), (16, 16)]
    assert str(stages[0]) == 'heads=(1, 1), hidden=(16, 32), grid=12, window=(6, 3)'


@pytest.mark.parametrize(
    'whole, window, message',
    [
        (SWIN, 9, r'window=9, but the model has windows of 8x8 tokens; give 1\.\.8'),
        (SWIN, (4, 9), r'window=\(4, 9\), but level 2 has windows of 8x8 tokens; give 1\.\.8'),
        (SWIN, (4, True), r'window=\(4, True\), but level 2 has windows of 8x8 tokens'),
        (SWIN, (4, 4, 4), r'window=\(4, 4, 4\) must be one number, or one for each of 2 levels'),
        (SWIN, '4', "window='4', but the model has windows of 8x8"),
        (OTHER_WINDOWS, 5, r'window=5, but level 2 has windows of 4x4 tokens; give 1\.\.4'),
        (OTHER_WINDOWS, (), r'one for each of 2 levels, such as \(8, 4\)'),
    ],
)
def test_bad_windows(whole, window, message):
    with pytest.raises(ValueError, match=f'training stage 1: .*{message}'):
        parse_training_stages([dict(window=window), dict()], whole)


def test_no_level_may_shrink():
    spec = [dict(window=(5, 4)), dict(window=(4, 4)), dict()]
    message = r'training stage 2: window=4 is less than \(5, 4\) in training stage 1'
    with pytest.raises(ValueError, match=message):
        parse_training_stages(spec, OTHER_WINDOWS)
    stages = parse_training_stages(spec, OTHER_WINDOWS, free=['window'])
    assert [stage.window for stage in stages] == [(5, 4), 4, (8, 4)]


def test_odd_grids():
    whole = TrainingStage(heads=3, hidden=96, grid=(7, 7))
    assert parse_training_stages([dict(grid=5), dict()], whole)[0].grid == (5, 5)
    with pytest.raises(ValueError, match=r'give one of \[1, 3, 5, 7\]'):
        parse_training_stages([dict(grid=4), dict()], whole)


UNSPLITTABLE = [
    (dict(frozen_stages=2), 'frozen_stages=2 freezes weights that growing would write to'),
    (dict(layer_cfgs=dict(ffn_type='swiglu_fused')), 'an MLP other than two linear layers'),
    (dict(layer_cfgs=dict(num_fcs=3)), 'an MLP other than two linear layers'),
    (
        dict(layer_cfgs=[dict(num_heads=2)] + [dict()] * 11),
        'layer_cfgs give the layers different heads',
    ),
]


@pytest.mark.parametrize('options, message', UNSPLITTABLE)
def test_what_cannot_be_split_is_refused_below_full_size_only(options, message):
    small = dict(arch='deit-tiny', img_size=32)
    stages = [dict(heads=1), dict()]
    with pytest.raises(ValueError, match=message):
        ElasticVisionTransformer(**small, **options, training_stages=stages)
    backbone = ElasticVisionTransformer(**small, **options)
    assert backbone(torch.zeros(1, 3, 32, 32))[0].shape == (1, 192)
    assert backbone.flops(0) > 0


def test_a_width_of_no_multiple_of_heads_is_built_whole_only():
    """As mmpretrain builds it, which could not run it."""
    arch = dict(embed_dims=50, num_layers=1, num_heads=6, feedforward_channels=96)
    assert ElasticVisionTransformer(arch, img_size=32).embed_dims == 50
    with pytest.raises(ValueError, match='a width of 50 is no multiple of num_heads=6'):
        ElasticVisionTransformer(arch, img_size=32, training_stages=2)


@pytest.mark.parametrize('k', [-1, 3, 1.0, True, None])
def test_bad_stage_numbers(k):
    with torch.device('meta'):
        backbone = ElasticVisionTransformer(arch='deit-tiny', training_stages=3)
    for call in (backbone.set_training_stage, backbone.flops):
        with pytest.raises(ValueError, match=rf'training stage k={k} does not exist; give 0\.\.2'):
            call(k)


def test_center_crop_keeps_the_centre():
    tokens = torch.arange(30).view(1, 30, 1)  # 5 rows of 6
    crop = center_crop(tokens, (5, 6), (3, 2)).flatten().tolist()
    assert crop == [8, 9, 14, 15, 20, 21]


@pytest.mark.parametrize('total', range(1, 20))
def test_centered_is_the_nearest_centre_crop(total):
    fits = range(2 - total % 2, total + 1, 2)
    for tenth in range(10 * total + 1):
        size = centered(total, tenth / 10)
        assert size in fits
        assert abs(size - tenth / 10) <= min(abs(n - tenth / 10) for n in fits) + 1e-9


def test_windows_of_a_level_may_only_grow():
    """One number stands for all levels, also where the whole network's differ."""
    whole = TrainingStage(heads=(2, 4), hidden=(8, 16), grid=(16, 16), window=(8, 4))
    stages = [dict(window=(4, 4)), dict(window=(8, 2)), dict()]
    with pytest.raises(ValueError, match=r'stage 2: window=.* is less than 4 in training'):
        parse_training_stages(stages, whole)
