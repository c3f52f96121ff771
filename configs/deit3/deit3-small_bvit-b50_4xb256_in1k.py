"""DeiT III-S on ImageNet-1K, grown in three training stages, for half of the cost of 300 epochs.

Another budget: --cfg-options train_cfg.budget=0.6. The paper has no DeiT III: the stages are those
of its DeiT-S, and so is the recipe. Different from it: drop path 0.05, which mmpretrain has, and no
weight decay on layer scales. It is not the authors' own recipe: they have LAMB, binary
cross-entropy and their 3-Augment.
Layer scales start at 1e-5. For runs of few epochs let them start at 0.1:
--cfg-options model.backbone.init_cfg.type=Constant model.backbone.init_cfg.layer=LayerScale
model.backbone.init_cfg.val=0.1
"""

_base_ = ['../deit/deit-small_bvit-b50_4xb256_in1k.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='bvit_mm.ElasticDeiT3',
        arch='small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.05,
        training_stages=[
            dict(heads=2, hidden=384, grid=10),
            dict(heads=4, hidden=768, grid=12),
            dict(heads=6, hidden=1536, grid=14),
        ],
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.gamma1': dict(decay_mult=0.0), '.gamma2': dict(decay_mult=0.0)}
    )
)
