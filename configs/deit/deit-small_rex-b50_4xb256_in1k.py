"""DeiT-S, the whole network for half of the epochs, REX (Table 1, Eq. 9)."""

_base_ = ['./deit-small_cosine-b50_4xb256_in1k.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='bvit_mm.REXLR', begin=5),
]
