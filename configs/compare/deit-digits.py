"""A small DeiT on real handwritten digits, to compare ways to spend a budget on it.

    python tools/make_digits.py data/digits
    python tools/compare.py configs/compare/deit-digits.py

It is the demo with a network half as wide and stronger augmentation, so that budgets count.
"""

_base_ = ['../demo/deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=48, feedforward_channels=192),
        training_stages=[
            dict(heads=1, hidden=48, grid=5),
            dict(heads=2, hidden=96, grid=7),
            dict(heads=3, hidden=192, grid=7),
        ],
    ),
    head=dict(in_channels=48),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='Rotate', magnitude_range=(0, 15), prob=0.5, random_negative_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=250, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=4e-3))
# Half an epoch of warm-up, a sixteenth of the shortest baseline, about what the paper's have.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=32),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=32),
]
# Of the plans that seeds draw, one whose stages grow longer at all budgets, as the paper's do.
train_cfg = dict(full_epochs=32, seed=28, val_interval=8)
