"""PoolFormer-S12 on ImageNet-1K, grown in three stages, for half of the cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no PoolFormer: the stages are
those that `training_stages=3` gives, as of its transformers. The recipe is mmpretrain's. Different
from its poolformer-s12_32xb128_in1k.py, whose parts this inherits: the patch embedding is trained,
which mmpretrain's class freezes as it was drawn, and the length follows from the budget. The
warm-up takes 20 epochs, however short that is.
The rest is the same there: AdamW 4e-3 at batch 4096, weight decay 0.05 (none on norms, biases and
layer scales), cosine to 1e-5, gradient clipping 5.0, drop path 0.1, RandAugment 9/0.5, erasing
0.25, no mixing of images, no label smoothing.
"""

_base_ = [
    'mmpretrain::_base_/models/poolformer/poolformer_s12.py',
    '../_base_/imagenet_224_of_248.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        type='bvit_mm.ElasticPoolFormer',
        img_size=224,
        training_stages=[
            dict(hidden=(64, 128, 320, 512), grid=40),
            dict(hidden=(128, 256, 640, 1024), grid=48),
            dict(hidden=(256, 512, 1280, 2048), grid=56),
        ],
    )
)
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=4e-3), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=4096)
train_cfg = dict(budget=0.5)
