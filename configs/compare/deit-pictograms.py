_base_ = ['./deit-digits.py']
DATA='/tmp/pict/data/a'
image_size = 64
model = dict(
    data_preprocessor=dict(mean=[200.0,180,165], std=[75.0,85,95]),
    backbone=dict(
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=64,
        patch_size=8,
        training_stages=[
            dict(heads=1, hidden=96, grid=6),
            dict(heads=3, hidden=288, grid=6),
            dict(heads=4, hidden=384, grid=8),
        ],
    ),
    head=dict(num_classes=71, in_channels=96),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Rotate', magnitude_range=(0, 15), prob=0.5, random_negative_prob=0.5, pad_val=255),
    dict(type='bvit_mm.RandomResizedCrop', scale=64, crop_ratio_range=(0.6, 1.0), interpolation='bilinear'),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(data_root=DATA+'/train', pipeline=train_pipeline))
val_dataloader = dict(batch_size=250, dataset=dict(data_root=DATA+'/val'))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(full_epochs=32)
