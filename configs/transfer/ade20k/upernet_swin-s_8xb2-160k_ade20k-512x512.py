"""UperNet with Swin-S on ADE20K, 160k iterations at batch 16 (the paper's Table 8).

The recipe is Swin's, with the values of mmseg's
swin-small-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py: AdamW 6e-5, weight decay
0.01 (none on norms and position biases), 1500 iterations of warm-up from 1e-6 of that, linear to
0, drop path 0.3. Different is only the backbone's class. It computes what mmseg's own Swin does,
on every map: for that it has pad_small_map=True.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['../_base_/ade20k.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/swin-small.pth}}'
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
    pretrained=None,
    backbone=dict(
        type='bvit_mm.ElasticSwinTransformer',
        arch='small',
        img_size=224,
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

train_dataloader = dict(batch_size=2)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=160000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
