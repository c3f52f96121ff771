# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Draws the letters A to Z in many typefaces, as an image folder: harder than digits.

Typefaces are those of Debian's packages, which ``--packages`` fetches with apt; or any others, in a
folder for each package. An upper-case and a lower-case letter are one class. Packages whose
families of typefaces share the first word of their names are one group; every fifth group becomes
``val``::

    OUT/train/A/<package>-<typeface>.png ... OUT/val/Z/<package>-<typeface>.png

A package gives one typeface to ``train``, or up to four to ``val``, and a typeface every letter
once, in a case that is drawn. The letter fills 24 of 28 pixels. Images of ``val`` that ``train``
has as well, of typefaces that live under several names, are left out.
"""

import argparse
import hashlib
import random
import shutil
import string
import subprocess
import tempfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

SIDE, LETTER = 28, 24  # pixels
DRAWN = 200  # pixels of a letter before it is made small, which smooths it
TYPEFACES = dict(train=1, val=4)  # at most, of a package
HELD_OUT = 5  # every so many groups
PACKAGES = Path(__file__).with_name('letter_packages.txt')


def font_files(package: Path) -> list[Path]:
    """The font files of a package, in an order drawn."""
    files = sorted(f for f in package.rglob('*') if f.suffix.lower() in ('.ttf', '.otf'))
    random.Random(package.name).shuffle(files)
    return files


def grouped(packages: list[Path]) -> list[list[Path]]:
    """Packages in groups, those together whose families share the first word of their names."""
    groups: list[tuple[set[str], list[Path]]] = []
    for package in packages:
        words = {family_word(file) for file in font_files(package)} - {None}
        if not words:
            continue
        same = [group for group in groups if group[0] & words]
        groups = [group for group in groups if not group[0] & words]
        members = [member for group in same for member in group[1]]
        groups.append((words.union(*(group[0] for group in same)), [*members, package]))
    return sorted(sorted(members) for _, members in groups)


def family_word(file: Path) -> str | None:
    """The first word of the name of a typeface's family; None of a file that is no font."""
    try:
        with TTFont(file, lazy=True) as font:
            name = font['name'].getBestFamilyName()
    except Exception:  # damaged and bitmap fonts, in as many ways as there are readers
        return None
    return name.split()[0].lower() if name and name.strip() else None


def draw(file: Path) -> dict[str, np.ndarray] | None:
    """An image of each letter, in a case drawn by the file's name; None if it lacks letters."""
    try:
        with TTFont(file, lazy=True) as font:
            known = font.getBestCmap() or {}
        if any(ord(letter) not in known for letter in string.ascii_letters):
            return None
        font = ImageFont.truetype(str(file), DRAWN)
    except Exception:  # damaged and bitmap fonts, in as many ways as there are readers
        return None
    case = random.Random(file.name)
    images = {}
    for letter in string.ascii_uppercase:
        letter_image = image_of(case.choice((letter, letter.lower())), font)
        if letter_image is None:
            return None
        images[letter] = letter_image
    distinct = {image.tobytes() for image in images.values()}
    return images if len(distinct) == len(images) else None  # else placeholders, not letters


def image_of(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """A letter, white on black, as large as the image allows; None if nothing is drawn."""
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left, bottom - top
    if min(width, height) < 1 or max(width, height) > 20 * DRAWN:
        return None
    large = Image.new('L', (width, height))
    ImageDraw.Draw(large).text((-left, -top), text, font=font, fill=255)
    ink = large.getbbox()
    if ink is None:
        return None
    large = large.crop(ink)
    scale = LETTER / max(large.size)
    size = tuple(max(1, round(scale * n)) for n in large.size)
    small = cv2.resize(np.asarray(large), size, interpolation=cv2.INTER_AREA)
    if small.max() < 128:
        return None
    image = np.zeros((SIDE, SIDE), np.uint8)
    y, x = ((SIDE - n) // 2 for n in small.shape)
    image[y : y + small.shape[0], x : x + small.shape[1]] = small
    return image


def fetch(folder: Path) -> None:
    """Unpacks Debian's packages into a folder for each; nothing is installed."""
    packages = PACKAGES.read_text().split()
    subprocess.run(['apt-get', 'download', '-q', *packages], cwd=folder, check=True)
    for archive in sorted(folder.glob('*.deb')):
        name = archive.name.partition('_')[0]
        subprocess.run(['dpkg', '-x', archive, folder / name], check=True)
        archive.unlink()


def write(packages: list[Path], out: Path) -> str:
    """Writes the image folder; a check sum of all of its pixels."""
    splits: dict[str, list[tuple[str, str, np.ndarray]]] = dict(train=[], val=[])
    number = 0  # of groups with letters, so that others do not change which are held out
    for group in grouped(packages):
        split = 'val' if number % HELD_OUT == HELD_OUT - 1 else 'train'
        before = len(splits[split])
        for package in group:
            drawn = ((file, draw(file)) for file in font_files(package))
            for file, letters in islice((d for d in drawn if d[1]), TYPEFACES[split]):
                name = f'{package.name}-{file.stem}'
                splits[split] += [(letter, name, image) for letter, image in letters.items()]
        number += len(splits[split]) > before
    seen = {image.tobytes() for _, _, image in splits['train']}
    splits['val'] = [each for each in splits['val'] if each[2].tobytes() not in seen]
    check = hashlib.sha256()
    for split, images in splits.items():
        for letter, name, image in images:
            path = out / split / letter / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
            check.update(image.tobytes())
    return check.hexdigest()[:16]


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write, for example data/letters')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--packages', action='store_true', help=f'fetch the Debian packages of {PACKAGES.name}'
    )
    source.add_argument('--fonts', type=Path, help='a folder with a folder for each package')
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists; remove it, or give another folder')
    if args.fonts and not args.fonts.is_dir():
        parser.error(f'--fonts {args.fonts} is no folder')
    with tempfile.TemporaryDirectory() as folder:
        fonts = args.fonts or Path(folder)
        if args.packages:
            try:
                fetch(fonts)
            except (OSError, subprocess.CalledProcessError) as error:
                parser.error(
                    f'{error}; --packages needs Debian 12 with its package lists (apt-get update), '
                    'elsewhere give --fonts'
                )
        partial = args.out.with_name(args.out.name + '.partial')
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was broken off
        check = write(sorted(f for f in fonts.iterdir() if f.is_dir()), partial)
    counts = {split: len(list(partial.glob(f'{split}/*/*.png'))) for split in ('train', 'val')}
    if not all(counts.values()):
        parser.error(f'there are letters of fewer than {HELD_OUT} groups of typefaces')
    partial.rename(args.out)
    print(
        f'wrote {counts["train"]} letters to {args.out}/train and {counts["val"]} to '
        f'{args.out}/val, check sum {check}'
    )


if __name__ == '__main__':
    main()
