"""The whole network of deit-digits.py from the start, with a checkpoint an epoch to look into.

python tools/train.py configs/compare/deit-digits_whole.py
python tools/analyze.py work_dirs/deit-digits_whole/epoch_*.pth --what cka pca attention --out OUT
"""

_base_ = ['./deit-digits.py']

model = dict(backbone=dict(training_stages=None))
train_cfg = dict(budget=1.0)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
