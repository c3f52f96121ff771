"""The demo's DeiT (digits) fine-tuned on drawn CIFAR-100, 4 epochs.

../../transfer/cifar/deit-small_8xb96_cifar100.py made small: backbone, images, batch, epochs, with
AdamW, and without strong augmentation: there are few iterations. The position embeddings grow from
7 x 7 patches to 8 x 8.
"""

_base_ = ['../../transfer/cifar/deit-small_8xb96_cifar100.py']

checkpoint = '{{$CHECKPOINT:work_dirs/tour/published/deit.pth}}'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384
        ),
        img_size=32,
        patch_size=4,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    head=dict(in_channels=96),
    train_cfg=None,
)

# RGB all the way, for the pictures: what is drawn on them is the model's input.
data_preprocessor = dict(to_rgb=False)
train_pipeline = [
    dict(type='PILToNumpy'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='PILToNumpy'),
    dict(type='PackInputs'),
]
loader = dict(batch_size=32, num_workers=0, persistent_workers=False)
dataset = dict(type='drawn_cifar.DrawnCIFAR100', data_root='data/shapes')
train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler'),
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=4, val_interval=4)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1),
    logger=dict(interval=25),
    visualization=dict(rescale_factor=8),  # or nobody could read what is written on 32 pixels
)
randomness = dict(seed=0)
