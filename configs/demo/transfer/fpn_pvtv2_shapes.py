"""Semantic FPN with the demo's PVTv2 on drawn scenes in ADE20K's layout, 300 iterations.

../../transfer/ade20k/fpn_pvtv2-b2-linear_8xb4-40k_ade20k-512x512.py made small: backbone, head and
images, and a larger learning rate for fewer iterations.
"""

_base_ = [
    '../../transfer/ade20k/fpn_pvtv2-b2-linear_8xb4-40k_ade20k-512x512.py',
    './_base_/ade20k_shapes.py',
]

width = 64
norm_cfg = dict(type='BN', requires_grad=True)
checkpoint = '{{$CHECKPOINT:work_dirs/tour/published/pvtv2.pth}}'
model = dict(
    data_preprocessor=dict(size={{_base_.shapes_crop}}),
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
    decode_head=dict(in_channels=[width] * 4, channels=width, num_classes=8, norm_cfg=norm_cfg),
)

train_dataloader = {{_base_.shapes_train}}
val_dataloader = {{_base_.shapes_val}}
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=300, by_epoch=False)]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=25))
randomness = dict(seed=0)
