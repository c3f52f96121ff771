"""ImageNet-1K at 224 pixels, as mmpretrain has it for PoolFormer and T2T-ViT.

Test images are the center of 248 pixels, not of 256.
"""

_base_ = ['./imagenet_224.py']

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=248, edge='short', interpolation='bicubic'),
    *map(dict, _base_.test_pipeline[2:]),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
