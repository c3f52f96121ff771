"""A small ConvNeXt on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py. Layer scales start at 0.1: from 1e-6,
as for long runs, few epochs would hardly move them.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticConvNeXt',
        arch=dict(depths=[2, 2], channels=[48, 96]),
        img_size={{_base_.image_size}},
        stem_patch_size=2,
        out_indices=(1,),
        drop_path_rate=0.05,
        layer_scale_init_value=0.1,
        training_stages=[
            dict(hidden=(48, 96), grid=10),
            dict(hidden=(96, 192), grid=12),
            dict(hidden=(192, 384), grid=14),
        ],
    ),
    head=dict(type='LinearClsHead', in_channels=96),
)
train_cfg = dict(full_epochs=20)
