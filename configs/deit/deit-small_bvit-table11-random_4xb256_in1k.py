"""DeiT-S in the schedule of Table 11: new weights drawn at random."""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

train_cfg = dict(budget=None, epochs=[75, 100, 125])
custom_hooks = [dict(type='bvit_mm.StageSwitchHook', init='random', moments='drop')]
