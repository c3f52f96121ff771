"""PVTv2-B2-linear for 25 % of the full cost; the planner chooses the schedule."""

_base_ = ['./pvtv2-b2-linear_bvit-b100_8xb128_in1k.py']

train_cfg = dict(budget=0.25)
