"""T2T-ViT_t-14 on ImageNet-1K, grown in three stages, for half of the cost of 310 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no T2T-ViT: heads, hidden units
and tokens are those that `training_stages=3` gives, as of its transformers. But stages see whole
images scaled down: of their centers the network that makes the tokens would save nothing, as it
looks at whole images. The recipe is mmpretrain's. Different from its
t2t-vit-t-14_8xb64_in1k.py, whose parts this inherits: the length follows from the budget, and no
epochs at a tenth of the last rate follow. The warm-up takes 10 epochs, however short that is.
The rest is the same there: AdamW 5e-4 at batch 512, weight decay 0.05 (none on norms, biases and
the class token), cosine to 1e-5, drop path 0.1, RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing
0.25, label smoothing 0.1, averages of the weights (EMA) with momentum 4e-5.
"""

_base_ = [
    'mmpretrain::_base_/models/t2t-vit-t-14.py',
    '../_base_/imagenet_224_of_248.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticT2TViT',
        training_stages=[
            dict(heads=2, hidden=288, grid=10, view='scale'),
            dict(heads=4, hidden=576, grid=12, view='scale'),
            dict(heads=6, hidden=1152, grid=14),
        ],
    )
)
optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'cls_token': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=10),
]
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(budget=0.5, full_epochs=310)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
]
