"""DeiT-S, the whole network for a quarter of the epochs, REX, with the recipe for short runs."""

_base_ = ['./deit-small_bvit-b25-short_4xb256_in1k.py']

model = dict(backbone=dict(training_stages=None))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='bvit_mm.REXLR', begin=5),
]
