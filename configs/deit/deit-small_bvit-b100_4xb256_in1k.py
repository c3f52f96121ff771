"""DeiT-S on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper's own schedules are in the files
named `paper`. The recipe is DeiT's own. Different from mmpretrain's deit-small_4xb256_in1k.py,
which it inherits:
- 5 warm-up epochs, not 20; no gradient clipping (there: 5.0);
- drop path 0.1 (there: none);
- repeated augmentation (there: none);
- the length follows from the budget.
The rest is the same there: AdamW 5e-4 x batch / 512 at batch 1024, weight decay 0.05, cosine to
1e-5, RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing 0.25, label smoothing 0.1.
"""

_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticVisionTransformer',
        drop_path_rate=0.1,
        training_stages=[
            dict(heads=2, hidden=384, grid=10),
            dict(heads=4, hidden=768, grid=12),
            dict(heads=6, hidden=1536, grid=14),
        ],
    )
)

# mmpretrain's own, but images are resized by a faster kernel, and those that repeat decoded once.
train_pipeline = [
    dict(type='bvit_mm.LoadImageFromFile'),
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
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(type='RepeatAugSampler', shuffle=True),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5),
]

train_cfg = dict(
    _delete_=True,
    type='bvit_mm.BudgetedTrainLoop',
    budget=1.0,
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
