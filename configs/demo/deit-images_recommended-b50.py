"""A small DeiT for your own images, of any sizes: whole images scaled down first, then larger.

    python tools/train.py configs/demo/deit-images_recommended-b50.py --work-dir work_dirs/mine \
        --cfg-options train_dataloader.dataset.data_root=MY/train \
        val_dataloader.dataset.data_root=MY/val test_dataloader.dataset.data_root=MY/val \
        model.head.num_classes=N

MY/train and MY/val have one sub-folder a class. This is the recommended setting, as in
deit-digits_recommended-b25.py: heads, hidden units, images and augmentation grow together. The
recipe suits short runs, so nothing is mixed or erased.
"""

_base_ = ['./deit-digits_recommended-b25.py']

image_size = 128
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        arch=dict(embed_dims=192, num_layers=8, num_heads=3, feedforward_channels=768),
        img_size=image_size,
        patch_size=16,
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=1, hidden=192, grid=3, view='scale'),
            dict(heads=2, hidden=384, grid=6, view='scale'),
            dict(heads=2, hidden=384, grid=7, view='scale'),
            dict(heads=3, hidden=768, grid=8),
        ],
    ),
    head=dict(in_channels=192),
)

train_pipeline = [
    dict(type='bvit_mm.LoadImageFromFile'),
    dict(
        type='bvit_mm.RandomResizedCrop',
        scale=image_size,
        crop_ratio_range=(0.35, 1.0),
        interpolation='bicubic',
    ),
    dict(type='bvit_mm.RandomFlip', prob=0.5),
    dict(
        type='bvit_mm.RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=6,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='bvit_mm.LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=146, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]
loader = dict(batch_size=32, num_workers=2, persistent_workers=True)
train_dataloader = dict(
    **loader, dataset=dict(data_root='data/images/train', pipeline=train_pipeline)
)
val_dataloader = dict(**loader, dataset=dict(data_root='data/images/val', pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(budget=0.5, full_epochs=60, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [
    dict(
        type='bvit_mm.StageSwitchHook',
        init='half',
        recipes=[dict(magnitude=0), dict(magnitude=2), dict(magnitude=4), dict(magnitude=6)],
    )
]
