"""CSWin-B for 50 % of the full cost; the planner chooses the schedule.

The recipe is its authors'. Different from CSWin-T's: AdamW 1e-3 at batch 1024 = 16 x 64, weight
decay 0.1, drop path 0.5, and an average of the weights that keeps 0.99992 at each update.
"""

_base_ = ['./cswin-tiny_bvit-b100_16xb128_in1k.py']

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
        training_stages=[
            dict(heads=(2, 2, 6, 11), hidden=(96, 192, 384, 768), grid=40),
            dict(heads=(2, 6, 10, 21), hidden=(192, 384, 768, 1536), grid=48),
            dict(heads=(4, 8, 16, 32), hidden=(384, 768, 1536, 3072), grid=56),
        ],
    ),
    head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=20),
]
auto_scale_lr = dict(base_batch_size=1024)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=8e-5),
]
train_cfg = dict(budget=0.50)
