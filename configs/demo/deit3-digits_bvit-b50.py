"""A small DeiT III on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py. Layer scales start at 0.1: from 1e-5,
as for long runs, few epochs would hardly move them.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticDeiT3',
        init_cfg=dict(type='Constant', layer='LayerScale', val=0.1),
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.gamma1': dict(decay_mult=0.0), '.gamma2': dict(decay_mult=0.0)}
    )
)
train_cfg = dict(full_epochs=20)
