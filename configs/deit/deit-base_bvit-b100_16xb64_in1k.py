"""DeiT-B on ImageNet-1K, grown in three training stages.

Different from mmpretrain's deit-base_16xb64_in1k.py: 5 warm-up epochs, not 20; no gradient
clipping; repeated augmentation; no moving average of the weights; the length.
The schedules of Table 14, for example:
--cfg-options train_cfg.budget=None train_cfg.epochs=[50,50,200].
"""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

model = dict(
    backbone=dict(
        arch='deit-base',
        training_stages=[
            dict(heads=4, hidden=768, grid=10),
            dict(heads=8, hidden=1536, grid=12),
            dict(heads=12, hidden=3072, grid=14),
        ],
    ),
    head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=64)
