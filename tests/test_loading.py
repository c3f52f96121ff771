# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images on their way from files to the network: the kernel that resizes, and what is decoded."""

import copy
import pickle

import cv2
import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset

from bvit_mm.loading.decoding import LoadImageFromFile
from bvit_mm.loading.resizing import resized

INTERPOLATIONS = ('bilinear', 'bicubic')
sides = st.integers(24, 90)


def drawn(seed, height, width, channels=3, low=40, high=216):
    """Edges and noise. By default resizing, which overshoots at edges, stays within 0 to 255."""
    rng = np.random.default_rng(seed)
    image = rng.integers(low, high, (height // 4 + 1, width // 4 + 1, channels), np.uint8)
    image = image.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return np.clip(image + rng.normal(0, 6, image.shape), low, high - 1).astype(np.uint8)


def check_close(ours, pillows, part=1.0):
    """The law: this part of the values is within 2 of 255."""
    assert ours.dtype == pillows.dtype == np.uint8 and ours.shape == pillows.shape
    assert (np.abs(ours.astype(int) - pillows) <= 2).mean() >= part


def pillows(image, size, interpolation):
    return mmcv.imresize(image, size[::-1], interpolation=interpolation, backend='pillow')


@pytest.mark.laws
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sides, sides, sides, sides, st.sampled_from(INTERPOLATIONS))
def test_kernel_is_pillows(seed, height, width, rows, columns, interpolation):
    image, size = drawn(seed, height, width), (rows, columns)
    ours = resized(image, size, interpolation)
    check_close(ours, pillows(image, size, interpolation))
    assert ours.flags.c_contiguous and not np.shares_memory(ours, image)


@pytest.mark.parametrize('size', [(224, 224), (160, 160), (96, 96)])
def test_kernel_is_pillows_for_photographs(size):
    """These have black and white areas, at whose edges the order of rows and columns counts."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(375, 500))) / frequency**1.15)
    gray = np.clip(128 + 80 * noise / noise.std(), 0, 255).astype(np.uint8)
    image = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=2)
    assert (gray == 0).mean() > 0.03 and (gray == 255).mean() > 0.03
    check_close(resized(image, size, 'bicubic'), pillows(image, size, 'bicubic'), part=0.99)


@pytest.mark.parametrize(
    'view',
    [
        lambda image: image[3:40, 5:61],
        lambda image: image[:, ::-1],
        lambda image: np.asfortranarray(image),
        lambda image: image[..., 1],
        lambda image: image[..., :1],
        lambda image: np.concatenate([image, image[..., :1]], axis=2),
    ],
    ids=['crop', 'flipped', 'columns first', 'gray', 'one channel', 'four channels'],
)
@pytest.mark.parametrize('size', [(20, 31), (100, 90)])
def test_layout_does_not_matter(view, size):
    image = view(drawn(0, 64, 80))
    expected = [
        mmcv.imresize(
            np.ascontiguousarray(plane), size[::-1], interpolation='bicubic', backend='pillow'
        )
        for plane in (image[..., None] if image.ndim == 2 else image).transpose(2, 0, 1)
    ]
    made = resized(image, size, 'bicubic')
    assert made.shape == (*size, *image.shape[2:])
    check_close(made.reshape(*size, -1), np.stack(expected, axis=2))


def test_a_size_that_it_has_changes_nothing():
    image = drawn(0, 32, 48)
    made = resized(image, (32, 48), 'bicubic')
    assert np.array_equal(made, image) and not np.shares_memory(made, image)


def test_float_images_are_resized_too():
    image = drawn(0, 64, 48)
    made = resized(image.astype(np.float32), (32, 24), 'bilinear')
    assert made.dtype == np.float32
    assert np.abs(made - resized(image, (32, 24), 'bilinear')).max() <= 1


@pytest.mark.laws
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), sides, st.integers(24, 200), st.sampled_from([(8, 8), (40, 56)]))
def test_crops_are_mmpretrains(seed, height, width, scale):
    """The same random numbers in the same order, also where no crop fits; the same pixels."""
    image, made, states = drawn(seed, height, width), [], []
    options = dict(scale=scale, interpolation='bicubic', max_attempts=1)
    for own in (
        dict(type='mmpretrain.RandomResizedCrop', backend='pillow'),
        dict(type='bvit_mm.RandomResizedCrop'),
    ):
        np.random.seed(seed)
        results = TRANSFORMS.build({**own, **options})(dict(img=image.copy(), ori_shape='kept'))
        made.append(results)
        states.append(np.random.get_state()[1:])
    check_close(made[1].pop('img'), made[0].pop('img'))
    assert made[0] == made[1] == dict(img_shape=(*scale, 3), ori_shape='kept')
    assert np.array_equal(states[0][0], states[1][0]) and states[0][1:] == states[1][1:]


@pytest.mark.parametrize(
    'options',
    [
        dict(type='ResizeEdge', scale=40),
        dict(type='ResizeEdge', scale=41, edge='long'),
        dict(type='Resize', scale=(30, 44)),
        dict(type='Resize', scale_factor=0.5),
        dict(type='Resize', scale=(30, 44), keep_ratio=True),
    ],
    ids=str,
)
@pytest.mark.parametrize('shape', [(61, 83), (83, 61)])
def test_resizing_for_validation_is_mmpretrains(options, shape):
    """Sizes, factors, boxes and maps of labels too."""
    given = dict(
        img=drawn(1, *shape),
        gt_bboxes=np.array([[3.0, 5.0, 40.0, 60.0]], np.float32),
        gt_seg_map=drawn(2, *shape, 1)[..., 0],
    )
    own = options['type']
    scope = 'mmcv' if own == 'Resize' else 'mmpretrain'
    kind = own if scope == 'mmcv' else f'{scope}.{own}'
    plain, ours = (
        TRANSFORMS.build({**options, 'interpolation': 'bicubic', **each})(copy.deepcopy(given))
        for each in (dict(type=kind, backend='pillow'), dict(type=f'bvit_mm.{own}'))
    )
    check_close(ours.pop('img'), plain.pop('img'))
    maps = [results.pop('gt_seg_map') for results in (ours, plain)]
    assert maps[0].shape == maps[1].shape
    assert np.array_equal(ours.pop('gt_bboxes'), plain.pop('gt_bboxes'))
    assert ours == plain


@pytest.mark.laws
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60), st.data())
def test_rand_augment_is_mmpretrains(seed, height, width, data):
    """The same random numbers, the same bits: also where a channel has one value."""
    low, high = sorted(data.draw(st.tuples(st.integers(0, 254), st.integers(0, 254))))
    image = np.random.default_rng(seed).integers(low, high + 2, (height, width, 3), np.uint8)
    image[..., data.draw(st.integers(0, 2))] = low
    options = dict(
        policies=data.draw(st.sampled_from(['timm_increasing', 'simple_increasing'])),
        num_policies=3,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic', prob=0.9),
    )
    made, states = [], []
    for scope in ('mmpretrain', 'bvit_mm'):
        np.random.seed(seed)
        augment = TRANSFORMS.build(dict(type=f'{scope}.RandAugment', **options))
        made.append(augment(dict(img=image.copy()))['img'])
        states.append(np.random.get_state()[1:3])
    assert made[0].dtype == made[1].dtype and np.array_equal(*made)
    assert np.array_equal(states[0][0], states[1][0]) and states[0][1] == states[1][1]


@pytest.mark.parametrize('name', ['AutoContrast', 'Equalize'])
def test_operations_of_rand_augment(name):
    """Each by itself, on an image with all values and one with two."""
    for image in (drawn(0, 60, 70, low=0, high=256), drawn(0, 60, 70, low=90, high=92)):
        made = [
            TRANSFORMS.build(dict(type=f'{scope}.{name}', prob=1.0))(dict(img=image.copy()))['img']
            for scope in ('mmpretrain', 'bvit_mm')
        ]
        assert np.array_equal(*made)
    assert len(np.unique(made[0][..., 0])) == 2 and not np.array_equal(made[0], image)


@pytest.mark.parametrize('channels', [0, 1, 3, 4])
@pytest.mark.parametrize(
    'options',
    [
        dict(prob=0.5),
        dict(prob=1.0, direction='vertical'),
        dict(prob=[0.3, 0.3, 0.3], direction=['horizontal', 'vertical', 'diagonal']),
    ],
    ids=['horizontal', 'vertical', 'any'],
)
def test_flips_are_mmcvs(options, channels):
    """Boxes too; the images lie in memory as others do."""
    image = drawn(0, 20, 30, channels or 1).reshape(20, 30, *[channels] * (channels > 0))
    plain, ours = [
        TRANSFORMS.build(dict(type=kind, **options))
        for kind in ('RandomFlip', 'bvit_mm.RandomFlip')
    ]
    directions = set()
    for seed in range(12):
        made, states = [], []
        for step in (plain, ours):
            np.random.seed(seed)
            boxes = np.array([[3.0, 5.0, 14.0, 16.0]])
            made.append(step(dict(img=image.copy(), gt_bboxes=boxes)))
            states.append(np.random.get_state()[2])
        images = [results.pop('img') for results in made]
        assert np.array_equal(*images) and images[1].flags.c_contiguous
        assert np.array_equal(*(results.pop('gt_bboxes') for results in made))
        assert made[0] == made[1] and states[0] == states[1]
        directions.add(made[1]['flip_direction'])
    assert len(directions) > 1 or options['prob'] == 1.0


def test_unknown_policies_are_mmpretrains_to_refuse():
    for policies in ('unknown', 7):
        with pytest.raises(AssertionError, match='policies'):
            options = dict(policies=policies, num_policies=1, magnitude_level=1)
            TRANSFORMS.build(dict(type='bvit_mm.RandAugment', **options))


def test_an_image_is_not_needed_to_resize_boxes():
    step = TRANSFORMS.build(dict(type='bvit_mm.Resize', scale=(8, 8)))
    assert 'img' not in step.transform(dict(scale_factor=(1, 1)))


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(type='RandomResizedCrop', scale=8, interpolation='lanczos'),
            r"bvit_mm\.RandomResizedCrop: interpolation='lanczos' must be 'bilinear' or 'bicubic'",
        ),
        (
            dict(type='RandomResizedCrop', scale=8, backend='pillow'),
            r"bvit_mm\.RandomResizedCrop: backend='pillow' must be left out",
        ),
        (
            dict(type='ResizeEdge', scale=8, interpolation='area'),
            r'for others give ResizeEdge without bvit_mm',
        ),
        (dict(type='Resize', scale=8, backend='cv2'), r"bvit_mm\.Resize: backend='cv2' must be"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build({**options, 'type': f'bvit_mm.{options["type"]}'})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Nine images of two classes."""
    root = tmp_path_factory.mktemp('images')
    for i in range(9):
        path = root / 'ab'[i % 2] / f'{i}.jpg'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode('.jpg', drawn(i, 40 + i, 52))[1].tobytes())
    return root


def batches_of(folder, loading, workers):
    """Two epochs as training reads them; an image is written into before it is copied."""
    erasing = dict(type='RandomErasing', erase_prob=0.9, mode='rand')
    crop = dict(type='bvit_mm.RandomResizedCrop', scale=24)
    dataset = dict(
        type=CustomDataset,
        data_root=str(folder),
        pipeline=[loading, erasing, crop, dict(type='PackInputs')],
    )
    loader = Runner.build_dataloader(
        dict(
            batch_size=4,
            num_workers=workers,
            persistent_workers=workers > 0,
            dataset=dataset,
            sampler=dict(type='mmpretrain.RepeatAugSampler', shuffle=True),
        ),
        seed=3,
    )
    np.random.seed(3)
    batches = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


@pytest.mark.laws
@pytest.mark.parametrize('workers', [0, 2])
def test_decoding_once_leaves_batches_as_they_are(folder, workers):
    plain, ours = (
        batches_of(folder, dict(type=name), workers)
        for name in ('LoadImageFromFile', 'bvit_mm.LoadImageFromFile')
    )
    assert len(plain) == len(ours) == 6
    for a, b in zip(plain, ours):
        assert all(torch.equal(x, y) for x, y in zip(a['inputs'], b['inputs'], strict=True))
        assert [s.to_dict().keys() for s in a['data_samples']] == [
            s.to_dict().keys() for s in b['data_samples']
        ]
        assert [s.metainfo for s in a['data_samples']] == [s.metainfo for s in b['data_samples']]


def test_an_image_is_decoded_once_in_a_row(folder, monkeypatch):
    decoded = []
    plain = mmcv.imfrombytes
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *a, **k: decoded.append(1) or plain(*a, **k))
    batches_of(folder, dict(type='bvit_mm.LoadImageFromFile'), 0)
    assert len(decoded) == 6  # of 18 images: each is repeated three times, in two epochs


def test_an_image_is_loaded_anew_when_what_decides_its_pixels_changes(folder):
    path = dict(img_path=str(folder / 'a' / '0.jpg'))
    step = LoadImageFromFile()
    color = step(dict(path))['img']
    color[:] = 0
    again = step(dict(path))
    assert again['img'].any() and again['img_shape'] == again['ori_shape'] == (40, 52)
    step.color_type = 'grayscale'
    assert step(dict(path))['img'].shape == (40, 52)
    step.to_float32 = True
    assert step(dict(path))['img'].dtype == np.float32


def test_no_image_is_kept_for_a_file_that_cannot_be_read(folder, tmp_path):
    step = LoadImageFromFile(ignore_empty=True)
    broken = tmp_path / 'missing.jpg'
    assert step(dict(img_path=str(folder / 'a' / '0.jpg'))) is not None
    assert step(dict(img_path=str(broken))) is None
    assert step(dict(img_path=str(broken))) is None


@pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff\xe0 cut off'])
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / 'IMG_0001.jpg'
    file.write_bytes(content)
    message = f'{file} cannot be loaded as an image .* tools/resize_dataset.py copies a data set'
    with pytest.raises(ValueError, match=message):
        LoadImageFromFile()(dict(img_path=str(file)))


def test_copies_do_not_carry_the_image(folder):
    step = LoadImageFromFile()
    step(dict(img_path=str(folder / 'a' / '0.jpg')))
    assert len(pickle.dumps(step)) < 1000
    assert copy.deepcopy(step)(dict(img_path=str(folder / 'b' / '1.jpg')))['img'].shape[0] == 41
