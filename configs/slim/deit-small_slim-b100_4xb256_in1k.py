"""DeiT-S, grown, searched, cut to 70 % of its FLOPs and retrained, all for the cost of 300 epochs.

Half of the budget grows the network, 5 % of it search which heads and hidden units it needs, and
45 % train what is left. ViT-Slim's own protocol costs 1.87 times as much. Another size or another
budget: --cfg-options train_cfg.slim.flops=0.5 train_cfg.budget=0.75. tools/publish.py writes the
small network.

The recipe is that of deit-small_bvit-b100_4xb256_in1k.py, which it inherits, with one learning rate
from the start to the end. Gates have no weight decay.
"""

_base_ = ['../deit/deit-small_bvit-b100_4xb256_in1k.py']

model = dict(backbone=dict(gates=True))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'gate': dict(decay_mult=0.0)}))
train_cfg = dict(slim=dict(flops=0.7, search=0.05, retrain=0.45))
