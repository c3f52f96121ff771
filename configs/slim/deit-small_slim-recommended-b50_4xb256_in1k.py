"""DeiT-S grown by the recommended setting, then searched, cut to half of its FLOPs and retrained.

All for half of the cost of 300 epochs. On small photographs that reached what the whole network did
for that cost (docs/results.md); nothing was trained on ImageNet here. Another size or another
budget: --cfg-options train_cfg.slim.flops=0.7 train_cfg.budget=8h. tools/publish.py writes the
small network.

Most of the budget grows the network, on small images first. 5 % of it search which heads and
hidden units it needs, and 25 % train what is left. Gates of single dimensions of heads reached no
more there, and make slower networks of the same FLOPs. The recipe is that of
deit-small_recommended-b50_4xb256_in1k.py, which it inherits. Gates have no weight decay.
"""

_base_ = ['../deit/deit-small_recommended-b50_4xb256_in1k.py']

model = dict(backbone=dict(gates=True))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'gate': dict(decay_mult=0.0)}))
train_cfg = dict(slim=dict(flops=0.5, search=0.05, retrain=0.25))
