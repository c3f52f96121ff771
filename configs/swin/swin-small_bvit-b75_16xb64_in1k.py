"""Swin-S for 75 % of the full cost; the planner chooses the schedule."""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

train_cfg = dict(budget=0.75)
