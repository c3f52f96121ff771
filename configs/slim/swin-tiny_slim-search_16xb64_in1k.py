"""Which heads and hidden units a trained Swin-T needs: a search as that of ViT-Slim (CVPR 2022).

CHECKPOINT=FILE in the environment says which finished weights it starts from: mmpretrain's
published ones of swin-tiny_16xb64_in1k, or what tools/publish.py wrote of another Swin-T. They
have no gates, of which mmengine warns; gates start at 1. tools/slim.py then cuts what the search
leaves, to as many sizes as you like, and swin-tiny_slim-retrain-f70_16xb64_in1k.py trains one.

ViT-Slim's authors have published no code for Swin. Different from our
swin-tiny_bvit-b50_16xb64_in1k.py, which it inherits, is what its search of DeiT-S says:
- the whole network all the time, 50 epochs, with a penalty on its gates;
- AdamW 5e-4 at batch 1024 (there: 1e-3), constant, without warm-up;
- weight decay 1e-3 (there: 0.05), none on gates.
The penalties are those at its start: 0.23 times the mean of all gates of heads, and the same of
hidden units.
"""

_base_ = ['../swin/swin-tiny_bvit-b50_16xb64_in1k.py']

load_from = '{{$CHECKPOINT:work_dirs/published/swin-tiny.pth}}'
model = dict(backbone=dict(training_stages=None, gates=True))
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-3),
    paramwise_cfg=dict(custom_keys={'gate': dict(decay_mult=0.0)}),
)
param_scheduler = []
train_cfg = dict(budget=None, epochs=[50])
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='bvit_mm.SlimHook', heads=0.23, hidden=0.23),
]
