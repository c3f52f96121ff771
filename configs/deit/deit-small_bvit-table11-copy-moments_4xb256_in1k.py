"""DeiT-S in the schedule of Table 11: new weights and their optimizer moments are copies."""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

train_cfg = dict(budget=None, epochs=[75, 100, 125])
custom_hooks = [dict(type='bvit_mm.StageSwitchHook', init='copy', moments='copy')]
