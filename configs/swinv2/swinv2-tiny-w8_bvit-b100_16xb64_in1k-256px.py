"""Swin V2-T on ImageNet-1K at 256 pixels, in windows of 8, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no Swin V2: the stages are those
that `training_stages=3` gives, as of its Swin. The recipe is Swin V2's own. Different from
mmpretrain's swinv2-tiny-w8_16xb64_in1k-256px.py, whose parts it inherits: the length follows from
the budget. The warm-up takes 20 epochs, however short that is.
The rest is the same there: AdamW 5e-4 x batch / 512 at batch 1024, weight decay 0.05 (none on
norms and biases), cosine to 1e-5, no gradient clipping, drop path 0.2, RandAugment 9/0.5, mixup
0.8, CutMix 1, erasing 0.25, label smoothing 0.1.
"""

_base_ = [
    'mmpretrain::_base_/models/swin_transformer_v2/tiny_256.py',
    '../_base_/imagenet_256.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticSwinTransformerV2',
        training_stages=[
            dict(heads=(1, 2, 4, 8), hidden=(96, 192, 384, 768), grid=48, window=6),
            dict(heads=(2, 4, 8, 16), hidden=(192, 384, 768, 1536), grid=56, window=7),
            dict(heads=(3, 6, 12, 24), hidden=(384, 768, 1536, 3072), grid=64, window=8),
        ],
    )
)
