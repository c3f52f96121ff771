"""DeiT-S by EfficientTrain++, whose heads and hidden units grow with the images as well.

The units of the planner's three stages: those of the first at 96 pixels, of the second at 160 and
192, all at 224. Else it is deit-small_etpp-b33_8xb512_in1k.py, at the same cost. The warm-up is the
first two training stages there too.
"""

_base_ = ['./deit-small_etpp-b33_8xb512_in1k.py']

model = dict(
    backbone=dict(
        training_stages=[
            *[dict(heads=2, hidden=384, grid=6, view='scale')] * 2,
            *[dict(heads=4, hidden=768, grid=10, view='scale')] * 4,
            *[dict(heads=4, hidden=768, grid=12, view='scale')] * 2,
            *[dict(heads=6, hidden=1536, grid=14)] * 2,
        ],
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=382, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=382),
]
