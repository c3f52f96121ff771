# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Draws emoji in five styles, as an image folder: who drew it is to be told from the details.

A class is a style. The objects in ``val`` are of other kinds than those in ``train``::

    OUT/train/<style>/<code points>.png ... OUT/val/<style>/<code points>.png

Objects are what OpenMoji lists and every style draws, but for flags and signs. Of skin tones, women
and men, which are near copies, there is one. OpenMoji's subgroups whose names share the first word,
such as animal-bird and animal-bug, are one family; a quarter of the objects, in whole families, is
held out. Each style draws all of these for ``val``, and 288 of the others for ``train``. A drawing
fills 62 of 64 pixels, on white.

``--packages`` fetches the sources with npm and apt, and checks them against the check sums of
pictogram_sources.txt. Their licenses: Twemoji, graphics CC BY 4.0; OpenMoji, CC BY-SA 4.0; Fluent
Emoji, flat and modern, MIT; Noto Color Emoji, SIL Open Font License 1.1.
"""

import argparse
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFont, features

SIDE, FIGURE = 64, 62  # pixels
DRAWN = 128  # pixels of a drawing before it is made small, which smooths it
NOTO_SIZE = 109  # the only size that Noto's bitmaps have
IMAGES = 288  # of each style to train
HELD_OUT = 0.25  # of the objects, at least
LEFT_OUT = ('component', 'flags', 'symbols', 'extras-')  # how names of groups begin
TONES = ('1F3FB', '1F3FC', '1F3FD', '1F3FE', '1F3FF')
PERSON, WOMAN_OR_MAN, SIGNS = '1F9D1', ('1F469', '1F468'), ('2640', '2642')
JOINER, PRESENTATION = '200D', 'FE0F'
APOSTROPHE = '\u2019'  # of OpenMoji's names; Fluent's have none
NPM = ('@twemoji/svg@15.0.0', 'openmoji@17.0.0', 'fluentui-emoji@1.3.0')
DEBIAN = 'fonts-noto-color-emoji'
SOURCES = Path(__file__).with_name('pictogram_sources.txt')


@dataclass(frozen=True)
class Emoji:
    """An entry of OpenMoji's list.

    Attributes:
        points: Its code points in hexadecimal.
        text: The same as text.
        name: What it shows.
        family: The first word of its subgroup.
    """

    points: tuple[str, ...]
    text: str
    name: str
    family: str

    @property
    def object(self) -> tuple[str, ...]:
        """Code points that women, men and persons share who are or do the same."""
        first, *rest = (point for point in self.points if point != PRESENTATION)
        if rest[-2:-1] == [JOINER] and rest[-1] in SIGNS:
            rest = rest[:-2]
        return (PERSON if rest and first in WOMAN_OR_MAN else first, *rest)


Draw = Callable[[], Image.Image]
Style = Callable[[Emoji], Draw | None]  # how it draws an emoji; None if it has no such emoji


def listed(openmoji: Path) -> list[Emoji]:
    """The emojis of OpenMoji's list that are no flags, signs or skin tones."""
    entries = json.loads((openmoji / 'data' / 'openmoji.json').read_text(encoding='utf-8'))
    emojis = [
        Emoji(
            tuple(each['hexcode'].split('-')),
            each['emoji'],
            each['annotation'],
            each['subgroups'].partition('-')[0],
        )
        for each in entries
        if not each['group'].startswith(LEFT_OUT)
    ]
    return [emoji for emoji in emojis if not set(TONES) & set(emoji.points)]


def vector_file(style: str, emoji: Emoji, sources: Path) -> Path | None:
    """Where a style keeps an emoji as SVG; None if it has no such emoji."""
    if style == 'openmoji':
        folder, names = sources / 'openmoji' / 'color' / 'svg', ['-'.join(emoji.points)]
    elif style == 'twemoji':
        folder = sources / 'twemoji-svg'
        bare = [point for point in emoji.points if point != PRESENTATION]
        names = ['-'.join(points).lower() for points in (emoji.points, bare)]
    else:
        folder = sources / 'fluentui-emoji' / 'icons' / style.removeprefix('fluent-')
        name = re.sub('[^a-z0-9]+', '-', emoji.name.lower().replace(APOSTROPHE, '')).strip('-')
        names = [name, f'{name}-default', f'person-{name}-default']
    files = (folder / f'{name}.svg' for name in names)
    return next((file for file in files if file.is_file()), None)


def vector_style(style: str, sources: Path) -> Style:
    """A style whose emojis are kept as SVG."""

    def draw(file: Path) -> Image.Image:
        # Without fonts, so that no drawing depends on what is installed.
        png = resvg_py.svg_to_bytes(
            svg_path=str(file), width=DRAWN, height=DRAWN, skip_system_fonts=True
        )
        return Image.open(io.BytesIO(png))

    def of(emoji: Emoji) -> Draw | None:
        file = vector_file(style, emoji, sources)
        return partial(draw, file) if file else None

    return of


def font_style(file: Path) -> Style:
    """A style whose emojis are a typeface in color."""
    font = ImageFont.truetype(str(file), NOTO_SIZE, layout_engine=ImageFont.Layout.RAQM)

    def draw(emoji: Emoji) -> Image.Image:
        image = Image.new('RGBA', (2 * NOTO_SIZE, 2 * NOTO_SIZE))
        ImageDraw.Draw(image).text((0, 0), emoji.text, font=font, embedded_color=True)
        return image

    def of(emoji: Emoji) -> Draw | None:
        # A text that is wider has no glyph of its own: its parts would stand in a row.
        one = font.getlength(emoji.text) == font.getlength(emoji.text[0])
        return partial(draw, emoji) if one else None

    return of


def styles_of(sources: Path) -> dict[str, Style]:
    """The styles by name."""
    names = ('openmoji', 'twemoji', 'fluent-flat', 'fluent-modern')
    fonts = sorted((sources / DEBIAN).rglob('NotoColorEmoji.ttf'))
    if not fonts:
        raise FileNotFoundError(f'{sources / DEBIAN} has no NotoColorEmoji.ttf')
    return {name: vector_style(name, sources) for name in names} | {'noto': font_style(fonts[0])}


def split(emojis: list[Emoji], styles: dict[str, Style]) -> tuple[list[Emoji], list[Emoji]]:
    """The objects that all styles draw, one emoji of each: to train, and to validate."""
    objects: dict[tuple[str, ...], Emoji] = {}
    for emoji in emojis:
        if emoji.object not in objects and all(of(emoji) for of in styles.values()):
            objects[emoji.object] = emoji
    families = sorted({emoji.family for emoji in objects.values()})
    random.Random(0).shuffle(families)
    train, val = list(objects.values()), []
    while families and len(val) < HELD_OUT * len(objects):
        family = families.pop()
        val += [emoji for emoji in train if emoji.family == family]
        train = [emoji for emoji in train if emoji.family != family]
    return train, val


def fitted(drawing: Image.Image) -> np.ndarray:
    """A drawing on white, as large as the image allows, as BGR."""
    ink = drawing.getchannel('A').point(lambda alpha: 255 * (alpha > 8)).getbbox()
    pixels = np.asarray(drawing.crop(ink), np.float32)
    alpha = pixels[..., 3:] / 255
    pixels = pixels[..., 2::-1] * alpha + 255 * (1 - alpha)
    scale = FIGURE / max(pixels.shape[:2])
    height, width = (max(1, round(scale * n)) for n in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    y, x = (SIDE - height) // 2, (SIDE - width) // 2
    image[y : y + height, x : x + width] = small.round()
    return image


def fetch(folder: Path) -> None:
    """Unpacks the sources into a folder for each, if they are what they should be."""
    npm = ['npm', 'pack', '--silent', *NPM]
    for command in (npm, ['apt-get', 'download', '-q', DEBIAN]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for line in SOURCES.read_text().splitlines():
        expected, name = line.split()
        archive = folder / name
        if not archive.is_file():
            raise ValueError(f'{name} was not fetched, but {[f.name for f in folder.iterdir()]}')
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f'{name} has check sum {found}, not {expected} as in {SOURCES.name}')
        unpack(archive)


def unpack(archive: Path) -> None:
    """Unpacks an archive next to it, into a folder named after the package."""
    if archive.suffix == '.deb':
        folder = archive.with_name(archive.name.partition('_')[0])
        subprocess.run(['dpkg', '-x', archive, folder], check=True)
        return
    with tempfile.TemporaryDirectory(dir=archive.parent) as place:
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter='data')
        (Path(place) / 'package').rename(archive.with_name(archive.stem.rpartition('-')[0]))


def write(sources: Path, out: Path) -> str:
    """Writes the image folder; a check sum of all of its pixels."""
    styles = styles_of(sources)
    train, val = split(listed(sources / 'openmoji'), styles)
    check = hashlib.sha256()
    for style, of in styles.items():
        drawn = random.Random(style).sample(train, min(IMAGES, len(train)))
        for part, emojis in dict(train=drawn, val=val).items():
            folder = out / part / style
            folder.mkdir(parents=True)
            for emoji in emojis:
                image = fitted(of(emoji)())
                cv2.imwrite(str(folder / f'{"-".join(emoji.points)}.png'), image)
                check.update(image.tobytes())
    return check.hexdigest()[:16]


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write, for example data/pictograms')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--packages', action='store_true', help=f'fetch the packages of {SOURCES.name}'
    )
    source.add_argument('--sources', type=Path, help='a folder with a folder for each package')
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists; remove it, or give another folder')
    if not features.check('raqm'):
        parser.error('Pillow lacks raqm, which joins code points; the wheels of Pillow have it')
    with tempfile.TemporaryDirectory() as folder:
        sources = args.sources or Path(folder)
        partial_out = args.out.with_name(args.out.name + '.partial')
        shutil.rmtree(partial_out, ignore_errors=True)  # of a call that was broken off
        try:
            if args.packages:
                fetch(sources)
            check = write(sources, partial_out)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            parser.error(f'{error}; --packages needs npm and Debian 12, elsewhere give --sources')
    counts = {split: len(list(partial_out.glob(f'{split}/*/*.png'))) for split in ('train', 'val')}
    if not all(counts.values()):
        parser.error('the styles draw too few objects alike, or of one family only')
    partial_out.rename(args.out)
    print(
        f'wrote {counts["train"]} pictograms to {args.out}/train and {counts["val"]} to '
        f'{args.out}/val, check sum {check}'
    )


if __name__ == '__main__':
    main()
