# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Copies a data set with smaller images, once, so that training decodes fewer pixels.

    python tools/resize_dataset.py data/imagenet data/imagenet-256

The source is a folder with one sub-folder a class, ImageNet with its lists in meta/, or any other
folder of images. The copy has the same folders and file names, so only ``data_root`` of a config
changes. Its images are JPEG, also where a name says .png: readers look at the content. Images that
are small enough are copied as they are, and so are annotations.

It can be stopped and started again at any time: what is there is kept. Until it is complete,
training on it is refused. Damaged images are left out and listed, and the exit code is then 1.
"""

import argparse
import sys
import time
from pathlib import Path

from _cpus import usable_cpus
from _refusals import refusing

from bvit_mm.loading.resized_files import DAMAGED, copy_resized, read_record

SHOWN = 10  # of a list
SECONDS = 10  # between two lines of progress


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', metavar='SRC', type=Path, help='folder of the data set')
    parser.add_argument('target', metavar='DST', type=Path, help='folder to make')
    text = 'pixels of the shorter side (default: 256, what validation at 224 needs)'
    parser.add_argument('--short-side', type=int, default=256, help=text)
    parser.add_argument('--quality', type=int, default=90, help='of JPEG, 1 to 100 (default: 90)')
    text = 'processes (default: one a CPU)'
    parser.add_argument('--jobs', type=int, default=usable_cpus(), help=text)
    args = parser.parse_args()
    for name in ('short_side', 'jobs'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} {getattr(args, name)} must be 1 or more')
    if not 1 <= args.quality <= 100:
        parser.error(f'--quality {args.quality} must be 1 to 100')
    return parser, args


class Progress:
    """Prints a line now and then."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS:
            self.last = now
            left = (now - self.start) / done * (of - done)
            print(f'{done} of {of} images, {left / 60:.0f} minutes left', flush=True)


def some(lines: list[str]) -> str:
    """The first lines of a list, and how many more there are."""
    more = [f'... and {len(lines) - SHOWN} more'] * (len(lines) > SHOWN)
    return '\n'.join(f'  {line}' for line in (*lines[:SHOWN], *more))


def main() -> None:
    """Runs the tool."""
    parser, args = parse_args()
    try:
        with refusing(parser.error):
            counts, damaged, left = copy_resized(**vars(args), progress=Progress())
    except KeyboardInterrupt:
        print('stopped; the same command goes on')
        sys.exit(130)
    made = ', '.join(f'{n} {what}' for what, n in sorted(counts.items()))
    print(f'{args.target}: {made or "no images"}')
    if left:
        print(f'{len(left)} files are neither images nor annotations, and were left:')
        print(some([str(path) for path in left]))
    if damaged:
        print(f'{len(damaged)} images are damaged ({args.target / DAMAGED}):')
        print(some([f'{path}: {why}' for path, _, why in damaged]))
    record = read_record(args.target) or {}
    if record.get('missed'):
        print('Not complete: these lines name damaged images, and training would stop there:')
        print(some(record['missed']))
        print('Repair the images or take out the lines, and run this again.')
    elif damaged:
        print('No list names them. To have them too, repair them and run this again.')
    sys.exit(1 if damaged else 0)


if __name__ == '__main__':
    main()
