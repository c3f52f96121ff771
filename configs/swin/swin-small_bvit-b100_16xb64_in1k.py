"""Swin-S on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper's own schedules are in the files
named `paper`. The recipe is Swin's own. Different from mmpretrain's swin-small_16xb64_in1k.py,
whose parts it inherits: the length follows from the budget. The warm-up takes 20 epochs, however
short that is.
The rest is the same there: AdamW 5e-4 x batch / 512 at batch 1024, weight decay 0.05 (none on
norms, biases and relative position biases), cosine to 1e-5, gradient clipping 5.0, drop path 0.3,
RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing 0.25, label smoothing 0.1.
"""

_base_ = [
    'mmpretrain::_base_/models/swin_transformer/small_224.py',
    '../_base_/imagenet_224.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticSwinTransformer',
        training_stages=[
            dict(heads=(1, 2, 4, 8), hidden=(96, 192, 384, 768), grid=40, window=5),
            dict(heads=(2, 4, 8, 16), hidden=(192, 384, 768, 1536), grid=48, window=6),
            dict(heads=(3, 6, 12, 24), hidden=(384, 768, 1536, 3072), grid=56, window=7),
        ],
    )
)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
