"""Drawn scenes in ADE20K's layout (tools/make_shapes.py), in crops of 64 x 64."""

shapes_classes = ('sky', 'floor', 'cross', 'disc', 'ring', 'square', 'star', 'triangle')
shapes_crop = (64, 64)
shapes_palette = [
    [176, 212, 240],
    [150, 120, 90],
    [220, 20, 60],
    [255, 140, 0],
    [255, 220, 0],
    [60, 160, 60],
    [30, 80, 220],
    [160, 60, 200],
]
shapes_train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=shapes_crop),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
shapes_test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
shapes_dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    metainfo=dict(classes=shapes_classes, palette=shapes_palette),
    reduce_zero_label=True,
    data_root='data/shapes/ade20k',
)
shapes_train = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes_dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=shapes_train_pipeline,
    ),
)
shapes_val = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes_dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=shapes_test_pipeline,
    ),
)
