"""A small DeiT that tells who drew an emoji, of a kind of object that it has not seen.

python tools/make_pictograms.py data/pictograms --packages
python tools/compare.py configs/compare/deit-pictograms.py
"""

_base_ = ['./deit-digits.py']

image_size = 64
model = dict(
    data_preprocessor=dict(mean=[213.0, 198.2, 183.2], std=[69.2, 72.8, 87.5]),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=5, num_heads=4, feedforward_channels=256),
        img_size=image_size,
        patch_size=8,
        training_stages=[
            dict(heads=1, hidden=64, grid=6),
            dict(heads=3, hidden=192, grid=6),
            dict(heads=4, hidden=256, grid=8),
        ],
    ),
    head=dict(num_classes=5, in_channels=64),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomFlip', prob=0.5),
    dict(type='Rotate', magnitude_range=(0, 15), prob=0.5, random_negative_prob=0.5, pad_val=255),
    dict(type='bvit_mm.RandomResizedCrop', scale=image_size, crop_ratio_range=(0.6, 1.0)),
    dict(type='PackInputs'),
]
# An epoch is a fifth of the images, drawn anew each time: many short epochs meet a budget to 1 %.
train_dataloader = dict(
    batch_size=32,
    dataset=dict(data_root='data/pictograms/train', pipeline=train_pipeline),
    sampler=dict(_delete_=True, type='bvit_mm.SubsetSampler', share=0.2),
)
val_dataloader = dict(dataset=dict(data_root='data/pictograms/val'))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=45),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=45),
]
train_cfg = dict(full_epochs=40, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=20))
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='bvit_mm.SubsetHook', selection='random', interval=1),
]
