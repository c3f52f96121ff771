# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One row a backbone, or a set of its options: the laws are parametrized over this table.

The first row of each class is also the network that tests train where any will do.
"""

import copy

import torch
from mmpretrain.models.backbones import SwinTransformer, VisionTransformer

from bvit_mm import ElasticPVTv2, ElasticSwinTransformer, ElasticVisionTransformer, testing
from bvit_mm.testing.closeness import FLOAT64

from .added_backbone import T2T
from .plain_pvtv2 import PlainPVTv2
from .plain_swin import PlainSwin
from .plain_vit import PlainViT


class Case(testing.Case):
    """A row: the laws' case, and what a run of it needs."""

    @property
    def family(self):
        return self.name.split('-')[0]

    def run_changes(self):
        """Changes of ``runs.config`` that train this backbone: head, neck and images fit it."""
        with torch.random.fork_rng(), torch.no_grad():
            features = self.build()(self.images(batch=1))[-1]
        necks = {3: dict(type='MeanTokens'), 4: dict(type='GlobalAveragePooling')}
        backbone = dict(type=f'bvit_mm.{self.elastic.__name__}', training_stages=self.stages)
        changes = {
            'model.backbone': dict(_delete_=True, **backbone, **copy.deepcopy(self.kwargs)),
            'model.head.in_channels': features.shape[2 if features.dim() == 3 else 1],
        }
        if features.dim() in necks:
            changes['model.neck'] = necks[features.dim()]
            changes['model.head.type'] = 'LinearClsHead'
        if self.size != (16, 16):
            for loader in ('train', 'val'):
                changes[f'{loader}_dataloader.dataset.size'] = self.size
        return changes


VIT = dict(
    arch=dict(embed_dims=48, num_layers=3, num_heads=6, feedforward_channels=96),
    img_size=32,
    patch_size=4,
    drop_path_rate=0.1,
)
VIT_STAGES = [
    dict(heads=2, hidden=24, grid=4),
    dict(heads=4, hidden=48, grid=6),
    dict(heads=6, hidden=96, grid=8),
]


def vit(name, stages=VIT_STAGES, batch=2, **changes):
    return Case(
        f'vit-{name}',
        ElasticVisionTransformer,
        VisionTransformer,
        PlainViT,
        stages,
        {**VIT, **changes},
        batch=batch,
    )


PVTV2 = dict(
    arch=dict(
        embed_dims=(16, 32, 40),
        depths=(1, 2, 1),
        num_heads=(2, 4, 5),
        mlp_ratios=(4, 2, 2),
        sr_ratios=(4, 2, 1),
    ),
    img_size=48,
    patch_sizes=(7, 3, 3),
    strides=(4, 2, 2),
    out_indices=(2,),
    drop_path_rate=0.1,
)
PVTV2_STAGES = [
    dict(heads=(1, 2, 4), hidden=(16, 16, 33), grid=8),
    dict(heads=(2, 3, 5), hidden=(32, 40, 50), grid=10),
    dict(heads=(2, 4, 5), hidden=(64, 64, 80), grid=12),
]
SWIN = dict(
    arch=dict(embed_dims=24, depths=[2, 2, 1], num_heads=[3, 6, 4]),
    img_size=32,
    patch_size=2,
    window_size=4,
    out_indices=(2,),
    drop_path_rate=0.1,
)
SWIN_STAGES = [
    dict(heads=(1, 4, 3), hidden=(24, 50, 100), grid=8, window=2),
    dict(heads=(2, 5, 4), hidden=(48, 96, 192), grid=12, window=3),
    dict(heads=(3, 6, 4), hidden=(96, 192, 384), grid=16, window=4),
]


def pvtv2(name, stages=PVTV2_STAGES, batch=2, **changes):
    return Case(
        f'pvtv2-{name}',
        ElasticPVTv2,
        ElasticPVTv2,
        PlainPVTv2,
        stages,
        {**PVTV2, **changes},
        batch=batch,
    )


def swin(name, stages=SWIN_STAGES, batch=2, **changes):
    return Case(
        f'swin-{name}',
        ElasticSwinTransformer,
        SwinTransformer,
        PlainSwin,
        stages,
        {**SWIN, **changes},
        tolerance=FLOAT64,
        batch=batch,
    )


# No library of OpenMMLab has PVTv2 with these names: its plain class is itself without training
# stages, and test_pvtv2.py compares it with mmdet's and timm's. Networks of full size have one
# image at once: they take most of the time.
CASES = [
    vit(
        'tiny',
        stages=3,
        arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
        img_size=16,
        patch_size=2,
        drop_path_rate=0.2,
    ),
    pvtv2(
        'tiny',
        stages=3,
        arch=dict(
            embed_dims=(16, 32),
            depths=(1, 1),
            num_heads=(2, 4),
            mlp_ratios=(2, 2),
            sr_ratios=(2, 1),
        ),
        img_size=16,
        patch_sizes=(3, 3),
        strides=(2, 2),
        out_indices=(1,),
        drop_path_rate=0.2,
    ),
    swin(
        'tiny',
        stages=3,
        arch=dict(embed_dims=16, depths=[2, 1], num_heads=[2, 4]),
        img_size=16,
        out_indices=(1,),
        drop_path_rate=0.2,
    ),
    vit('base'),
    vit('number', stages=3),
    vit('two', stages=2),
    vit('four', stages=4),
    vit('uneven', stages=[dict(heads=4, hidden=35, grid=6), dict(heads=5, hidden=96), dict()]),
    vit('no-bias', qkv_bias=False, layer_scale_init_value=0.5),
    vit('no-cls', with_cls_token=False, out_type='avg_featmap'),
    vit('featmap', out_type='featmap'),
    vit('raw', out_type='raw'),
    vit('outputs', out_indices=[0, 2]),
    vit('pre-norm', pre_norm=True, patch_cfg=dict(norm_cfg=None)),
    vit('deit-small', stages=3, batch=1, arch='deit-small', img_size=224, patch_size=16),
    vit(
        'oblong',
        stages=[dict(heads=3, hidden=48, grid=(4, 3)), dict(grid=(4, 5)), dict()],
        img_size=(24, 28),
    ),
    pvtv2('base'),
    pvtv2('linear', linear=True),
    pvtv2('two', stages=2),
    pvtv2('three', stages=3, linear=True),
    pvtv2('no-bias', qkv_bias=False),
    pvtv2('outputs', out_indices=(0, 1, 2)),
    pvtv2(
        'oblong',
        stages=[dict(heads=(1, 3, 3), grid=(8, 6)), dict(grid=(8, 8)), dict()],
        linear=True,
        img_size=(48, 40),
    ),
    pvtv2(
        'b2-linear',
        batch=1,
        stages=[
            dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512), grid=40),
            dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024), grid=48),
            dict(),
        ],
        arch='b2',
        linear=True,
        img_size=224,
        patch_sizes=(7, 3, 3, 3),
        strides=(4, 2, 2, 2),
        out_indices=(3,),
    ),
    swin('base'),
    swin('number', stages=3),
    swin('heads-only', stages=[dict(heads=(1, 2, 4)), dict()]),
    swin('window-only', stages=[dict(grid=12, window=3), dict()]),
    # windows that do not divide the map, and levels of an odd side
    swin('padded', stages=[dict(grid=10, window=3), dict(grid=14, window=4), dict()]),
    swin('small-maps', stages=[dict(grid=6, window=4), dict()], pad_small_map=True),
    # windows of their own at each level, of a network whose windows are alike and of one without
    swin('windows', stages=[dict(grid=8, window=(3, 2, 2)), dict(grid=12, window=(4, 3, 2)), {}]),
    swin(
        'levels',
        stages=2,
        stage_cfgs=[dict(window_size=4), dict(window_size=4), dict(window_size=3)],
    ),
    swin('position', use_abs_pos_embed=True),
    swin('no-bias', stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False)))),
    swin('outputs', out_indices=(0, 1, 2)),
    swin('after-downsample', out_indices=(0, 2), out_after_downsample=True),
    swin(
        'oblong',
        stages=[dict(grid=(12, 8), window=2), dict(grid=(18, 12), window=3), dict()],
        img_size=(48, 32),
    ),
    swin(
        'swin-tiny',
        stages=3,
        batch=1,
        arch='tiny',
        img_size=224,
        patch_size=4,
        window_size=7,
        out_indices=(3,),
    ),
    Case(**T2T),  # the worked example of docs/add_a_backbone.md
]

FAMILIES = {}
for _case in CASES:
    FAMILIES.setdefault(_case.family, _case)
