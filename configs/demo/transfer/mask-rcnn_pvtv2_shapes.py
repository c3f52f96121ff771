"""Mask R-CNN with the demo's PVTv2 on drawn instances in COCO's format, 8 epochs.

../../transfer/coco/mask-rcnn_pvtv2-b2-linear_fpn_1x_coco.py made small: backbone, heads, anchors
and images, and a larger learning rate for fewer iterations.
"""

_base_ = ['../../transfer/coco/mask-rcnn_pvtv2-b2-linear_fpn_1x_coco.py']

classes = ('cross', 'disc', 'ring', 'square', 'star', 'triangle')
width = 64
checkpoint = '{{$CHECKPOINT:work_dirs/tour/published/pvtv2.pth}}'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(24, 48, 96, 128),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 4),
            mlp_ratios=(4, 4, 4, 4),
            sr_ratios=(1, 1, 1, 1),
        ),
        img_size=64,
        drop_path_rate=0.05,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    neck=dict(in_channels=[24, 48, 96, 128], out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=len(classes)),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(
            num_convs=2, in_channels=width, conv_out_channels=width, num_classes=len(classes)
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
data_root = 'data/shapes/coco/'
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=classes), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=classes), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', milestones=[6, 7], begin=0, end=8),
]
train_cfg = dict(max_epochs=8, val_interval=8)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1), logger=dict(interval=10))
randomness = dict(seed=0)
