"""CSWin-T on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. mmpretrain has no CSWin; the recipe is its
authors' (github.com/microsoft/CSWin-Transformer, README.md and main.py). Different from
mmpretrain's swin-small_16xb64_in1k.py, whose parts it inherits:
- the network, and drop path 0.2 (there: 0.3);
- AdamW 2e-3 at batch 2048 = 16 x 128 (there: 1e-3 at 1024); no gradient clipping (there: 5.0);
- an average of the weights, of which each update keeps 0.99984 (there: none);
- test crop of 224 from 248 (there: 256);
- the length follows from the budget, without the authors' ten more epochs at the last rate. The
  warm-up takes 20 epochs, however short that is.
The rest is the same there: weight decay 0.05 (none on norms and biases), warm-up from 1e-6, cosine
to 1e-5, RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing 0.25, label smoothing 0.1.
"""

_base_ = [
    'mmpretrain::_base_/models/swin_transformer/small_224.py',
    '../_base_/imagenet_224_of_248.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticCSWin',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.2,
        training_stages=[
            dict(heads=(2, 2, 2, 5), hidden=(64, 128, 256, 512), grid=40),
            dict(heads=(2, 2, 6, 11), hidden=(128, 256, 512, 1024), grid=48),
            dict(heads=(2, 4, 8, 16), hidden=(256, 512, 1024, 2048), grid=56),
        ],
    ),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=20),
]
auto_scale_lr = dict(base_batch_size=2048)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=1.6e-4),
]
