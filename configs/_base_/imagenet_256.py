"""ImageNet-1K at 256 pixels, as mmpretrain has it for Swin V2."""

_base_ = ['./imagenet_224.py']

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomResizedCrop', scale=256, interpolation='bicubic'),
    *map(dict, _base_.train_pipeline[2:]),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=292, edge='short', interpolation='bicubic'),
    dict(_base_.test_pipeline[2], crop_size=256),
    *map(dict, _base_.test_pipeline[3:]),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
