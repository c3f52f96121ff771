"""A small CSWin on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticCSWin',
        arch=dict(
            embed_dims=(32, 64, 128),
            depths=(1, 2, 1),
            num_heads=(2, 4, 4),
            mlp_ratios=(4, 4, 4),
        ),
        img_size={{_base_.image_size}},
        patch_sizes=(3, 3, 3),
        strides=(2, 2, 2),
        window=(2, 1, 4),
        out_indices=(2,),
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=(2, 2, 2), hidden=(32, 64, 128), grid=10),
            dict(heads=(2, 2, 3), hidden=(64, 128, 256), grid=12),
            dict(heads=(2, 4, 4), hidden=(128, 256, 512), grid=14),
        ],
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=128),
)
train_cfg = dict(full_epochs=20)
