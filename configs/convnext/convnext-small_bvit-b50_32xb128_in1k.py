"""ConvNeXt-S for 50 % of the full cost; the planner chooses the schedule.

The recipe of ConvNeXt-T with drop path 0.4, as in mmpretrain's convnext-small_32xb128_in1k.py.
Hidden units of each level are those of ConvNeXt-T, so the training stages are too.
"""

_base_ = ['./convnext-tiny_bvit-b100_32xb128_in1k.py']

model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
train_cfg = dict(budget=0.50)
