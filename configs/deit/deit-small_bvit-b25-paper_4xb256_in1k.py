"""DeiT-S for 25 % of the full cost with the paper's schedule (Table 1)."""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

train_cfg = dict(budget=None, epochs=[29, 49, 50])
