# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/make_pictograms.py, with a few objects that are a bar in a style's color."""

import json

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from .support.tools import tool

# Code points, group, subgroup, name, and name in Fluent Emoji.
EMOJIS = [
    ('1F600', 'smileys-emotion', 'face-smiling', 'grinning face', 'grinning-face'),
    ('1F61B', 'smileys-emotion', 'face-tongue', 'face with tongue', 'face-with-tongue'),
    ('1F426', 'animals-nature', 'animal-bird', 'bird', 'bird'),
    ('1F41B', 'animals-nature', 'animal-bug', 'bug', 'bug'),
    ('1F45E', 'objects', 'clothing', 'man\u2019s shoe', 'mans-shoe'),
    ('1F9D1-200D-2696-FE0F', 'people-body', 'person-role', 'judge', 'judge-default'),
    # Left out: the same object, a skin tone, a flag, and what a style lacks.
    ('1F469-200D-2696-FE0F', 'people-body', 'person-role', 'woman judge', 'woman-judge-default'),
    ('1F44B-1F3FB', 'people-body', 'hand-open', 'hand: light skin tone', 'hand-light'),
    ('1F3C1', 'flags', 'flag', 'chequered flag', 'chequered-flag'),
    ('1F528', 'objects', 'tool', 'hammer', None),
]
KEPT = {points for points, *_ in EMOJIS[:6]}
FAMILY = {points: subgroup.split('-')[0] for points, _, subgroup, *_ in EMOJIS}
COLORS = {
    'openmoji': (200, 0, 0),
    'twemoji': (0, 200, 0),
    'fluent-flat': (0, 0, 200),
    'fluent-modern': (200, 200, 0),
    'noto': (0, 200, 200),
}


def bar(file, style):
    """A bar twice as wide as high, off the middle."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
        f'<rect x="4" y="8" width="40" height="20" fill="rgb{COLORS[style]}"/></svg>'
    )


def color_font(file):
    """A typeface with every code point, and judges of either kind as one glyph."""
    points = {int(p, 16) for each, *_ in EMOJIS for p in each.split('-')}
    names = {point: f'u{point:X}' for point in points}
    judges = {f'judge{p:X}': f'u{p:X} u200D u2696 uFE0F' for p in (0x1F9D1, 0x1F469)}
    pen = TTGlyphPen(None)
    for move, point in zip(
        (pen.moveTo, *[pen.lineTo] * 3), ((100, 500), (900, 500), (900, 100), (100, 100))
    ):
        move(point)
    pen.closePath()
    order = ['.notdef', 'bar', *names.values(), *judges]
    font = FontBuilder(1000)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys(order, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable(dict(familyName='Bars', styleName='Regular'))
    font.setupOS2()
    font.setupPost()
    font.setupCPAL([[tuple(v / 255 for v in (*COLORS['noto'], 255))]])
    font.setupCOLR({name: [('bar', 0)] for name in order[2:]})
    rules = ''.join(f'sub {parts} by {name};' for name, parts in judges.items())
    font.addOpenTypeFeatures(f'feature ccmp {{ {rules} }} ccmp;')
    file.parent.mkdir(parents=True)
    font.save(file)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sources')
    for points, *_, fluent in EMOJIS:
        bar(folder / 'openmoji' / 'color' / 'svg' / f'{points}.svg', 'openmoji')
        bar(folder / 'twemoji-svg' / f'{points.lower().replace("-fe0f", "")}.svg', 'twemoji')
        for style in ('flat', 'modern') if fluent else ():
            file = folder / 'fluentui-emoji' / 'icons' / style / f'{fluent}.svg'
            bar(file, f'fluent-{style}')
    color_font(folder / 'fonts-noto-color-emoji' / 'usr' / 'NotoColorEmoji.ttf')
    entries = [
        dict(
            hexcode=points,
            emoji=''.join(chr(int(point, 16)) for point in points.split('-')),
            group=group,
            subgroups=subgroup,
            annotation=name,
        )
        for points, group, subgroup, name, _ in EMOJIS
    ]
    (folder / 'openmoji' / 'data').mkdir()
    (folder / 'openmoji' / 'data' / 'openmoji.json').write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope='module')
def pictograms(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'pictograms'
    return out, tool('make_pictograms', out, '--sources', sources, cwd=out.parent)


def test_families_are_on_one_side(pictograms):
    """Every style draws the same objects, each of which all styles have, once."""
    out, printed = pictograms
    drawn = {}
    for part in ('train', 'val'):
        folders = {f.name: {file.stem for file in f.glob('*.png')} for f in (out / part).iterdir()}
        assert set(folders) == set(COLORS)
        drawn[part] = folders['noto']
        assert all(objects == drawn[part] for objects in folders.values())
    assert drawn['train'] | drawn['val'] == KEPT
    assert len(drawn['val']) >= len(KEPT) / 4
    train, val = ({FAMILY[each] for each in drawn[part]} for part in ('train', 'val'))
    assert train and val and not train & val
    counts = [5 * len(drawn[part]) for part in ('train', 'val')]
    assert printed.startswith(
        f'wrote {counts[0]} pictograms to {out}/train and {counts[1]} to {out}/val, check sum '
    )


def test_drawings_fill_their_image_in_the_colors_of_their_style(pictograms):
    out, _ = pictograms
    files = list(out.glob('*/*/*.png'))
    assert len(files) == 5 * len(KEPT)
    for file in files:
        image = cv2.imread(str(file))[..., ::-1]
        assert image.shape == (64, 64, 3)
        rows, columns = np.nonzero((image < 255).any(2))
        assert np.ptp(columns) + 1 == 62 and 31 <= np.ptp(rows) + 1 <= 32
        assert tuple(image[32, 32]) == COLORS[file.parent.name]
        assert (image[[0, 12, -1]] == 255).all()


def test_the_same_sources_give_the_same_files(pictograms, sources, tmp_path):
    out, printed = pictograms
    again = tmp_path / 'again'
    text = tool('make_pictograms', again, '--sources', sources, cwd=tmp_path)
    assert text.split()[-1] == printed.split()[-1]
    one, two = (
        {file.relative_to(f): file.read_bytes() for file in f.glob('*/*/*')} for f in (out, again)
    )
    assert one == two


def test_wrong_arguments(pictograms, sources, tmp_path):
    out, _ = pictograms
    make = dict(cwd=tmp_path, fails=True)
    error = tool('make_pictograms', out, '--sources', sources, **make)
    assert f'{out} exists; remove it' in error
    error = tool('make_pictograms', 'a', '--sources', tmp_path, **make)
    assert 'has no NotoColorEmoji.ttf' in error and len(error.splitlines()[-1]) < 300
    error = tool('make_pictograms', 'a', **make)
    assert 'one of the arguments --packages --sources is required' in error
    assert not (tmp_path / 'a').exists()


def test_other_archives_are_refused(tmp_path, monkeypatch):
    """In place of npm and apt there are commands that fetch something else."""
    names = (
        'fluentui-emoji-1.3.0.tgz',
        'fonts-noto-color-emoji_2.042-0+deb12u1_all.deb',
        'openmoji-17.0.0.tgz',
        'twemoji-svg-15.0.0.tgz',
    )
    commands = tmp_path / 'bin'
    commands.mkdir()
    for name in ('npm', 'apt-get'):
        (commands / name).write_text('#!/bin/sh\n' + ''.join(f'echo x > "{n}"\n' for n in names))
        (commands / name).chmod(0o755)
    monkeypatch.setenv('PATH', str(commands))
    error = tool('make_pictograms', 'a', '--packages', cwd=tmp_path, fails=True)
    assert 'fluentui-emoji-1.3.0.tgz has check sum 73cb3858a687a8494ca33230' in error
    assert 'not ec892e607e854859' in error
    assert not (tmp_path / 'a').exists()
