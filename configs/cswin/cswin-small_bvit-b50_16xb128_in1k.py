"""CSWin-S for 50 % of the full cost; the planner chooses the schedule.

The recipe of CSWin-T with drop path 0.4, as its authors have it. Heads and hidden units of each
level are those of CSWin-T, so the training stages are too.
"""

_base_ = ['./cswin-tiny_bvit-b100_16xb128_in1k.py']

model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
train_cfg = dict(budget=0.50)
