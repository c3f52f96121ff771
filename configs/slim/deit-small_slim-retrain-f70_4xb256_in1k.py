"""A DeiT-S that was cut to 70 % of its FLOPs, trained on for 300 epochs, as ViT-Slim does.

SLIM=FILE in the environment names the weights that tools/slim.py wrote (``work_dirs/slim/...pth``).
The config beside them says how many heads and hidden units each layer has. Any other size trains
as well. Resumed runs need the same SLIM. Without it this is the uniform network of that cost, to
plan with; it does not train, for want of weights.

The recipe is DeiT's own, that of deit-small_bvit-b100_4xb256_in1k.py, which it inherits: AdamW 1e-3
at batch 1024, cosine to 1e-5, 5 warm-up epochs, weight decay 0.05. ViT-Slim retrains with the same.
"""

_base_ = ['../deit/deit-small_bvit-b100_4xb256_in1k.py']

import os  # noqa: E402

import mmengine  # noqa: E402

load_from = '{{$SLIM:work_dirs/slim/deit-small-0.7.pth}}'
form = dict(widths=dict(heads=[4] * 12, hidden=[1088] * 12))
if 'SLIM' in os.environ:
    form = mmengine.Config.fromfile(load_from[: -len('.pth')] + '.py').model.backbone
    form = {name: form[name] for name in ('widths', 'layer_cfgs') if name in form}
model = dict(backbone=dict(training_stages=None, **form))
