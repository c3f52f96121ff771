"""Which heads and hidden units the small DeiT of `make demo` needs, on the digits.

    python tools/train.py configs/demo/deit-digits_slim-search.py --work-dir work_dirs/demo-search
    python tools/slim.py work_dirs/demo-search/epoch_10.pth work_dirs/slim/digits --flops 0.8 0.6

It starts from the finished weights of `make demo`, or CHECKPOINT=FILE of the environment: of any
other run of that network. deit-digits_slim-retrain.py trains on what was cut.

Gates are of whole heads; with --cfg-options model.backbone.gates=dims, of their single dimensions.
Ten epochs are few steps, so the gates take ten times as long ones as the weights.
"""

_base_ = ['./deit-digits_bvit-b50.py']

load_from = '{{$CHECKPOINT:work_dirs/demo/epoch_56.pth}}'
model = dict(backbone=dict(training_stages=None, gates=True))
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-3),
    paramwise_cfg=dict(custom_keys={'gate': dict(decay_mult=0.0, lr_mult=10.0)}),
)
param_scheduler = []
val_dataloader = dict(batch_size=250)
test_dataloader = val_dataloader
train_cfg = dict(budget=None, epochs=[10], val_interval=5)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='bvit_mm.SlimHook', heads=0.23, hidden=0.23),
]
