"""The small DeiT of `make demo`, cut after deit-digits_slim-search.py and trained on.

    SLIM=work_dirs/slim/digits-0.6-HASH.pth python tools/train.py \
        configs/demo/deit-digits_slim-retrain.py --work-dir work_dirs/demo-slim

SLIM=FILE in the environment names the weights that tools/slim.py wrote. The config beside them says
how many heads and hidden units each layer has. Without it this is a uniform network, to plan with;
it does not train, for want of weights.
"""

_base_ = ['./deit-digits_bvit-b50.py']

import os  # noqa: E402

import mmengine  # noqa: E402

load_from = '{{$SLIM:work_dirs/slim/digits-0.6.pth}}'
form = dict(widths=dict(heads=[2] * 4, hidden=[192] * 4))
if 'SLIM' in os.environ:
    form = mmengine.Config.fromfile(load_from[: -len('.pth')] + '.py').model.backbone
    form = {name: form[name] for name in ('widths', 'layer_cfgs') if name in form}
model = dict(backbone=dict(training_stages=None, **form))
val_dataloader = dict(batch_size=250)
test_dataloader = val_dataloader
train_cfg = dict(budget=1.0, full_epochs=20, val_interval=5)
