# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/make_letters.py, with the typefaces that matplotlib carries."""

import shutil
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont

from .support.tools import tool

FONTS = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
STIX = ('STIXGeneral', 'STIXGeneralBol', 'STIXGeneralItalic')
PACKAGES = {
    'a': ['DejaVuSans-Bold'],
    'b': ['DejaVuSerif', 'DejaVuSerif-Bold'],  # of one group with a
    'c': ['cmr10'],
    'd': ['cmss10'],
    'e': ['cmtt10'],
    'f': [*STIX],
    'symbols': ['STIXSizOneSymReg'],
}


@pytest.fixture(scope='module')
def fonts(tmp_path_factory):
    """Five groups with letters, one of symbols only, a damaged file, one font under two names."""
    folder = tmp_path_factory.mktemp('fonts')
    for package, names in PACKAGES.items():
        (folder / package).mkdir()
        for name in names:
            shutil.copy(FONTS / f'{name}.ttf', folder / package)
    with TTFont(FONTS / 'DejaVuSans-Bold.ttf') as font:
        for record in font['name'].names:
            font['name'].setName('Other', *record_place(record))
        font.save(folder / 'f' / 'DejaVuSans-Bold.ttf')
    (folder / 'damaged').mkdir()
    (folder / 'damaged' / 'a.ttf').write_bytes(b'no font')
    return folder


def record_place(record):
    return record.nameID, record.platformID, record.platEncID, record.langID


@pytest.fixture(scope='module')
def letters(fonts, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'letters'
    printed = tool('make_letters', out, '--fonts', fonts, cwd=out.parent)
    return out, printed


def test_every_letter_of_every_typeface(letters):
    """One typeface of a package to train; of the fifth group three, and none that trains."""
    out, printed = letters
    assert printed.startswith(f'wrote {5 * 26} letters to {out}/train and {3 * 26} to {out}/val')
    for split, typefaces in (('train', 5), ('val', 3)):
        folders = sorted((out / split).iterdir())
        assert [f.name for f in folders] == [chr(n) for n in range(ord('A'), ord('Z') + 1)]
        assert all(len(list(f.glob('*.png'))) == typefaces for f in folders)
    names = [f.stem for f in sorted(out.glob('*/Q/*'))]
    assert names[0] == 'a-DejaVuSans-Bold' and names[1].startswith('b-DejaVuSerif')
    assert names[2:] == ['c-cmr10', 'd-cmss10', 'e-cmtt10', *(f'f-{name}' for name in STIX)]


def test_no_image_is_in_both_splits(letters):
    out, _ = letters
    train, val = ({f.read_bytes() for f in out.glob(f'{split}/*/*')} for split in ('train', 'val'))
    assert not train & val


def test_letters_fill_their_image(letters):
    out, _ = letters
    for file in out.glob('*/*/*.png'):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert image.shape == (28, 28)
        rows, columns = np.nonzero(image)
        sides = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert max(sides) in (23, 24)
        assert image.max() > 128


def test_letters_are_what_they_are_called(letters):
    """An I is narrow, an M without serifs fills its square, an O is hollow."""
    out, _ = letters
    image = {
        name: cv2.imread(str(out / 'train' / name / 'a-DejaVuSans-Bold.png'), 0) for name in 'IMO'
    }
    columns = {name: np.count_nonzero(i.max(0)) for name, i in image.items()}
    assert columns['I'] < 12 < 18 < columns['M']
    assert image['O'][12:16, 12:16].max() == 0


def test_the_same_fonts_give_the_same_letters(letters, fonts, tmp_path):
    out, printed = letters
    again = tool('make_letters', tmp_path / 'again', '--fonts', fonts, cwd=tmp_path)
    assert again.split()[-1] == printed.split()[-1]
    a, b = (sorted(p.relative_to(f) for p in f.glob('*/*/*')) for f in (out, tmp_path / 'again'))
    assert a == b


def test_wrong_arguments(letters, fonts, tmp_path):
    out, _ = letters
    make = dict(cwd=tmp_path, fails=True)
    assert f'{out} exists; remove it' in tool('make_letters', out, '--fonts', fonts, **make)
    assert '--fonts nowhere is no folder' in tool('make_letters', 'a', '--fonts', 'nowhere', **make)
    (tmp_path / 'few').mkdir()
    shutil.copytree(fonts / 'a', tmp_path / 'few' / 'a')
    error = tool('make_letters', 'a', '--fonts', tmp_path / 'few', **make)
    assert 'there are letters of fewer than 5 groups' in error
    assert 'one of the arguments --packages --fonts is required' in tool(
        'make_letters', 'a', **make
    )
    assert not (tmp_path / 'a').exists()
