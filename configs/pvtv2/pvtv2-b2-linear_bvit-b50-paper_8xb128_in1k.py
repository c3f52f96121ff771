"""PVTv2-B2-linear for 50 % of the full cost with the paper's schedule (Table 1)."""

_base_ = ['./pvtv2-b2-linear_bvit-b100_8xb128_in1k.py']

train_cfg = dict(budget=None, epochs=[25, 27, 132])
