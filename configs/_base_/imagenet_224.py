"""ImageNet-1K at 224 pixels, as mmpretrain has it for Swin and ConvNeXt.

But images are resized by a faster kernel.
"""

_base_ = ['mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py']

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    dict(_base_.train_pipeline[2], type='bvit_mm.RandomFlip'),
    dict(_base_.train_pipeline[3], type='bvit_mm.RandAugment'),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=256, edge='short', interpolation='bicubic'),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
