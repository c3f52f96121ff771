"""Mask R-CNN with ConvNeXt-T on COCO, 36 epochs at batch 16 = 8 x 2.

The recipe is ConvNeXt's: AdamW 1e-4, weight decay 0.05, learning rates that decay by 0.95 from
layer to layer, 1000 iterations of warm-up, a tenth of the learning rate after epochs 27 and 33,
multi-scale crops, drop path 0.4. Different from mmdet's
mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py, which it inherits, is only the backbone's
class, and that AMP is not in the config: `--amp` of mmdet's tools/train.py trains with it.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/convnext-tiny.pth}}'
model = dict(
    backbone=dict(
        type='bvit_mm.ElasticConvNeXt',
        img_size=224,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
)
optim_wrapper = dict(type='OptimWrapper')
