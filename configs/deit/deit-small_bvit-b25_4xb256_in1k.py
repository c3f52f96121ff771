"""DeiT-S for 25 % of the full cost; the planner chooses the schedule."""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

train_cfg = dict(budget=0.25)
