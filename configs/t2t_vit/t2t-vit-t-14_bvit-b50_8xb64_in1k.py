"""T2T-ViT_t-14 on ImageNet-1K, grown in three stages, for half of the cost of 310 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no T2T-ViT: heads, hidden units
and tokens are those that `training_stages=3` gives, as of its transformers. But stages see whole
images scaled down: of their centers the network that makes the tokens would save nothing, as it
looks at whole images. The recipe is mmpretrain's. Different from its
t2t-vit-t-14_8xb64_in1k.py, which this inherits: the length follows from the budget, and no epochs
at a tenth of the last rate follow. The warm-up takes 10 epochs, however short that is.
The rest is the same there: AdamW 5e-4 at batch 512, weight decay 0.05 (none on norms, biases and
the class token), cosine to 1e-5, drop path 0.1, RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing
0.25, label smoothing 0.1, averages of the weights (EMA) with momentum 4e-5.
"""

_base_ = ['mmpretrain::t2t_vit/t2t-vit-t-14_8xb64_in1k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticT2TViT',
        training_stages=[
            dict(heads=2, hidden=288, grid=10, view='scale'),
            dict(heads=4, hidden=576, grid=12, view='scale'),
            dict(heads=6, hidden=1152, grid=14),
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

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=10),
]

train_cfg = dict(
    _delete_=True,
    type='bvit_mm.BudgetedTrainLoop',
    budget=0.5,
    full_epochs=310,
    alpha=2.0,
    seed=0,
    val_interval=1,
)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
