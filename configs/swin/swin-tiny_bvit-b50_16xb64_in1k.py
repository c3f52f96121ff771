"""Swin-T for 50 % of the full cost; the planner chooses the schedule.

The recipe of Swin-S with drop path 0.2, as in mmpretrain's swin-tiny_16xb64_in1k.py. Heads, hidden
units and windows of each level are those of Swin-S, so the training stages are too.
"""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

model = dict(backbone=dict(arch='tiny', drop_path_rate=0.2))
train_cfg = dict(budget=0.50)
