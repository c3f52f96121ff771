"""Swin V2-S with windows of 8 for 50 % of the full cost; the planner chooses the schedule.

The recipe of Swin V2-T with drop path 0.3, as in mmpretrain's
swinv2-small-w8_16xb64_in1k-256px.py. Heads, hidden units and windows of each level are those of
Swin V2-T, so the training stages are too.
"""

_base_ = ['./swinv2-tiny-w8_bvit-b100_16xb64_in1k-256px.py']

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
train_cfg = dict(budget=0.50)
