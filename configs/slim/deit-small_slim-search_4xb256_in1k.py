"""What of its heads and hidden units a trained DeiT-S needs: the search of ViT-Slim (CVPR 2022).

Each dimension of a head has a gate, as there. For gates of whole heads: --cfg-options
model.backbone.gates=True.

CHECKPOINT=FILE in the environment says which finished weights it starts from: mmpretrain's
published ones of deit-small_4xb256_in1k, or what tools/publish.py wrote of another DeiT-S. They
have no gates, of which mmengine warns; gates start at 1. tools/slim.py then cuts what the search
leaves, to as many sizes as you like, and deit-small_slim-retrain-f70_4xb256_in1k.py trains one.

Different from our deit-small_bvit-b100_4xb256_in1k.py, which it inherits, because ViT-Slim's own
search is so:
- the whole network all the time, 50 epochs, with a penalty on its gates;
- AdamW 5e-4 at batch 1024 (there: 1e-3), constant, without warm-up;
- weight decay 1e-3 (there: 0.05).
Different from ViT-Slim's search:
- gates of q and of what attention returns (there: of q, k and v), and none of tokens;
- no weight decay on gates;
- no averages of the weights, which are not used there.
The penalties are those at its start: 0.23 times the mean of all gates of heads' dimensions, and the
same of hidden units.
"""

_base_ = ['../deit/deit-small_bvit-b100_4xb256_in1k.py']

load_from = '{{$CHECKPOINT:work_dirs/published/deit-small.pth}}'
model = dict(backbone=dict(training_stages=None, gates='dims'))
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
