"""A small Swin V2 on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticSwinTransformerV2',
        arch=dict(
            embed_dims=32,
            depths=[2, 2],
            num_heads=[2, 4],
            extra_norm_every_n_blocks=0,
        ),
        img_size={{_base_.image_size}},
        patch_size=2,
        window_size=7,
        out_indices=(1,),
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=(1, 1), hidden=(32, 64), grid=10, window=5),
            dict(heads=(1, 3), hidden=(64, 128), grid=12, window=6),
            dict(heads=(2, 4), hidden=(128, 256), grid=14, window=7),
        ],
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64),
)
train_cfg = dict(full_epochs=20)
