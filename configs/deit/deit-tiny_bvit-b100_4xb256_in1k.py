"""DeiT-T on ImageNet-1K, grown in three training stages.

The schedules of Table 10, for example:
--cfg-options train_cfg.budget=None train_cfg.epochs=[22,51,127].
"""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

model = dict(
    backbone=dict(
        arch='deit-tiny',
        training_stages=[
            dict(heads=1, hidden=192, grid=10),
            dict(heads=2, hidden=384, grid=12),
            dict(heads=3, hidden=768, grid=14),
        ],
    ),
    head=dict(in_channels=192),
)
