"""DeiT-S for 25 % of the full cost, with a recipe for short runs.

Weaker regularization than DeiT's own, which is for 300 epochs: no repeated augmentation, mixup 0.2,
no CutMix, no erasing, RandAugment 5/0.5 (there: 9/0.5), drop path 0.1 x budget. What each brings
has not been measured here. deit-small_rex-b25-short_4xb256_in1k.py is its baseline: compare with
that one, for a baseline gains by the recipe too.
"""

_base_ = ['./deit-small_bvit-b25_4xb256_in1k.py']

model = dict(
    backbone=dict(drop_path_rate=0.025),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
)
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(_base_.train_pipeline[3], magnitude_level=5),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
