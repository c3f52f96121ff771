"""A small DeiT III on real handwritten digits, to half of its full budget.

The data, recipe and use are those of deit-digits_bvit-b50.py.
"""

_base_ = ['./deit-digits_bvit-b50.py']

model = dict(backbone=dict(type='bvit_mm.ElasticDeiT3'))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.gamma1': dict(decay_mult=0.0), '.gamma2': dict(decay_mult=0.0)}
    )
)
train_cfg = dict(full_epochs=20)
