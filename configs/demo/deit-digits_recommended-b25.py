"""A small DeiT on real handwritten digits, by the recommended setting, for 25 % of its full cost.

`make demo` runs it. Any other budget: --cfg-options train_cfg.budget=0.5, or train_cfg.budget=2min.

Whole images grow over the tenths of the budget, and heads and hidden units with them. New units
are copies at half their weight. The learning rate is REX, by the spent budget. What that brings is
in docs/results.md.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        training_stages=[
            dict(heads=1, hidden=96, grid=3, view='scale'),
            dict(heads=2, hidden=192, grid=5, view='scale'),
            dict(heads=2, hidden=192, grid=6, view='scale'),
            dict(heads=3, hidden=384, grid=7),
        ],
    )
)
# Small stages are quick, so that small batches would take most of the time.
train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=250)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=2, convert_to_iter_based=True),
    dict(type='bvit_mm.REXLR', eta_min=1e-5, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(budget=0.25, shares=[0.2, 0.4, 0.2, 0.2], schedule='budget', val_interval=8)
custom_hooks = [dict(type='bvit_mm.StageSwitchHook', init='half')]
