"""Swin-S for 75 % of the full cost with the paper's schedule (Table 1)."""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

train_cfg = dict(budget=None, epochs=[42, 123, 167])
