"""A small DeiT on real handwritten digits, trained to half of its full budget.

`make demo` runs it. For your own folder of images, one sub-folder a class:

    python tools/train.py configs/demo/deit-digits_bvit-b50.py --work-dir work_dirs/mine \
        --cfg-options train_dataloader.dataset.data_root=MY/train \
        val_dataloader.dataset.data_root=MY/val test_dataloader.dataset.data_root=MY/val \
        model.head.num_classes=N
"""

_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

image_size = 28
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[33.3] * 3, std=[78.6] * 3, to_rgb=True),
    backbone=dict(
        type='bvit_mm.ElasticVisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=image_size,
        patch_size=4,
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=1, hidden=96, grid=5),
            dict(heads=2, hidden=192, grid=7),
            dict(heads=3, hidden=384, grid=7),
        ],
    ),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='RandomCrop', crop_size=image_size, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='PackInputs'),
]
loader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
)
train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='data/digits/train', pipeline=train_pipeline),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='data/digits/val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=2, convert_to_iter_based=True),
]

train_cfg = dict(type='bvit_mm.BudgetedTrainLoop', budget=0.5, full_epochs=40)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='bvit_mm.StageSwitchHook')]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)

default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(max_keep_ckpts=2),
)
randomness = dict(seed=0)
