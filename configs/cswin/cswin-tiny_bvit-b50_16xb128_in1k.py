"""CSWin-T for 50 % of the full cost; the planner chooses the schedule."""

_base_ = ['./cswin-tiny_bvit-b100_16xb128_in1k.py']

train_cfg = dict(budget=0.50)
