# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Data sets resized once: what is loaded from the copy, what is kept, and what is refused."""

import json
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CustomDataset, ImageNet
from PIL import Image

from bvit_mm.loading import resized_files
from bvit_mm.loading.resized_files import (
    DAMAGED,
    RECORD,
    check_complete,
    copy_resized,
    decoded,
    folders_of,
    named_in,
    read_record,
)
from bvit_mm.loading.resizing import resized

from .support import runs
from .support.scripts import run_tool

OPTIONS = dict(short_side=32, quality=90, jobs=1)


def drawn(seed, height, width, channels=3):
    """Smooth, as JPEG keeps it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, channels), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image.reshape(height, width, channels)


def encoded(image, kind='JPEG', **options):
    """A file of Pillow's, of an array or of an image of its own."""
    file = BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.squeeze())
    image.save(file, kind, **options)
    return file.getvalue()


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def through_jpeg(image, quality):
    """What mmcv loads of an image after it was written."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return mmcv.imfrombytes(cv2.imencode('.jpg', image, options)[1].tobytes())


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif)


@pytest.fixture
def source(tmp_path):
    """Photographs of several sizes and kinds."""
    return put(
        tmp_path / 'photos',
        {
            'cat/large.jpg': encoded(drawn(0, 96, 64)),
            'cat/deep/er/wide.JPEG': encoded(drawn(1, 48, 200)),
            'cat/small.jpg': turned(drawn(2, 32, 40), 6),
            'dog/really a jpeg.png': encoded(drawn(3, 70, 70)),
            'dog/real.png': encoded(drawn(4, 70, 90), 'PNG'),
            'dog/turned.jpg': turned(drawn(5, 60, 90), 6),
            'dog/.hidden.jpg': b'',
            'dog/notes.txt': 'read me',
            'film.mp4': b'...',
        },
    )


def test_copy_has_the_same_names_and_smaller_images(source, tmp_path):
    before = tree(source)
    counts, damaged, left = copy_resized(source, tmp_path / 'new' / 'small', **OPTIONS)
    target = tmp_path / 'new' / 'small'
    assert tree(source) == before
    assert counts == dict(resized=5, copied=2) and not damaged and left == [Path('film.mp4')]
    after = tree(target)
    assert after.keys() == before.keys() - {'dog/.hidden.jpg', 'film.mp4'} | {RECORD}
    for same in ('cat/small.jpg', 'dog/notes.txt'):
        assert after[same] == before[same]
    shapes = {
        name: mmcv.imread(target / name).shape[:2]
        for name in after
        if Path(name).suffix[-1] in 'gG'
    }
    assert shapes == {
        'cat/large.jpg': (48, 32),
        'cat/deep/er/wide.JPEG': (32, 133),
        'cat/small.jpg': (40, 32),
        'dog/really a jpeg.png': (32, 32),
        'dog/real.png': (32, 41),
        'dog/turned.jpg': (48, 32),
    }
    for name in shapes:
        if name != 'cat/small.jpg':
            small = resized(mmcv.imread(source / name), shapes[name], 'bicubic')
            assert np.array_equal(mmcv.imread(target / name), through_jpeg(small, 90)), name


# What mmcv loads in color, of files of every kind.
KINDS = {
    'gray': encoded(drawn(0, 40, 50, 1)),
    'cmyk': encoded(Image.fromarray(drawn(1, 40, 50)).convert('CMYK')),
    'palette': encoded(Image.fromarray(drawn(2, 40, 50)).convert('P'), 'PNG'),
    'alpha': encoded(drawn(3, 40, 50, 4), 'PNG'),
    'gray with alpha': encoded(Image.fromarray(drawn(4, 40, 50)).convert('LA'), 'PNG'),
    'one bit': encoded(Image.fromarray(drawn(5, 40, 50)).convert('1'), 'PNG'),
    '16 bits': cv2.imencode('.png', drawn(6, 40, 50).astype(np.uint16) * 257)[1].tobytes(),
    '16 bits with alpha': cv2.imencode('.png', drawn(7, 40, 50, 4).astype(np.uint16) * 199)[
        1
    ].tobytes(),
    '16 bits gray': cv2.imencode('.png', drawn(8, 40, 50, 1).astype(np.uint16) * 99)[1].tobytes(),
    'bitmap': encoded(drawn(9, 40, 50), 'BMP'),
    'webp': encoded(drawn(10, 40, 50), 'WEBP'),
    'tiff': encoded(drawn(11, 40, 50), 'TIFF'),
    **{f'turned {i}': turned(drawn(12 + i, 40, 50), i) for i in range(1, 9)},
}


@pytest.mark.parametrize('kind', KINDS)
def test_images_are_decoded_as_mmcv_loads_them(kind):
    loaded, found = mmcv.imfrombytes(KINDS[kind]), decoded(KINDS[kind])
    if found.ndim == 2:
        assert 'gray' in kind or kind == 'one bit'
        found = found[..., None].repeat(3, axis=2)
    assert np.array_equal(loaded, found)


@pytest.mark.parametrize('kind', KINDS)
def test_what_mmcv_loads_from_a_copy_is_what_it_loads_from_the_source_resized(kind, tmp_path):
    put(tmp_path / 'a', {'x.png': KINDS[kind]})
    copy_resized(tmp_path / 'a', tmp_path / 'b', 24, 95, 1)
    small, loaded = mmcv.imread(tmp_path / 'b' / 'x.png'), mmcv.imfrombytes(KINDS[kind])
    expected = resized(loaded, small.shape[:2], 'bicubic')
    is_gray = decoded(KINDS[kind]).ndim == 2
    assert min(small.shape[:2]) == 24
    assert np.array_equal(small, through_jpeg(expected[..., 0] if is_gray else expected, 95))


DAMAGE = {
    'empty': b'',
    'no image': b'not an image at all',
    'cut': encoded(drawn(0, 90, 90), quality=99)[:-900],
    'cut png': encoded(drawn(0, 90, 90), 'PNG')[:-900],
    'cut head': encoded(drawn(0, 90, 90))[:100],
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_images_are_listed_and_the_rest_is_done(damage, source, tmp_path, capsys):
    put(source, {'cat/broken.jpg': DAMAGE[damage]})
    target = tmp_path / 'small'
    with pytest.raises(SystemExit) as ended:
        run_tool('resize_dataset', source, target, '--short-side', 32, '--jobs', 1)
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert '2 copied, 1 damaged, 5 resized' in printed and 'cat/broken.jpg: ' in printed
    assert 'film.mp4' in printed and 'No list names them' in printed
    listed = (target / DAMAGED).read_text()
    assert listed.startswith('cat/broken.jpg\t') and listed.count('\n') == 1
    assert not (target / 'cat' / 'broken.jpg').exists()
    check_complete([str(target / 'cat')])  # folders are read as they are

    put(source, {'cat/broken.jpg': encoded(drawn(9, 90, 90))})  # repaired
    with pytest.raises(SystemExit) as ended:
        run_tool('resize_dataset', source, target, '--short-side', 32, '--jobs', 1)
    assert ended.value.code == 0
    assert '7 kept, 1 resized' in capsys.readouterr().out
    assert not (target / DAMAGED).exists()


@pytest.mark.parametrize(
    'content', [KINDS['gray'] + b'\0\0more', KINDS['webp']], ids=['tail', 'webp']
)
def test_what_follows_an_image_does_no_harm(content):
    assert decoded(content).shape[:2] == (40, 50)


def imagenet(root):
    """ImageNet in mmpretrain's other layout, with lists."""
    images = {
        f'{split}/{split}_{i}.JPEG': encoded(drawn(i, 50, 60))
        for split in ('train', 'val')
        for i in range(3)
    }
    lists = {
        f'meta/{split}.txt': ''.join(f'{split}_{i}.JPEG {i}\n' for i in range(3))
        for split in ('train', 'val')
    }
    return put(root, images | lists)


def test_imagenet_is_read_from_a_copy_as_from_the_source(tmp_path):
    copy_resized(imagenet(tmp_path / 'a'), tmp_path / 'b', **OPTIONS)
    for split in ('train', 'val'):
        a, b = (
            ImageNet(str(tmp_path / name), split, pipeline=[dict(type='LoadImageFromFile')])
            for name in 'ab'
        )
        assert len(a) == len(b) == 3
        for one, other in zip(a, b):
            assert Path(one['img_path']).name == Path(other['img_path']).name
            assert one['gt_label'] == other['gt_label']
            assert other['img'].shape == (32, 38, 3)


def test_a_list_that_names_a_damaged_image_leaves_the_copy_incomplete(tmp_path, capsys):
    source, target = imagenet(tmp_path / 'a'), tmp_path / 'b'
    put(source, {'train/train_1.JPEG': b'broken'})
    with pytest.raises(SystemExit):
        run_tool('resize_dataset', source, target, '--short-side', 32, '--jobs', 1)
    assert 'meta/train.txt:2' in capsys.readouterr().out
    dataset = ImageNet(str(target), 'train')
    with pytest.raises(ValueError, match=r'meta/train\.txt:2 names a damaged image; repair it'):
        check_complete(folders_of(dataset))

    lines = (target / 'meta' / 'train.txt').read_text().splitlines(keepends=True)
    (target / 'meta' / 'train.txt').write_text(lines[0] + lines[2])
    _, damaged, _ = copy_resized(source, target, **OPTIONS)
    assert len(damaged) == 1 and (target / 'meta' / 'train.txt').read_text().count('\n') == 2
    check_complete(folders_of(dataset))


class Killed(BaseException):
    """As by a signal."""


@pytest.mark.parametrize('after', [0, 1, 4])
def test_a_copy_that_was_stopped_goes_on(after, source, tmp_path, monkeypatch):
    whole, target = tmp_path / 'whole', tmp_path / 'small'
    copy_resized(source, whole, **OPTIONS)
    plain, calls = resized_files.shrunk, []

    def stops(*args):
        calls.append(args)
        if len(calls) > after:
            raise Killed
        return plain(*args)

    monkeypatch.setattr(resized_files, 'shrunk', stops)
    with pytest.raises(Killed):
        copy_resized(source, target, **OPTIONS)
    assert read_record(target)['complete'] is False
    with pytest.raises(ValueError, match=r'small is a resized data set .*: finish it'):
        check_complete([str(target / 'cat' / 'deep')])
    monkeypatch.setattr(resized_files, 'shrunk', plain)
    counts, _, _ = copy_resized(source, target, **OPTIONS)
    assert counts['kept'] == after
    a, b = tree(whole), tree(target)
    assert a.pop(RECORD) and b.pop(RECORD) and a == b


def test_a_user_who_stops_it_is_told_that_it_goes_on(source, tmp_path, monkeypatch, capsys):
    def stops(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(resized_files, 'shrunk', stops)
    with pytest.raises(SystemExit) as ended:
        run_tool('resize_dataset', source, tmp_path / 'small', '--jobs', 1)
    assert ended.value.code == 130
    assert 'stopped; the same command goes on' in capsys.readouterr().out


def test_a_file_appears_whole_or_not_at_all(source, tmp_path, monkeypatch):
    target = tmp_path / 'small'

    def full(path, content):
        if path.suffix != '.json':
            Path(f'{path}.partial').write_bytes(content[:10])
            raise OSError(28, 'No space left on device')
        path.write_text(content)

    monkeypatch.setattr(resized_files, 'write_whole', full)
    with pytest.raises(OSError, match='No space left'):
        copy_resized(source, target, **OPTIONS)
    monkeypatch.undo()
    copy_resized(source, target, **OPTIONS)
    assert not list(target.rglob('*.partial'))


def test_several_processes_make_the_same(source, tmp_path):
    made = []
    for jobs in (1, 2):
        copy_resized(source, tmp_path / str(jobs), 32, 90, jobs)
        made.append(tree(tmp_path / str(jobs)))
    assert made[0] == made[1]


def test_links_are_followed_but_not_in_circles(source, tmp_path):
    linked = tmp_path / 'linked'
    linked.mkdir()
    (linked / 'photos').symlink_to(source)
    (source / 'again').symlink_to(linked)
    counts, _, _ = copy_resized(linked, tmp_path / 'small', **OPTIONS)
    assert counts == dict(resized=5, copied=2)


@pytest.mark.parametrize(
    'target, files, message',
    [
        ('photos', {}, 'must lie side by side, neither within the other'),
        ('photos/small', {}, 'must lie side by side'),
        ('', {}, 'must lie side by side'),
        ('link', {}, 'must lie side by side'),
        ('other', {'x.jpg': b''}, 'other has files that were not made here'),
        ('other', {RECORD: '[]', 'x.jpg': b''}, 'other has files that were not made here'),
        ('other', {RECORD: '{"complete": true}'}, 'was begun with .* give another folder'),
        ('file', {}, 'file is a file; give a folder'),
    ],
)
def test_nothing_is_overwritten(target, files, message, source, tmp_path):
    (tmp_path / 'link').symlink_to(source / 'cat')
    (tmp_path / 'file').write_text('mine')
    target = tmp_path / target
    put(target, files)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=message):
        copy_resized(source, target, **OPTIONS)
    assert tree(tmp_path) == before


def test_other_options_need_another_folder(source, tmp_path):
    copy_resized(source, tmp_path / 'small', **OPTIONS)
    with pytest.raises(ValueError, match=r"'short_side': 32.*not.*'short_side': 48"):
        copy_resized(source, tmp_path / 'small', 48, 90, 1)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere', 'new'], 'nowhere is no folder; give the folder of a data set'),
        (['.', 'new', '--short-side', 0], '--short-side 0 must be 1 or more'),
        (['.', 'new', '--quality', 101], '--quality 101 must be 1 to 100'),
        (['.', 'new', '--jobs', 0], '--jobs 0 must be 1 or more'),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_tool('resize_dataset', *arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_training_on_an_incomplete_copy_is_refused(source, tmp_path):
    """Before anything is read, also where only a part of the copy is the data."""
    target = tmp_path / 'small'
    copy_resized(source, target, **OPTIONS)
    record = read_record(target)
    (target / RECORD).write_text(json.dumps({**record, 'complete': False}))
    dataset = dict(_delete_=True, type='CustomDataset', data_root=str(target), pipeline=[])
    runner = runs.build(tmp_path / 'run', **{'train_dataloader.dataset': dataset})
    with pytest.raises(ValueError, match=f'small is a resized data set that is not .*{source}'):
        runner.train()


def test_folders_of_wrapped_data(source):
    (source / 'film.mp4').unlink()
    parts = [CustomDataset(data_root=str(root), with_label=False) for root in source.iterdir()]
    for data in (
        ConcatDataset(parts),
        SimpleNamespace(datasets=[RepeatDataset(parts[0], 2), parts[1]]),
    ):
        assert {Path(folder) for folder in folders_of(data)} == {*source.iterdir()}
    assert [*folders_of(None)] == [*folders_of(runs.TinyDataset())] == []


@pytest.mark.parametrize(
    'name, text, missed',
    [
        ('train.json', '{"data_list": [{"img_path": "a/1.jpg", "gt_label": 0}]}', True),
        ('images.txt', '1 train/a/1.jpg', True),
        ('train.csv', 'file,label\na/1.jpg,0', True),
        ('val.txt', '1.jpg 0', False),  # which is there
        ('other.txt', 'aa/1.jpg 0\na/11.jpg 1', False),
    ],
)
def test_annotations_that_name_a_damaged_image(tmp_path, name, text, missed):
    """In words of any list; not the same name of an image that is there."""
    for path in ('val/1.jpg', 'meta/x'):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / 'meta' / name).write_text(text)
    found = named_in(tmp_path, [Path('meta') / name], [Path('train/a/1.jpg')])
    lines = text.splitlines()
    assert found == ([f'meta/{name}:{len(lines)}'] if missed else [])
