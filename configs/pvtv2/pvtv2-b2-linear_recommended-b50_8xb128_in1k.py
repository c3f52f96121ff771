"""PVTv2-B2-linear by the recommended setting: units, images and augmentation grow together.

The budget is the only knob: --cfg-options train_cfg.budget=0.3, or train_cfg.budget=8h.

Ten training stages of equal cost see whole images of 96, 160, 192 and 224 pixels, as in
EfficientTrain++ (Wang et al., 2024, arXiv 2405.08768), which has no PVTv2. The heads and hidden
units of the planner's three stages grow with them. RandAugment's magnitude is 0 in the first and 9
in the last. The learning rate is REX, by the spent budget; new units are copies at half their
weight. docs/results.md has what that reached on small data; nothing was trained on ImageNet here.

Else it is pvtv2-b2-linear_bvit-b100_8xb128_in1k.py, but augmentation is not repeated.
"""

_base_ = ['./pvtv2-b2-linear_bvit-b100_8xb128_in1k.py']

few = dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512))
more = dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024))
model = dict(
    backbone=dict(
        training_stages=[
            *[dict(few, grid=24, view='scale')] * 2,
            *[dict(more, grid=40, view='scale')] * 4,
            *[dict(more, grid=48, view='scale')] * 2,
            *[dict(grid=56)] * 2,
        ],
    )
)
train_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=True))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='bvit_mm.REXLR', eta_min=1e-5, begin=5),
]
train_cfg = dict(budget=0.5, alpha=None, seed=None, shares=[0.1] * 10, schedule='budget')
custom_hooks = [
    dict(
        type='bvit_mm.StageSwitchHook',
        init='half',
        recipes=[dict(magnitude=i) for i in range(10)],
    ),
]
