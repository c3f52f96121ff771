"""A small T2T-ViT on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py, but for the size of the images: of
28 pixels T2T-ViT, whose tokens are 16 pixels a side, would make one token.
"""

_base_ = ['./deit-digits_bvit-b50.py']

image_size = 64
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticT2TViT',
        img_size=image_size,
        embed_dims=96,
        num_layers=4,
        layer_cfgs=dict(num_heads=3, feedforward_channels=288),
        t2t_cfg=dict(token_dims=32),
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=1, hidden=72, grid=2, view='scale'),
            dict(heads=2, hidden=144, grid=3, view='scale'),
            dict(heads=3, hidden=288, grid=4),
        ],
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='RandomCrop', crop_size=image_size, padding=4),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(full_epochs=20)
