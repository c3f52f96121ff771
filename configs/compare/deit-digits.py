"""A small DeiT on real handwritten digits, to compare ways to spend a budget on it.

python tools/make_digits.py data/digits
python tools/compare.py configs/compare/deit-digits.py
"""

_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[33.3] * 3, std=[78.6] * 3, to_rgb=True),
    backbone=dict(
        type='bvit_mm.ElasticVisionTransformer',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=28,
        patch_size=4,
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=1, hidden=64, grid=5),
            dict(heads=2, hidden=128, grid=7),
            dict(heads=4, hidden=256, grid=7),
        ],
    ),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='Rotate', magnitude_range=(0, 15), prob=0.5, random_negative_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='data/digits/train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='data/digits/val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
)
# Half an epoch of warm-up, a sixteenth of the shortest baseline, about what the paper's have.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=32),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=32),
]

# Of the plans that seeds draw, this one's stages are as long as the paper's (Table 1).
train_cfg = dict(
    type='bvit_mm.BudgetedTrainLoop', budget=0.5, full_epochs=32, seed=11, val_interval=4
)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='bvit_mm.StageSwitchHook')]

default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(max_keep_ckpts=2),
)
randomness = dict(seed=0)
