"""ConvNeXt-T on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no ConvNeXt: the stages are those
that `training_stages=3` gives, as of its transformers. The recipe is ConvNeXt's own. Different from
mmpretrain's convnext-tiny_32xb128_in1k.py, whose parts it inherits: the length follows from the
budget. The warm-up takes 20 epochs, however short that is.
The rest is the same there: AdamW 4e-3 at batch 4096, weight decay 0.05 (none on norms, biases and
layer scales), cosine to 1e-5, no gradient clipping, drop path 0.1, RandAugment 9/0.5, mixup 0.8,
CutMix 1, erasing 0.25, label smoothing 0.1, averages of the weights (EMA) with momentum 1e-4.
"""

_base_ = [
    'mmpretrain::_base_/models/convnext/convnext-tiny.py',
    '../_base_/imagenet_224.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticConvNeXt',
        img_size=224,
        training_stages=[
            dict(hidden=(96, 192, 384, 768), grid=40),
            dict(hidden=(192, 384, 768, 1536), grid=48),
            dict(hidden=(384, 768, 1536, 3072), grid=56),
        ],
    )
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=4096)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
]
