"""deit-pictograms.py with images of half the size, and the whole network for as many epochs.

It shows that details count: python tools/train.py configs/compare/deit-pictograms_half.py
"""

_base_ = ['./deit-pictograms.py']

model = dict(backbone=dict(img_size=32, training_stages=None))
smaller = dict(type='Resize', scale=(32, 32), interpolation='area')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomFlip', prob=0.5),
    dict(type='Rotate', magnitude_range=(0, 15), prob=0.5, random_negative_prob=0.5, pad_val=255),
    dict(type='bvit_mm.RandomResizedCrop', scale=64, crop_ratio_range=(0.6, 1.0)),
    smaller,
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), smaller, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(budget=1.0)
