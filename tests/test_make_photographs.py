# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/make_photographs.py, on noise and drawings in place of photographs."""

import hashlib
import importlib.util
import random
import re

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from .support.tools import ROOT, tool

SPEC = importlib.util.spec_from_file_location('photographs', ROOT / 'tools/make_photographs.py')
photographs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(photographs)
SHAPES = {'noise': (800, 960), 'squares': (640, 1290)}  # rows, columns
SIDES = {'train': 80, 'val': 64}
SKY = 480  # the first columns of the noise are flat, and ten more


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Noise whose first half is flat, and a chessboard with fields of three pixels, in color."""
    folder = tmp_path_factory.mktemp('photographs')
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPES['noise'], 3), np.uint8)
    noise[:, : SKY + 10] = 200
    rows, columns = np.indices(SHAPES['squares']) // 3
    squares = np.where((rows + columns) % 2, 90, 60).astype(np.uint8)
    cv2.imwrite(str(folder / 'noise.png'), noise)
    cv2.imwrite(str(folder / 'squares.png'), squares)
    return folder


@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'photographs'
    return out, tool('make_photographs', out, '--photographs', folder, cwd=out.parent)


def windows(out, split, name):
    """Row, column and side of each image in its photograph."""
    places = [file.stem.split('-') for file in (out / split / name).iterdir()]
    return [(int(row), int(column), SIDES[split]) for row, column in places]


def test_each_split_has_a_class_a_photograph(made):
    """Of 8 x 4 blocks a third is held out, eleven; at most 64 and 44 images are cut from them.

    Of the noise only blocks without the flat half count, which is three blocks wide.
    """
    out, printed = made
    counts = {
        (split, name): len(list((out / split / name).iterdir()))
        for split in ('train', 'val')
        for name in SHAPES
    }
    assert counts['train', 'squares'] == 4 * 21 and counts['val', 'squares'] == 4 * 11
    train, val = (counts[split, 'noise'] for split in ('train', 'val'))
    assert train + val == 4 * 5 * 3
    assert printed.startswith(
        f'wrote {train + 84} images to {out}/train and {val + 44} to {out}/val, check sum '
    )
    for split in SIDES:
        assert all(column >= SKY for _, column, _ in windows(out, split, 'noise'))


def test_what_is_held_out_is_apart(made):
    """No image of val comes nearer than 16 pixels to one of train."""
    out, _ = made
    for name in SHAPES:
        for row, column, side in windows(out, 'val', name):
            for other_row, other_column, other in windows(out, 'train', name):
                down = max(other_row - row - side, row - other_row - other)
                across = max(other_column - column - side, column - other_column - other)
                assert max(down, across) >= 16


def test_images_are_cuts_of_the_photograph(made, folder):
    """In gray, with a mean of 128 and a deviation of 50, and else as the photograph."""
    out, _ = made
    image = cv2.cvtColor(cv2.imread(str(folder / 'squares.png')), cv2.COLOR_BGR2GRAY)
    for split in SIDES:
        for row, column, side in windows(out, split, 'squares'):
            found = cv2.imread(str(out / split / 'squares' / f'{row:04}-{column:04}.png'), -1)
            expected = image[row : row + side, column : column + side].astype(float)
            assert found.shape == (side, side)
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999
            assert abs(found.mean() - 128) < 1 and abs(found.std() - 50) < 1


def test_photographs_are_made_small(tmp_path):
    """2.4 million pixels at most, in the same shape; smaller ones stay as they are."""
    for size, small in (((3000, 3200), (1500, 1600)), ((300, 500), (300, 500))):
        cv2.imwrite(str(tmp_path / 'a.png'), np.full(size, 7, np.uint8))
        image = photographs.gray(tmp_path / 'a.png')
        assert image.shape == small and (image == 7).all()


def test_detail_is_what_half_the_size_loses():
    """All of a chessboard of single pixels; nothing of even gray; little of a slow wave."""
    rows, columns = np.indices((64, 64))
    chess = np.where((rows + columns) % 2, 100, 0).astype(np.float32)
    assert photographs.lost_at_half(chess).std() == pytest.approx(50, rel=1e-3)
    assert photographs.lost_at_half(np.full((64, 64), 9, np.float32)).std() == 0
    wave = (50 * np.sin(columns / 10)).astype(np.float32)
    assert photographs.lost_at_half(wave)[:, 4:-4].std() < 0.5


def test_twice_the_same(made, folder, tmp_path):
    out, printed = made
    again = tool('make_photographs', tmp_path / 'again', '--photographs', folder, cwd=tmp_path)
    assert again.split()[-1] == printed.split()[-1]
    a, b = (
        {f.relative_to(o): f.read_bytes() for f in o.glob('*/*/*')}
        for o in (out, tmp_path / 'again')
    )
    assert a == b


def test_listed_files_are_verified(tmp_path):
    """By their check sums; one that is missing or another is refused, with its place."""
    (tmp_path / 'package').mkdir()
    file = tmp_path / 'package' / 'a.jpg'
    file.write_bytes(b'as listed')
    check = hashlib.sha256(b'as listed').hexdigest()
    (tmp_path / 'list').write_text(f'# versions\nlake {check} CC0-1.0 package/a.jpg\n')
    photograph = photographs.listed(tmp_path / 'list')
    assert photograph == [('lake', check, 'CC0-1.0', 'package/a.jpg')]
    assert photographs.verified(photograph, tmp_path) == {'lake': file}
    file.write_bytes(b'another')
    with pytest.raises(ValueError, match=f'a.jpg has the check sum ........*, not {check[:16]}'):
        photographs.verified(photograph, tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r'package/a\.jpg is missing'):
        photographs.verified(photograph, tmp_path)


def test_the_list_has_the_classes_of_the_config():
    """As many as the head has, of different names and files, each with a license."""
    listed = photographs.listed(photographs.LIST)
    config = Config.fromfile(ROOT / 'configs/compare/deit-photographs.py')
    assert len(listed) == config.model.head.num_classes
    for column in ('name', 'check', 'place'):
        assert len({getattr(each, column) for each in listed}) == len(listed)
    assert all(re.fullmatch('[0-9a-f]{64}', each.check) for each in listed)
    licenses = {'CC-BY-4.0', 'CC-BY-SA-3.0', 'CC-BY-SA-4.0', 'GFDL-1.2+', 'GPL-2+', 'LGPL-3'}
    assert {each.license for each in listed} <= licenses | {'public-domain'}


def test_blocks_are_drawn_by_the_name():
    image = np.zeros((800, 800), np.float32)
    drawn = [list(photographs.places(image, random.Random(name))) for name in ('a', 'a', 'b')]
    assert drawn[0] == drawn[1] != drawn[2]


def test_wrong_arguments(made, folder, tmp_path):
    out, _ = made
    make = dict(cwd=tmp_path, fails=True)
    assert f'{out} exists; remove it' in tool(
        'make_photographs', out, '--photographs', folder, **make
    )
    cv2.imwrite(str(tmp_path / 'sky.png'), np.full((800, 800), 7, np.uint8))
    for files, message in (
        ([], 'has no files; give a folder of photographs'),
        (['sky.png'], 'sky.png gives 0 images with detail to train, needs 32'),
        (['text.png'], 'text.png is no image that OpenCV reads'),
        (['sky.png', 'sky.jpg'], 'has several files called sky; rename all but one'),
    ):
        given = tmp_path / 'given'
        given.mkdir(exist_ok=True)
        for name in files:
            data = (tmp_path / 'sky.png').read_bytes() if name == 'sky.png' else b'no image'
            (given / name).write_bytes(data)
        error = tool('make_photographs', 'a', '--photographs', given, **make)
        assert message in error
        for name in files:
            (given / name).unlink()
    assert not list(tmp_path.glob('a*'))
