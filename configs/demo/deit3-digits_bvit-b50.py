"""A small DeiT III on real handwritten digits, to half of its full budget.

The data and use are those of deit-digits_bvit-b50.py, the recipe is that of
deit-digits_recommended-b25.py, which suits a plain ViT in so short a run: 93.4 %. By that of the
other demos, and longer, to half of 20 epochs, DeiT III had 85.0 % and DeiT 88.2 %. Layer scales
start at 0.1: from 1e-5, as for long runs, few epochs would hardly move them. For the whole network:
--cfg-options model.backbone.training_stages=None train_cfg.shares=None.
"""

_base_ = ['./deit-digits_recommended-b25.py']

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
train_cfg = dict(budget=0.5, full_epochs=16)
