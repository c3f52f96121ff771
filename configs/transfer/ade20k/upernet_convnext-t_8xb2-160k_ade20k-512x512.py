"""UperNet with ConvNeXt-T on ADE20K, 160k iterations at batch 16.

The recipe is ConvNeXt's, with the values of mmseg's
convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py: AdamW 1e-4, weight decay 0.05, learning rates
that decay by 0.9 from level to level, 1500 iterations of warm-up from 1e-6 of that, linear to 0,
drop path 0.4, sliding windows of 512 x 512 for testing. Different is only the backbone's class, and
that AMP is not in the config: `--amp` of mmseg's tools/train.py trains with it. What ConvNeXt and
Swin have in common is inherited.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['./upernet_swin-s_8xb2-160k_ade20k-512x512.py']

checkpoint = '{{$CHECKPOINT:work_dirs/published/convnext-tiny.pth}}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticConvNeXt',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LearningRateDecayOptimizerConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6),
)
