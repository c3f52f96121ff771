"""PVTv2-B2-linear on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper's own schedules are in the files
named `paper`. mmpretrain has no PVTv2; the recipe is its authors' (github.com/whai362/PVT,
classification/main.py and configs/pvt_v2/pvt_v2_b2_li.py). Different from mmpretrain's
swin-small_16xb64_in1k.py, whose parts it inherits:
- the network, and drop path 0.1 (there: 0.3);
- 8 GPUs x 128 images (there: 16 x 64);
- 5 warm-up epochs, not 20; no gradient clipping (there: 5.0);
- repeated augmentation (there: none);
- the length follows from the budget.
The rest is the same there: AdamW 5e-4 x batch / 512 at batch 1024, weight decay 0.05 (none on
norms and biases), warm-up from 1e-6, cosine to 1e-5, RandAugment 9/0.5, mixup 0.8, CutMix 1,
erasing 0.25, label smoothing 0.1, test crop of 224 from 256, no moving average of the weights.
"""

_base_ = [
    'mmpretrain::_base_/models/swin_transformer/small_224.py',
    '../_base_/imagenet_224.py',
    '../_base_/adamw_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticPVTv2',
        arch='b2',
        linear=True,
        img_size=224,
        drop_path_rate=0.1,
        training_stages=[
            dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512), grid=40),
            dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024), grid=48),
            dict(heads=(1, 2, 5, 8), hidden=(512, 1024, 1280, 2048), grid=56),
        ],
    ),
    head=dict(in_channels=512),
)
# Images that repeat are decoded once.
train_pipeline = [
    dict(type='bvit_mm.LoadImageFromFile'),
    *map(dict, _base_.train_pipeline[1:]),
]
train_dataloader = dict(
    batch_size=128,
    dataset=dict(pipeline=train_pipeline),
    sampler=dict(type='RepeatAugSampler', shuffle=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5),
]
