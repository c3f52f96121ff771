"""Mask R-CNN with CSWin-T on COCO, 12 epochs at batch 16 = 8 x 2.

CSWin's authors have published no config of a detector, so the recipe is Swin's. Different from
mmdet's mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py, which it inherits: the backbone, and the neck's input
channels. As there: AdamW 1e-4, weight decay 0.05 (none on norms), 1000 iterations of warm-up, a
tenth of the learning rate after epochs 8 and 11, images of 1333 x 800, drop path 0.2.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/cswin-tiny.pth}}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticCSWin',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
