"""Swin-S by EfficientTrain++, whose heads and hidden units grow with the images as well.

The units of the planner's three stages: those of the first at 96 pixels, of the second at 160, all
at 224. Else it is swin-small_etpp-b33_8xb512_in1k.py, at the same cost.
"""

_base_ = ['./swin-small_etpp-b33_8xb512_in1k.py']

model = dict(
    backbone=dict(
        training_stages=[
            *[
                dict(
                    heads=(1, 2, 4, 8),
                    hidden=(96, 192, 384, 768),
                    grid=24,
                    window=3,
                    view='scale',
                )
            ]
            * 2,
            *[
                dict(
                    heads=(2, 4, 8, 16),
                    hidden=(192, 384, 768, 1536),
                    grid=40,
                    window=5,
                    view='scale',
                )
            ]
            * 4,
            *[dict(grid=56, window=7)] * 4,
        ],
    )
)
