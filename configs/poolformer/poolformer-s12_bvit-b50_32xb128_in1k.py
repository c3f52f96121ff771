"""PoolFormer-S12 on ImageNet-1K, grown in three stages, for half of the cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no PoolFormer: the stages are
those that `training_stages=3` gives, as of its transformers. The recipe is mmpretrain's. Different
from its poolformer-s12_32xb128_in1k.py, which this inherits: the patch embedding is trained, which
mmpretrain's class freezes as it was drawn, and the length follows from the budget. The warm-up
takes 20 epochs, however short that is.
The rest is the same there: AdamW 4e-3 at batch 4096, weight decay 0.05 (none on norms, biases and
layer scales), cosine to 1e-5, gradient clipping 5.0, drop path 0.1, RandAugment 9/0.5, erasing
0.25, no mixing of images, no label smoothing.
"""

_base_ = ['mmpretrain::poolformer/poolformer-s12_32xb128_in1k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticPoolFormer',
        img_size=224,
        training_stages=[
            dict(hidden=(64, 128, 320, 512), grid=40),
            dict(hidden=(128, 256, 640, 1024), grid=48),
            dict(hidden=(256, 512, 1280, 2048), grid=56),
        ],
    )
)

# mmpretrain's own, but images are resized by a faster kernel.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    dict(_base_.train_pipeline[2], type='bvit_mm.RandomFlip'),
    dict(_base_.train_pipeline[3], type='bvit_mm.RandAugment'),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=248, edge='short', interpolation='bicubic'),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(
    _delete_=True,
    type='bvit_mm.BudgetedTrainLoop',
    budget=0.5,
    full_epochs=300,
    alpha=2.0,
    seed=0,
    val_interval=1,
)
custom_hooks = [dict(type='bvit_mm.StageSwitchHook')]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
