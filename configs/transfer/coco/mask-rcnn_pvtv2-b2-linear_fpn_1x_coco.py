"""Mask R-CNN with PVTv2-B2-linear on COCO, 12 epochs at batch 16 = 8 x 2 (the paper's Table 9).

The recipe is that of PVTv2's authors (github.com/whai362/PVT,
detection/configs/mask_rcnn_pvt_v2_b2_li_fpn_1x_coco.py and detection/pvt_v2.py). Different from
mmdet's mask-rcnn_r50_fpn_1x_coco.py, whose four bases it inherits:
- the backbone, with drop path 0.1, and the neck's input channels;
- AdamW 2e-4, weight decay 1e-4 on every parameter (there: SGD 0.02).
The rest is the same there: 500 iterations of warm-up, a tenth of the learning rate after epochs 8
and 11, no clipping, images of 1333 x 800.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/pvtv2-b2-linear.pth}}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticPVTv2',
        arch='b2',
        linear=True,
        drop_path_rate=0.1,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4),
)
