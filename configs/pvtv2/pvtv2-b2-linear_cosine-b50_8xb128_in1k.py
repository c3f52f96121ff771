"""PVTv2-B2-linear, the whole network for half of the epochs, cosine (Table 1, Cosine).

Other budgets: --cfg-options train_cfg.budget=0.75.
"""

_base_ = ['./pvtv2-b2-linear_bvit-b100_8xb128_in1k.py']

model = dict(backbone=dict(training_stages=None))
train_cfg = dict(budget=0.5)
