# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Cuts small gray images from photographs, to be assigned to the photograph: detail decides.

Photographs are those of Debian's packages that ``photographs.txt`` lists with their licenses and
check sums, which ``--packages`` fetches with apt; or any others, in a folder. Each is a class::

    OUT/train/<photograph>/<row>-<column>.png ... OUT/val/<photograph>/<row>-<column>.png

A photograph is made as small as 2.4 million pixels and divided into blocks of 160 x 160. A third of
its blocks, drawn by its name, are held out. A block to train gives four tiles of 80 pixels, for
random crops of 64; a block held out four crops of 64, which are 16 pixels from other blocks.
Images without detail, such as skies, are left out. Images have no color, and the same mean and
contrast, so that only what is drawn in them tells where they are from.
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

AREA = 2.4e6  # pixels of a photograph, at most
BLOCK, TILE, CROP = 160, 80, 64  # sides in pixels
HELD_OUT = 1 / 3  # of the blocks of a photograph
DETAIL = 1.5  # of 255: how much half the size loses, as a standard deviation
MOST = dict(train=100, val=96)  # images of a photograph
FEWEST = dict(train=32, val=16)
MEAN, CONTRAST = 128, 50  # of an image; the contrast is the standard deviation
LIST = Path(__file__).with_name('photographs.txt')


class Photograph(NamedTuple):
    """A line of ``photographs.txt``: a name, and the file's SHA-256, license and place.

    The place is that in a folder with a folder for each package.
    """

    name: str
    check: str
    license: str
    place: str


def listed(file: Path) -> list[Photograph]:
    """The photographs of a list; lines that begin with # are comments."""
    lines = [line for line in file.read_text().splitlines() if line and line[0] != '#']
    return [Photograph(*line.split()) for line in lines]


def verified(photographs: list[Photograph], folder: Path) -> dict[str, Path]:
    """The files of photographs by name; ValueError if one is missing or another."""
    for photograph in photographs:
        file = folder / photograph.place
        if not file.is_file():
            raise ValueError(f'{photograph.place} is missing; {LIST.name} names the versions')
        check = hashlib.sha256(file.read_bytes()).hexdigest()
        if check != photograph.check:
            raise ValueError(
                f'{photograph.place} has the check sum {check[:16]}, not {photograph.check[:16]}; '
                f'{LIST.name} names the versions of the packages'
            )
    return {photograph.name: folder / photograph.place for photograph in photographs}


def fetch(photographs: list[Photograph], folder: Path) -> None:
    """Unpacks Debian's packages into a folder for each; nothing is installed."""
    packages = sorted({photograph.place.partition('/')[0] for photograph in photographs})
    subprocess.run(['apt-get', 'download', '-q', *packages], cwd=folder, check=True)
    for archive in sorted(folder.glob('*.deb')):
        name = archive.name.partition('_')[0]
        subprocess.run(['dpkg', '-x', archive, folder / name], check=True)
        archive.unlink()


def in_folder(folder: Path) -> dict[str, Path]:
    """The files of a folder by name; ValueError if there are none, or two of a name."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    names = [file.stem for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{folder} has several files called {twice[0]}; rename all but one')
    if not files:
        raise ValueError(f'{folder} has no files; give a folder of photographs')
    return dict(zip(names, files, strict=True))


def gray(file: Path) -> np.ndarray:
    """A photograph in gray, as float, made small; ValueError if it cannot be read."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{file} is no image that OpenCV reads')
    scale = min(1.0, (AREA / (image.shape[0] * image.shape[1])) ** 0.5)
    height, width = (round(scale * n) for n in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)


def lost_at_half(image: np.ndarray) -> np.ndarray:
    """What an image has that is gone when it is made half as large and then as large again."""
    height, width = image.shape
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return image - cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def places(image: np.ndarray, draw: random.Random) -> Iterator[tuple[str, int, int, int]]:
    """Where images are cut: the split, row and column of the first pixel, and the side."""
    blocks = [
        (row, column)
        for row in range(0, image.shape[0] - BLOCK + 1, BLOCK)
        for column in range(0, image.shape[1] - BLOCK + 1, BLOCK)
    ]
    held_out = set(draw.sample(blocks, round(HELD_OUT * len(blocks))))
    for block in blocks:
        split, side = ('val', CROP) if block in held_out else ('train', TILE)
        margin = BLOCK // 2 - side
        for row, column in ((0, 0), (0, side), (side, 0), (side, side)):
            yield split, block[0] + margin + row, block[1] + margin + column, side


def cut(file: Path, name: str) -> dict[str, dict[str, np.ndarray]]:
    """The images of each split of a photograph, by name; ValueError if there are too few."""
    image, draw = gray(file), random.Random(name)
    detail = lost_at_half(image)
    found: dict[str, dict[str, np.ndarray]] = dict(train={}, val={})
    for split, row, column, side in places(image, draw):
        window = slice(row, row + side), slice(column, column + side)
        if detail[window].std() >= DETAIL:
            found[split][f'{row:04}-{column:04}'] = normalized(image[window])
    for split, images in found.items():
        if len(images) < FEWEST[split]:
            raise ValueError(
                f'{file} gives {len(images)} images with detail to {split}, needs {FEWEST[split]}; '
                'leave it out, or give it larger'
            )
        kept = sorted(draw.sample(sorted(images), min(len(images), MOST[split])))
        found[split] = {key: images[key] for key in kept}
    return found


def normalized(image: np.ndarray) -> np.ndarray:
    """An image with the mean and the contrast that all have, as bytes."""
    scaled = (image - image.mean()) / image.std() * CONTRAST + MEAN
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def write(photographs: dict[str, Path], out: Path) -> str:
    """Writes the image folder; a check sum of all of its pixels."""
    check = hashlib.sha256()
    for name, file in sorted(photographs.items()):
        for split, images in cut(file, name).items():
            folder = out / split / name
            folder.mkdir(parents=True)
            for place, image in images.items():
                cv2.imwrite(str(folder / f'{place}.png'), image)
                check.update(image.tobytes())
    return check.hexdigest()[:16]


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write, for example data/photographs')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--packages', action='store_true', help=f'fetch the Debian packages of {LIST.name}'
    )
    source.add_argument('--photographs', type=Path, help='a folder of photographs, each a class')
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists; remove it, or give another folder')
    if args.photographs and not args.photographs.is_dir():
        parser.error(f'--photographs {args.photographs} is no folder')
    partial = args.out.with_name(args.out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was broken off
    with tempfile.TemporaryDirectory() as folder:
        if args.packages:
            try:
                fetch(listed(LIST), Path(folder))
            except (OSError, subprocess.CalledProcessError) as error:
                parser.error(
                    f'{error}; --packages needs Debian 12 with its package lists (apt-get update), '
                    'elsewhere give --photographs'
                )
        try:
            photographs = (
                verified(listed(LIST), Path(folder))
                if args.packages
                else in_folder(args.photographs)
            )
            check = write(photographs, partial)
        except ValueError as error:
            shutil.rmtree(partial, ignore_errors=True)
            parser.error(str(error))
    counts = {split: len(list(partial.glob(f'{split}/*/*.png'))) for split in ('train', 'val')}
    partial.rename(args.out)
    print(
        f'wrote {counts["train"]} images to {args.out}/train and {counts["val"]} to '
        f'{args.out}/val, check sum {check}'
    )


if __name__ == '__main__':
    main()
