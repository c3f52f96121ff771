"""Swin V2-T with windows of 16 for 50 % of the full cost; the planner chooses the schedule.

The recipe is that with windows of 8. Windows are as large as the map of the third level, and in
the last level as its map of 8 x 8 tokens, as in mmpretrain's swinv2-tiny-w16_16xb64_in1k-256px.py.
"""

_base_ = ['./swinv2-tiny-w8_bvit-b100_16xb64_in1k-256px.py']

model = dict(
    backbone=dict(
        window_size=[16, 16, 16, 8],
        training_stages=[
            dict(
                heads=(1, 2, 4, 8),
                hidden=(96, 192, 384, 768),
                grid=44,
                window=(11, 11, 11, 6),
            ),
            dict(
                heads=(2, 4, 8, 16),
                hidden=(192, 384, 768, 1536),
                grid=56,
                window=(14, 14, 14, 7),
            ),
            dict(
                heads=(3, 6, 12, 24),
                hidden=(384, 768, 1536, 3072),
                grid=64,
                window=(16, 16, 16, 8),
            ),
        ],
    )
)
train_cfg = dict(budget=0.50)
