"""UperNet with the demo's Swin (digits) on drawn scenes in ADE20K's layout, 300 iterations.

../../transfer/ade20k/upernet_swin-s_8xb2-160k_ade20k-512x512.py made small: backbone, heads and
images, and a larger learning rate for fewer iterations.
"""

_base_ = [
    '../../transfer/ade20k/upernet_swin-s_8xb2-160k_ade20k-512x512.py',
    './_base_/ade20k_shapes.py',
]

width = 64
norm_cfg = dict(type='BN', requires_grad=True)
checkpoint = '{{$CHECKPOINT:work_dirs/tour/published/swin.pth}}'
model = dict(
    data_preprocessor=dict(size={{_base_.shapes_crop}}),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=48, depths=[2, 2], num_heads=[3, 6]),
        img_size=28,
        patch_size=2,
        out_indices=(0, 1),
        drop_path_rate=0.05,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    decode_head=dict(
        in_channels=[48, 96],
        in_index=[0, 1],
        channels=width,
        num_classes=8,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(in_channels=96, in_index=1, channels=32, num_classes=8, norm_cfg=norm_cfg),
)

train_dataloader = {{_base_.shapes_train}}
val_dataloader = {{_base_.shapes_val}}
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=30, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=25))
randomness = dict(seed=0)
