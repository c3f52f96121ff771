"""A small PoolFormer on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py. Layer scales start at 0.1: from 1e-5,
as for long runs, few epochs would hardly move them.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticPoolFormer',
        arch=dict(
            layers=[2, 2],
            embed_dims=[48, 96],
            mlp_ratios=[4, 4],
            layer_scale_init_value=0.1,
        ),
        img_size={{_base_.image_size}},
        in_patch_size=3,
        in_stride=2,
        in_pad=1,
        out_indices=(2,),
        drop_path_rate=0.05,
        training_stages=[
            dict(hidden=(48, 96), grid=10),
            dict(hidden=(96, 192), grid=12),
            dict(hidden=(192, 384), grid=14),
        ],
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=96),
)
train_cfg = dict(full_epochs=20)
