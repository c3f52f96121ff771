"""DeiT-S in the schedule of Table 11: copies with noise."""

_base_ = ['./deit-small_bvit-b100_4xb256_in1k.py']

train_cfg = dict(budget=None, epochs=[75, 100, 125])
custom_hooks = [dict(type='bvit_mm.StageSwitchHook', init='noise', moments='drop')]
