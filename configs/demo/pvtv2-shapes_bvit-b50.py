"""A small PVTv2 with linear attention on drawn shapes, to half of its full budget.

The recipe is that of deit-digits_bvit-b50.py; tools/make_shapes.py draws the images. Four levels,
as detectors and segmentors want them: `make tour` fine-tunes it for both.
"""

_base_ = ['./deit-digits_bvit-b50.py']

image_size = 64
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticPVTv2',
        arch=dict(
            embed_dims=(24, 48, 96, 128),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 4),
            mlp_ratios=(4, 4, 4, 4),
            sr_ratios=(1, 1, 1, 1),
        ),
        linear=True,
        img_size=image_size,
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=(1, 1, 2, 2), hidden=(24, 48, 96, 128), grid=12),
            dict(heads=(1, 2, 3, 3), hidden=(48, 96, 192, 256), grid=14),
            dict(heads=(1, 2, 4, 4), hidden=(96, 192, 384, 512), grid=16),
        ],
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=128),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=image_size, padding=4, padding_mode='reflect'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root='data/shapes/folder/train', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root='data/shapes/folder/val', pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(full_epochs=24)
