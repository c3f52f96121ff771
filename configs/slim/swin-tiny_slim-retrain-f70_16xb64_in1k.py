"""A Swin-T that was cut to 70 % of its FLOPs, trained on for 300 epochs.

SLIM=FILE in the environment names the weights that tools/slim.py wrote (``work_dirs/slim/...pth``).
The config beside them says how many heads and hidden units each block has. Any other size trains
as well. Resumed runs need the same SLIM. Without it this is the uniform network of that cost, to
plan with; it does not train, for want of weights.

The recipe is Swin's own, that of swin-tiny_bvit-b50_16xb64_in1k.py, which it inherits; only the
length differs.
"""

_base_ = ['../swin/swin-tiny_bvit-b50_16xb64_in1k.py']

import os  # noqa: E402

import mmengine  # noqa: E402

load_from = '{{$SLIM:work_dirs/slim/swin-tiny-0.7.pth}}'
form = dict(
    widths=dict(
        heads=[[2] * 2, [4] * 2, [8] * 6, [16] * 2],
        hidden=[[256] * 2, [512] * 2, [1024] * 6, [2048] * 2],
    )
)
if 'SLIM' in os.environ:
    form = mmengine.Config.fromfile(load_from[: -len('.pth')] + '.py').model.backbone
    form = {name: form[name] for name in ('widths', 'stage_cfgs') if name in form}
model = dict(backbone=dict(training_stages=None, **form))
train_cfg = dict(budget=1.0)
