"""UperNet with CSWin-T on ADE20K, 160k iterations at batch 16.

The recipe is that of CSWin's authors (github.com/microsoft/CSWin-Transformer,
segmentation/configs/cswin/upernet_cswin_tiny.py), which is Swin's with another backbone: AdamW
6e-5, weight decay 0.01 (none on norms), 1500 iterations of warm-up from 1e-6 of that, linear to 0,
drop path 0.3. Different from upernet_swin-s_8xb2-160k_ade20k-512x512.py, which it inherits: the
backbone, and the heads' input channels. Different from its authors': the first norm, whose name
there is none of a norm, has no weight decay.

CHECKPOINT=FILE in the environment says which weights the backbone starts from, a classifier
that has been trained to its end; also --cfg-options model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = ['./upernet_swin-s_8xb2-160k_ade20k-512x512.py']

checkpoint = '{{$CHECKPOINT:work_dirs/published/cswin-tiny.pth}}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticCSWin',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
