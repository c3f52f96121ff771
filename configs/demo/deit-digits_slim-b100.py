"""The small DeiT of `make demo`, grown, searched, cut to half of its FLOPs and retrained at once.

    python tools/train.py configs/demo/deit-digits_slim-b100.py --work-dir work_dirs/demo-slim
    python tools/publish.py $(cat work_dirs/demo-slim/last_checkpoint) work_dirs/published/slim

It costs as much as 20 epochs of the whole network, of which `make demo` takes 10. The search is
short, so the gates take ten times as long steps as the weights.
"""

_base_ = ['./deit-digits_recommended-b25.py']

model = dict(backbone=dict(gates='dims'))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'gate': dict(decay_mult=0.0, lr_mult=10.0)}),
)
train_cfg = dict(budget=1.0, full_epochs=20, slim=dict(flops=0.5, search=0.05, retrain=0.25))
