"""A small DeiT on crops of photographs, where detail decides; see deit-digits.py.

python tools/make_photographs.py data/photographs --packages
python tools/compare.py configs/compare/deit-photographs.py
"""

_base_ = ['./deit-digits.py']

image_size = 64
model = dict(
    data_preprocessor=dict(mean=[127.9] * 3, std=[48.1] * 3),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=image_size,
        patch_size=8,
        training_stages=[
            dict(heads=2, hidden=128, grid=4),
            dict(heads=3, hidden=192, grid=6),
            dict(heads=4, hidden=256, grid=8),
        ],
    ),
    head=dict(num_classes=22, in_channels=64),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=image_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
# An epoch is a quarter of the images, drawn anew each time: many short epochs meet a budget to 1 %.
train_dataloader = dict(
    dataset=dict(data_root='data/photographs/train', pipeline=train_pipeline),
    sampler=dict(_delete_=True, type='bvit_mm.SubsetSampler', share=0.25),
)
val_dataloader = dict(dataset=dict(data_root='data/photographs/val'))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3))
# Half an epoch of warm-up, as of the digits.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=18),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=18),
]
train_cfg = dict(full_epochs=40, val_interval=32)
default_hooks = dict(checkpoint=dict(interval=16))
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='bvit_mm.SubsetHook', selection='random', interval=1),
]
