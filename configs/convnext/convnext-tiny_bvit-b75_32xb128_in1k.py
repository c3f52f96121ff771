"""ConvNeXt-T for 75 % of the full cost; the planner chooses the schedule."""

_base_ = ['./convnext-tiny_bvit-b100_32xb128_in1k.py']

train_cfg = dict(budget=0.75)
