"""Swin-S by the recommended setting: heads, hidden units, images and augmentation grow together.

The budget is the only knob: --cfg-options train_cfg.budget=0.3, or train_cfg.budget=8h.

Ten training stages of equal cost see whole images of 96, 160 and 224 pixels, with windows of 3, 5
and 7 tokens, as in EfficientTrain++ (Wang et al., 2024, arXiv 2405.08768). The heads and hidden
units of the planner's three stages grow with them. RandAugment's magnitude is 0 in the first and 9
in the last. The learning rate is REX, by the spent budget; new units are copies at half their
weight. docs/results.md has what that reached on small data; nothing was trained on ImageNet here.

Else it is swin-small_bvit-b100_16xb64_in1k.py.
"""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

few = dict(heads=(1, 2, 4, 8), hidden=(96, 192, 384, 768))
more = dict(heads=(2, 4, 8, 16), hidden=(192, 384, 768, 1536))
model = dict(
    backbone=dict(
        training_stages=[
            *[dict(few, grid=24, window=3, view='scale')] * 2,
            *[dict(more, grid=40, window=5, view='scale')] * 4,
            *[dict(grid=56, window=7)] * 4,
        ],
    )
)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='bvit_mm.REXLR', eta_min=1e-5, begin=20),
]
train_cfg = dict(budget=0.5, alpha=None, seed=None, shares=[0.1] * 10, schedule='budget')
custom_hooks = [
    dict(
        type='bvit_mm.StageSwitchHook',
        init='half',
        recipes=[dict(magnitude=i) for i in range(10)],
    ),
]
