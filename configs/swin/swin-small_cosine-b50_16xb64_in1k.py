"""Swin-S, the whole network for half of the epochs, cosine learning rate (Table 1, Cosine).

Other budgets: --cfg-options train_cfg.budget=0.75.
"""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

model = dict(backbone=dict(training_stages=None))
train_cfg = dict(budget=0.5)
