"""CSWin-T on ImageNet-1K, grown in three training stages, for the full cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. mmpretrain has no CSWin; the recipe is its
authors' (github.com/microsoft/CSWin-Transformer, README.md and main.py). Different from
mmpretrain's swin-small_16xb64_in1k.py, which it inherits:
- the network, and drop path 0.2 (there: 0.3);
- AdamW 2e-3 at batch 2048 = 16 x 128 (there: 1e-3 at 1024); no gradient clipping (there: 5.0);
- an average of the weights, of which each update keeps 0.99984 (there: none);
- test crop of 224 from 248 (there: 256);
- the length follows from the budget, without the authors' ten more epochs at the last rate. The
  warm-up takes 20 epochs, however short that is.
The rest is the same there: weight decay 0.05 (none on norms and biases), warm-up from 1e-6, cosine
to 1e-5, RandAugment 9/0.5, mixup 0.8, CutMix 1, erasing 0.25, label smoothing 0.1.
"""

_base_ = ['mmpretrain::swin_transformer/swin-small_16xb64_in1k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)

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

# mmpretrain's own, but images are resized by a faster kernel.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    dict(_base_.train_pipeline[2], type='bvit_mm.RandomFlip'),
    dict(_base_.train_pipeline[3], type='bvit_mm.RandAugment'),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='bvit_mm.ResizeEdge', scale=248, edge='short', interpolation='bicubic'),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=20),
]
auto_scale_lr = dict(base_batch_size=2048)

train_cfg = dict(
    _delete_=True,
    type='bvit_mm.BudgetedTrainLoop',
    budget=1.0,
    full_epochs=300,
    alpha=2.0,
    seed=0,
    val_interval=1,
)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook'),
    dict(type='EMAHook', momentum=1.6e-4),
]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)
