"""DeiT-S fine-tuned on CIFAR-10, 1000 epochs at batch 768 (the paper's Table 7).

The recipe is that of DeiT's authors (github.com/facebookresearch/deit, issue 45, main.py and
datasets.py), which the paper follows. Different from mmpretrain's deit-small_4xb256_in1k.py, which
it inherits, because the fine-tuning recipe says so:
- SGD (there: AdamW) with a learning rate of 0.01, weight decay 1e-4; the learning rate is taken
  to be the one in use, which main.py would have multiplied by batch / 512;
- 8 GPUs x 96 images (there: 4 x 256), 1000 epochs (there: 300);
- no random erasing (there: 0.25); no drop path, as there;
and because the authors' ImageNet recipe does, in which the two differ:
- Nesterov momentum 0.9, what `sgd` means in timm;
- 5 warm-up epochs from 1e-6, not 20; no gradient clipping (there: 5.0);
- repeated augmentation (there: none).
The rest is the same there: cosine to 1e-5, RandAugment 9/0.5, mixup 0.8, CutMix 1, label
smoothing 0.1, no weight decay on norms, biases, position embeddings and the class token. Images
of 32 x 32 are enlarged to 224 x 224 as others are reduced: random crops resized in training, the
central 7/8 in tests, both bicubic. Only the two newest checkpoints are kept.

Nothing is downloaded: data/cifar10 has the folder cifar-10-batches-py of the Python version.
CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]
# Stated without the _scope_ that comes with a base of another package, which
# mmpretrain's browse_dataset.py would hand to the visualizer.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
)

checkpoint = '{{$CHECKPOINT:work_dirs/published/deit-small.pth}}'
model = dict(
    backbone=dict(
        type='bvit_mm.ElasticVisionTransformer',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    head=dict(num_classes=10),
)

# mmpretrain's CIFAR images are RGB. They are made BGR, as the images of ImageNet come: the grey of
# RandAugment's color and contrast is computed from BGR, and the preprocessor that is inherited
# (to_rgb=True, ImageNet's mean and std in RGB order) turns them back. Image files are read as BGR:
# to classify them, leave the first step out.
data_preprocessor = dict(num_classes=10)
train_pipeline = [
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='bvit_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    dict(type='bvit_mm.RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='bvit_mm.RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='bvit_mm.ResizeEdge', scale=256, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=96,
    sampler=dict(type='RepeatAugSampler', shuffle=True),
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10',
        split='train',
        download=False,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=96,
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10',
        split='test',
        download=False,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='SGD', lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4
    ),
    clip_grad=None,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=5),
]
train_cfg = dict(max_epochs=1000)
auto_scale_lr = dict(base_batch_size=768)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
