"""Mask R-CNN with Swin-S on COCO, 36 epochs at batch 16 = 8 x 2 (the paper's Table 9).

The recipe is Swin's: AdamW 1e-4, weight decay 0.05 (none on norms and position biases), 1000
iterations of warm-up, a tenth of the learning rate after epochs 27 and 33, multi-scale crops, drop
path 0.2. Different from mmdet's mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py, which it inherits:
- Swin-S, whose recipe differs from Swin-T's in nothing else;
- the backbone's class. It computes what mmdet's own Swin does, on every map: for that it has
  pad_small_map=True.
mmdet's config of Swin-S trains with AMP; here, `--amp` of mmdet's tools/train.py does.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py']
custom_imports = dict(imports=['bvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='bvit_mm.ClassCountHook')]

checkpoint = '{{$CHECKPOINT:work_dirs/published/swin-small.pth}}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticSwinTransformer',
        arch='small',
        img_size=224,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
)
