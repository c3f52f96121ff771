"""Swin-S by EfficientTrain++, without growth, for 33 % of the full cost: 100 equivalent epochs.

Its authors' schedule and recipe, read from https://github.com/LeapLabTHU/EfficientTrain
(_ET_pp_main_swinS.py, main_buffer.py). They report 82.8 % on ImageNet-1K (EVAL.md); it has not been
reproduced here. Ten training stages of equal cost see whole images of 96, 160 and 224 pixels, with
windows of 3, 5 and 7 tokens; RandAugment's magnitude is 0 in the first and 9 in the last. As
theirs: AdamW 4e-3 at batch 4096, clipping 5.0, 20 warm-up epochs (of 96 pixels), cosine to 1e-6
over the spent budget, drop path 0.3 x equivalent epochs / 200, mixup 0.8, CutMix 1, erasing 0.25,
label smoothing 0.1, weight decay 0.05.

Different: costs are equal by our rule, theirs by the number of pixels.

A batch of 4096 is 8 GPUs with 512 images each. Fewer need larger batches of their own, which are
trained in parts where they do not fit: on 4 GPUs, --cfg-options train_dataloader.batch_size=1024.
"""

_base_ = ['./swin-small_bvit-b100_16xb64_in1k.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.15,
        training_stages=[
            *[dict(grid=24, window=3, view='scale')] * 2,
            *[dict(grid=40, window=5, view='scale')] * 4,
            *[dict(grid=56, window=7)] * 4,
        ],
    )
)
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=20),
]
train_cfg = dict(
    budget=0.33,
    alpha=None,
    seed=None,
    shares=[0.1] * 10,
    schedule='budget',
    accumulative_counts='auto',
)
custom_hooks = [
    dict(type='bvit_mm.StageSwitchHook', recipes=[dict(magnitude=i) for i in range(10)]),
]
