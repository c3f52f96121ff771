# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/make_shapes.py: what is drawn, and that each library reads it as it was drawn."""

import importlib.util
import json
import pickle
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CIFAR10, CustomDataset
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

TOOLS = Path(__file__).parent.parent / 'tools'
FILE = TOOLS / 'make_shapes.py'
READERS = runpy.run_path(str(TOOLS / 'drawn_cifar.py'))
SPEC = importlib.util.spec_from_file_location('make_shapes', FILE)
shapes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shapes)

ARGS = {'size': 48, 'train': 20, 'val': 10, 'seed': 3}
SCENES = {'size': 96, 'train': 30, 'val': 10, 'seed': 3}


@pytest.fixture
def make(monkeypatch):
    """Runs the tool in this process."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['make_shapes.py', *map(str, args)])
        shapes.main()

    return run


def options(args):
    return [part for name, value in args.items() for part in (f'--{name}', value)]


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """All sets, those of scenes with more and larger images."""
    folder = tmp_path_factory.mktemp('shapes')
    with pytest.MonkeyPatch.context() as patch:
        for args, sets in (
            (ARGS, ['folder', 'cifar10', 'cifar100']),
            (SCENES, ['coco', 'ade20k']),
        ):
            arguments = [folder, '--sets', *sets, *options(args)]
            patch.setattr(sys, 'argv', ['make_shapes.py', *map(str, arguments)])
            shapes.main()
    return folder


# Drawing.

AREAS = {  # of a shape with radius 1
    'arrow': 1.05 * 0.48 + 0.95 * 0.75,
    'bar': 1.92 * 0.56,
    # The unit disc less its common part with a disc of radius 0.872 at 0.6: two segments of discs.
    'crescent': np.pi
    - (np.radians(60) - np.sin(np.radians(120)) / 2)
    - 0.872**2 * (np.radians(83.4) - np.sin(np.radians(166.8)) / 2),
    'cross': 4 * 0.56 - 0.56**2,
    'disc': np.pi,
    'pentagon': 2.5 * np.sin(np.radians(72)),
    'ring': np.pi * (1 - 0.55**2),
    'square': 2,
    'star': 10 * 0.42 * np.sin(np.radians(36)) / 2,
    'triangle': 3 * np.sqrt(3) / 4,
}


def test_the_kinds_are_sorted_as_folders_are():
    assert list(shapes.KINDS) == sorted(AREAS)


@pytest.mark.parametrize('kind', AREAS)
def test_coverage_has_the_area_and_place_of_the_shape(kind):
    for angle in (0.1, 0.4, 2.5):
        alpha = shapes.coverage(kind, 41.3, 30.6, 25, angle, (64, 80))
        assert alpha.shape == (64, 80) and alpha.min() == 0 and alpha.max() == 1
        assert alpha.sum() == pytest.approx(AREAS[kind] * 25**2, rel=0.02)
        assert (alpha >= 0.5).sum() == pytest.approx(AREAS[kind] * 25**2, rel=0.03)
        if kind not in ('arrow', 'crescent'):  # the others have their center of mass in the middle
            y, x = np.mgrid[:64, :80] + 0.5
            center = (alpha * x).sum() / alpha.sum(), (alpha * y).sum() / alpha.sum()
            assert center == pytest.approx((41.3, 30.6), abs=0.1)


def test_an_angle_turns_the_shape():
    """A quarter turn is exactly one; half of one makes a square stand on its corner."""
    at = [shapes.coverage('arrow', 16, 16, 12, angle, (32, 32)) for angle in (0, np.pi / 2, np.pi)]
    assert np.abs(np.rot90(at[0], -1) - at[1]).max() <= 0.25
    assert np.abs(np.rot90(at[0], 2) - at[2]).max() <= 0.25
    for angle, width in ((0, 24), (np.pi / 4, 24 / np.sqrt(2))):
        mask = shapes.coverage('square', 16, 16, 12, angle, (32, 32)) >= 0.5
        assert mask.any(0).sum() == pytest.approx(width, abs=1.2)


def looks_like(mask):
    """The kind of a whole shape: how full its convex hull is, and that the circle around it."""
    (outline,), _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    hull = cv2.fillConvexPoly(np.zeros(mask.shape), cv2.convexHull(outline), 1).sum()
    circle = np.pi * (cv2.minEnclosingCircle(outline)[1] + 0.5) ** 2
    fills = {  # of these shapes, the hull's area by hand
        'cross': (AREAS['cross'] / 2.9568, 2.9568 / np.pi / (1 + 0.28**2)),
        'disc': (1, 1),
        'ring': (AREAS['ring'] / np.pi, 1),
        'square': (1, 2 / np.pi),
        'star': (AREAS['star'] / AREAS['pentagon'], AREAS['pentagon'] / np.pi),
        'triangle': (1, AREAS['triangle'] / np.pi),
    }
    found = mask.sum() / hull, hull / circle
    return min(fills, key=lambda kind: np.hypot(*np.subtract(fills[kind], found)))


def is_whole(mask):
    """Whether a mask is in one piece and away from the image's edge."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = True
    return not (mask & ~inner).any() and cv2.connectedComponents(mask.astype(np.uint8))[0] == 2


def test_shapes_are_of_the_kind_they_are_annotated_as(monkeypatch):
    compose, seen = shapes.compose, []
    monkeypatch.setattr(shapes, 'compose', lambda a, b, kinds, *c: compose(a, b, kinds[:1], *c))
    for i in range(40):
        _, top, kinds = shapes.drawn_instances(np.random.default_rng(i), 160)
        _, labels = shapes.drawn_scene(np.random.default_rng(i), 160)
        for mask, kind in (
            (top > 0, kinds[0]),
            (labels > 2, shapes.SEGMENTS[labels.max() - 1]),
        ):
            if is_whole(mask):
                assert looks_like(mask) == kind
                seen.append(kind)
    assert set(seen) == set(shapes.INSTANCES) and len(seen) > 60


def test_the_sky_is_above_the_floor():
    for i in range(10):
        image, labels = shapes.drawn_scene(np.random.default_rng(i), 96)
        rows = np.arange(len(labels))[:, None]
        at = [np.broadcast_to(rows, labels.shape)[labels == label].mean() for label in (1, 2)]
        assert at[0] < at[1] and image[labels == 1, 0].mean() > image[labels == 2, 0].mean()


def test_a_pixel_belongs_to_the_topmost_shape_covering_half_of_it(monkeypatch):
    first, second, third = np.zeros((3, 8, 8), np.float32)
    first[:, :4] = 1
    second[2:6, 2], second[2:6, 3], second[2:6, 4:6] = 0.49, 0.5, 1
    third[:, :3] = 1  # leaves too little of the first
    alphas = iter([first, second, *[third] * 20])
    monkeypatch.setattr(shapes, 'coverage', lambda *args: next(alphas))
    canvas = np.full((8, 8, 3), 128.0)
    rng = np.random.default_rng(0)
    image, top, kinds = shapes.compose(rng, canvas, ('disc', 'ring', 'star'), (0.1, 0.2))
    expected = np.zeros((8, 8), int)
    expected[:, :4] = 1
    expected[2:6, 3:6] = 2
    assert np.array_equal(top, expected) and kinds == ['disc', 'ring']
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert next(alphas, None) is None


def test_shapes_stand_out_and_hide_no_other():
    """Inside its mask a shape has one color, unlike the background's next to it."""
    for i in range(40):
        rng = np.random.default_rng(i)
        image, top, kinds = shapes.drawn_instances(rng, 96)
        assert sorted(image.shape) == [3, 72, 96] and top.shape == image.shape[:2]
        assert 1 <= len(kinds) <= 4 and set(np.unique(top)) - {0} == set(range(1, len(kinds) + 1))
        for k in range(1, len(kinds) + 1):
            mask = (top == k).astype(np.uint8)
            inside = cv2.erode(mask, np.ones((3, 3))).astype(bool)
            around = cv2.dilate(mask, np.ones((7, 7))).astype(bool) & (top == 0)
            around &= ~cv2.dilate(mask, np.ones((3, 3))).astype(bool)
            if inside.sum() > 30 and around.sum() > 30:
                assert image[inside].std(0).max() < 25
                apart = np.abs(image[inside].mean(0) - image[around].mean(0)).max()
                assert apart > 15


def test_color_is_no_clue_to_the_kind():
    """The nearest mean color of a kind tells kinds apart hardly better than chance."""
    means = []
    for i in range(600):
        image = shapes.drawn_single(np.random.default_rng(i), 24, shapes.KINDS[i % 10])
        means.append(image[6:18, 6:18].mean((0, 1)))
    means = np.array(means)
    centers = np.stack([means[:300][k::10].mean(0) for k in range(10)])
    nearest = ((means[300:, None] - centers) ** 2).sum(-1).argmin(1)
    assert (nearest == np.arange(300) % 10).mean() < 0.2


@pytest.mark.parametrize('hue', shapes.HUES)
def test_colors_of_a_hue_are_nearest_to_it(hue):
    rng = np.random.default_rng(0)
    for _ in range(50):
        color = shapes.color_of(hue)(rng)
        degrees = cv2.cvtColor(np.float32([[color / 255]]), cv2.COLOR_BGR2HSV)[0, 0, 0]
        apart = {name: abs((degrees - at + 180) % 360 - 180) for name, at in shapes.HUES.items()}
        assert min(apart, key=apart.get) == hue


# Writing.


def test_same_arguments_give_the_same_bytes(make, tmp_path):
    args = {'size': 48, 'train': 4, 'val': 2, 'seed': 0}
    make(tmp_path / 'a', *options(args))
    make(tmp_path / 'b', *options(args))
    make(tmp_path / 'other', *options(args | {'seed': 1}))
    make(tmp_path / 'more', '--sets', 'ade20k', 'folder', *options(args | {'train': 6}))
    first, again, other, more = (files(tmp_path / name) for name in ('a', 'b', 'other', 'more'))
    assert first == again
    assert not [p for p in first if p.suffix in ('.jpg', '.png') and first[p] == other.get(p)]
    images = [p for p in more if p.suffix in ('.jpg', '.png') and p in first]
    assert len(images) == 60 + 2 * 6
    assert all(first[p] == more[p] for p in images)
    train, val = (cv2.imread(tmp_path / f'a/folder/{s}/disc/00000.png') for s in ('train', 'val'))
    assert train.shape == val.shape == (24, 24, 3) and not np.array_equal(train, val)


def test_a_set_is_kept_and_others_are_added(make, tmp_path, capsys):
    args = options({'size': 48, 'train': 2, 'val': 1, 'seed': 0})
    make(tmp_path / 'new' / 'shapes', '--sets', 'coco', *args)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('coco/**/*')}
    make(tmp_path / 'new' / 'shapes', '--sets', 'coco', 'ade20k', *args)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob('coco/**/*')} == before
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ['wrote', f'{tmp_path}/new/shapes/coco', 'wrote']
    assert said[1].endswith('coco is there already')


def test_an_interrupted_run_leaves_nothing(make, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, 'drawn_scene', stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, '--sets', 'ade20k')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'args, message',
    [
        (['--size', 47], '--size 47 must be 48 or more'),
        (['--train', 0], '--train 0 must be 1 or more'),
        (['--val', -1], '--val -1 must be 1 or more'),
        (['--seed', -1], '--seed -1 must be 0 or more'),
        (['--size', 'large'], "invalid int value: 'large'"),
        (['--sets', 'imagenet'], "invalid choice: 'imagenet'"),
    ],
)
def test_bad_input(make, tmp_path, capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        make(tmp_path, *args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(make, tmp_path, capsys):
    """Neither another's folder, nor a set with other arguments, nor a file."""
    args = {'size': 48, 'train': 2, 'val': 1, 'seed': 0}
    (tmp_path / 'mine' / 'coco').mkdir(parents=True)
    make(tmp_path / 'drawn', '--sets', 'coco', *options(args))
    (tmp_path / 'file').write_text('text')
    before = files(tmp_path)
    for folder, seed, message in (
        ('mine', 0, 'coco exists and was not drawn by this tool; give another folder'),
        ('drawn', 1, "'seed': 0}, not {'size': 48, 'train': 2, 'val': 1, 'seed': 1}; remove it"),
        ('file', 0, 'file is a file; give a folder'),
    ):
        with pytest.raises(SystemExit) as stop:
            make(tmp_path / folder, *options(args | {'seed': seed}))
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert files(tmp_path) == before


# Reading.


def again(name, split, args, times=1):
    """The random numbers the set was drawn with."""
    return shapes.rngs(name, split, args, times)


def test_folder(drawn):
    for split, n in (('train', 20), ('val', 10)):
        dataset = CustomDataset(data_root=str(drawn / 'folder' / split))
        assert dataset.metainfo['classes'] == shapes.KINDS
        labels = [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]
        assert np.bincount(labels).tolist() == [n] * 10
        for i, rng in enumerate(again('folder', split, ARGS, 10)):
            image = cv2.imread(dataset.get_data_info(i % 10 * n + i // 10)['img_path'])
            assert np.array_equal(image, shapes.drawn_single(rng, 24, shapes.KINDS[i % 10]))


def decoded(annotation, shape):
    """The mask of an annotation, by COCO's own C code."""
    runs = coco_mask.frPyObjects(annotation['segmentation'], *shape)
    return coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs) > 0


def extent(mask):
    """The first column and row of a mask, and the first ones after it."""
    columns, rows = np.nonzero(mask.any(0))[0], np.nonzero(mask.any(1))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_any_mask_is_written_exactly():
    """Specks, holes and pixels that touch at corners; polygons and runs."""
    rng = np.random.default_rng(0)
    forms = {list: 0, dict: 0}
    for i in range(600):
        shape = tuple(map(int, rng.integers(2, 14, 2)))
        mask = rng.random(shape) < (0.2, 0.5, 0.9)[i % 3]
        if mask.any():
            form = json.loads(json.dumps(shapes.segmentation(mask)))
            assert np.array_equal(decoded({'segmentation': form}, shape), mask)
            forms[type(form)] += 1
    assert min(forms.values()) > 100


def test_coco_is_as_drawn(drawn):
    forms, ids, kinds_seen = set(), [], []
    for split in ('train', 'val'):
        coco = COCO(drawn / 'coco' / 'annotations' / f'instances_{split}2017.json')
        names = {c['id']: c['name'] for c in coco.loadCats(coco.getCatIds())}
        assert names == {1: 'cross', 2: 'disc', 4: 'ring', 7: 'square', 11: 'star', 18: 'triangle'}
        on_disc = sorted(p.name for p in (drawn / 'coco' / f'{split}2017').iterdir())
        assert on_disc == [image['file_name'] for image in coco.loadImgs(coco.getImgIds())]
        assert len(on_disc) == SCENES[split]
        for image_id, rng in zip(coco.getImgIds(), again('coco', split, SCENES)):
            record = coco.loadImgs(image_id)[0]
            pixels, top, kinds = shapes.drawn_instances(rng, 96)
            assert (record['height'], record['width']) == top.shape
            stored = cv2.imread(drawn / 'coco' / f'{split}2017' / record['file_name'])
            assert np.abs(stored.astype(int) - pixels).mean() < 12  # JPEG of noise
            annotations = coco.loadAnns(coco.getAnnIds(image_id))
            assert [names[a['category_id']] for a in annotations] == kinds
            for k, annotation in enumerate(annotations):
                mask = top == k + 1
                assert np.array_equal(decoded(annotation, top.shape), mask)
                assert np.array_equal(coco.annToMask(annotation) > 0, mask)
                x, y, w, h = annotation['bbox']
                assert [x, y, x + w, y + h] == extent(mask)
                assert annotation['area'] == mask.sum() and annotation['iscrowd'] == 0
                forms.add(type(annotation['segmentation']))
            kinds_seen += kinds
        ids += [coco.getImgIds(), coco.getAnnIds()]
    assert forms == {list, dict}
    assert not set(ids[0]) & set(ids[2]) and not set(ids[1]) & set(ids[3])
    assert ids[0] == sorted(ids[0]) and np.diff(ids[0]).max() > 1
    counts = [kinds_seen.count(kind) for kind in shapes.INSTANCES]
    assert min(counts) > 0.5 * np.mean(counts) and max(counts) < 1.5 * np.mean(counts)


def test_mmdet_reads_coco(drawn):
    dataset = CocoDataset(
        data_root=str(drawn / 'coco'),
        ann_file='annotations/instances_train2017.json',
        data_prefix={'img': 'train2017/'},
        metainfo={'classes': shapes.INSTANCES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        pipeline=[
            {'type': 'mmdet.LoadImageFromFile'},
            {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
            {'type': 'mmdet.PackDetInputs'},
        ],
    )
    assert len(dataset) == 30
    for i, rng in enumerate(again('coco', 'train', SCENES)):
        _, top, kinds = shapes.drawn_instances(rng, 96)
        item = dataset[i]
        found = item['data_samples'].gt_instances
        assert item['inputs'].shape[1:] == top.shape
        assert [shapes.INSTANCES[label] for label in found.labels] == kinds
        masks = found.masks.masks.astype(bool)
        assert np.array_equal(masks, np.stack([top == k + 1 for k in range(len(kinds))]))
        assert found.bboxes.tensor.tolist() == [extent(mask) for mask in masks]


@pytest.mark.parametrize(
    'reader, more',
    [
        (
            BaseSegDataset,
            {'metainfo': {'classes': shapes.SEGMENTS}, 'reduce_zero_label': True},
        ),
        (ADE20KDataset, {}),
    ],
)
def test_mmseg_reads_ade20k(drawn, reader, more):
    """The base class with our names; and the real one, by ADE20K's names for the first labels."""
    totals = np.zeros(256, int)
    for split, folder in (('train', 'training'), ('val', 'validation')):
        dataset = reader(
            data_root=str(drawn / 'ade20k'),
            data_prefix={'img_path': f'images/{folder}', 'seg_map_path': f'annotations/{folder}'},
            pipeline=[
                {'type': 'mmseg.LoadImageFromFile'},
                {'type': 'mmseg.LoadAnnotations'},
                {'type': 'mmseg.PackSegInputs'},
            ],
            **more,
        )
        assert len(dataset) == SCENES[split]
        for i, rng in enumerate(again('ade20k', split, SCENES)):
            image, labels = shapes.drawn_scene(rng, 96)
            item = dataset[i]
            read = item['data_samples'].gt_sem_seg.data[0].numpy()
            assert np.array_equal(read, np.where(labels == 0, 255, labels - 1.0))
            apart = item['inputs'].permute(1, 2, 0).numpy().astype(int) - image
            assert np.abs(apart).mean() < 12
            totals += np.bincount(labels.ravel(), minlength=256)
    assert totals[9:].sum() == 0 and np.all(totals[:9] > 0)
    share = totals[:9] / totals.sum()
    assert share[0] < 0.1 and share[1:3].min() > 0.2 and share[3:].min() > 0.005


@pytest.mark.parametrize('split, n', [('train', 200), ('test', 100)])
def test_mmpretrain_reads_cifar10(drawn, split, n):
    dataset = READERS['DrawnCIFAR10'](data_root=str(drawn), split=split, download=False)
    assert dataset.metainfo['classes'] == list(shapes.KINDS) and len(dataset) == n
    part = 'train' if split == 'train' else 'val'
    for i, rng in enumerate(again('cifar10', part, ARGS, 10)):
        item = dataset.get_data_info(i)
        drawn_image = shapes.drawn_single(rng, 32, shapes.KINDS[i % 10])
        assert np.array_equal(item['img'][..., ::-1], drawn_image) and item['gt_label'] == i % 10


@pytest.mark.parametrize('split, n', [('train', 200), ('test', 100)])
def test_mmpretrain_reads_cifar100(drawn, split, n):
    dataset = READERS['DrawnCIFAR100'](data_root=str(drawn), split=split, download=False)
    names = [f'{hue}_{kind}' for kind in shapes.KINDS for hue in shapes.HUES]
    assert dataset.metainfo['classes'] == names and len(set(names)) == 100
    assert len(dataset) == n
    part = 'train' if split == 'train' else 'val'
    for i, rng in enumerate(again('cifar100', part, ARGS, 10)):
        item = dataset.get_data_info(i)
        hue, kind = names[i % 100].split('_')
        drawn_image = shapes.drawn_single(rng, 32, kind, shapes.color_of(hue))
        assert np.array_equal(item['img'][..., ::-1], drawn_image) and item['gt_label'] == i % 100


def test_the_real_files_of_cifar_are_told_apart(drawn):
    """mmpretrain's own class takes only files with the checksums of the real ones."""
    with pytest.raises(RuntimeError, match='Cannot find CIFAR10 dataset'):
        CIFAR10(data_root=str(drawn), download=False)


def test_the_pickles_have_the_fields_of_cifar(drawn):
    paths = [p for p in drawn.glob('cifar-*/*') if p.suffix != '.json']
    read = {p.name: pickle.loads(p.read_bytes()) for p in paths}
    for i in range(1, 6):
        batch = read[f'data_batch_{i}']
        assert set(batch) == {'batch_label', 'labels', 'data', 'filenames'}
        assert batch['batch_label'] == f'training batch {i} of 5'
        assert batch['data'].shape == (40, 3072) and batch['data'].dtype == np.uint8
        assert np.bincount(batch['labels']).tolist() == [4] * 10
    assert read['batches.meta']['label_names'] == list(shapes.KINDS)
    assert read['batches.meta']['num_cases_per_batch'] == 40
    fine, coarse = read['meta']['fine_label_names'], read['meta']['coarse_label_names']
    assert len(set(coarse)) == 20 and len(fine) == 100
    for name, n in (('train', 2), ('test', 1)):
        assert np.bincount(read[name]['fine_labels']).tolist() == [n] * 100
        assert np.bincount(read[name]['coarse_labels']).tolist() == [5 * n] * 20
        for a, b in zip(read[name]['fine_labels'], read[name]['coarse_labels']):
            hue, kind = fine[a].split('_')
            assert coarse[b] == f'{"warm" if hue in shapes.WARM else "cold"}_{kind}'
