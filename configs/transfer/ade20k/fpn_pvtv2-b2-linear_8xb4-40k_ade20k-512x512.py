"""Semantic FPN with PVTv2-B2-linear on ADE20K, 40k iterations at batch 32 (the paper's Table 8).

The recipe is that of PVT's authors, who published it for PVTv1 only (github.com/whai362/PVT,
segmentation/configs/sem_fpn/PVT/fpn_pvt_s_ade20k_40k.py); mmseg's nearest config is
fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py. As there: AdamW 2e-4, weight decay 1e-4 on every
parameter, no warm-up, poly 0.9 to 0, no clipping, the data set repeated 50 times, test images
resized to multiples of 32. Different from mmseg's:
- the backbone, and drop path 0.1, which PVT has there (PoolFormer: none);
- single precision (there: AMP, which `--amp` of mmseg's tools/train.py brings back);
- `--tta` of its tools/test.py works as with mmseg's other ADE20K configs (there: not).

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['../_base_/ade20k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/pvtv2-b2-linear.pth}}'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='bvit_mm.ElasticPVTv2',
        arch='b2',
        linear=True,
        drop_path_rate=0.1,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    neck=dict(type='FPN', in_channels=[64, 128, 320, 512], out_channels=256, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=50,
        dataset=dict(
            type='ADE20KDataset',
            data_root='data/ade/ADEChallengeData2016',
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline={{_base_.train_pipeline}},
        ),
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
