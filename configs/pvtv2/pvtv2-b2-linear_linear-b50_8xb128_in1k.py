"""PVTv2-B2-linear, the whole network for half of the epochs, Linear-LR (Table 1, Eq. 9)."""

_base_ = ['./pvtv2-b2-linear_cosine-b50_8xb128_in1k.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='bvit_mm.LinearDecayLR', begin=5),
]
