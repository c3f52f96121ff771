# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Changes of the config of a run that many tests make."""

SWITCH = dict(type='bvit_mm.StageSwitchHook')
EMA = dict(type='EMAHook', momentum=0.1)
ACCUMULATION = {'optim_wrapper.accumulative_counts': 2}
VARIANTS = {
    'neither': {'custom_hooks': [SWITCH]},
    'ema': {'custom_hooks': [SWITCH, EMA]},
    'accumulation': {'custom_hooks': [SWITCH], **ACCUMULATION},
    'both': {'custom_hooks': [SWITCH, EMA], **ACCUMULATION},
}
EVERY_ITERATION = {
    'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, by_epoch=False)
}
# What costs as much as an iteration, where nobody reads it: files in between, and logs.
NO_LOGS = {'default_hooks.logger.interval': 1000}
AT_THE_END = {'default_hooks.checkpoint.interval': 1000, **NO_LOGS}
RECORD = dict(type='RecordHook', priority='LOWEST')
SHORT = {'train_cfg.epochs': [1, 1, 1]}
ONE_TWO_ONE = {'train_cfg.epochs': [1, 2, 1]}  # of 5 iterations: switches are before 6 and 16
SAMPLER = dict(_delete_=True, type='bvit_mm.SubsetSampler', share=0.5)
MATCH = dict(type='bvit_mm.SubsetHook', selection='gradmatch', interval=2, batch_size=2)
# 10 of 20 samples, so 3 iterations an epoch, of 4, 4 and 2 samples; and no mixed labels.
SUBSET = {
    'train_dataloader.sampler': SAMPLER,
    'model.train_cfg': None,
    'model.head.loss.use_soft': False,
    'custom_hooks': [SWITCH, MATCH, EMA],
}
# The search for units that a network needs.
SLIM = dict(type='bvit_mm.SlimHook', heads=0.6, hidden=0.4)
SEARCH = {
    'model.backbone.gates': True,
    'model.backbone.training_stages': None,
    'train_cfg.epochs': [2],
    'custom_hooks': [SWITCH, SLIM],
}
