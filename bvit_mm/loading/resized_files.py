# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Copies of data sets whose images are resized once, so that training decodes fewer pixels.

A copy has the folders and file names of its source, so that readers and annotations serve both. Its
file ``resized.json`` says how it was made, and whether it is complete.
"""

import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..files import replaced, write_whole
from .resizing import resized

RECORD = 'resized.json'
DAMAGED = 'resized_damaged.txt'
IMAGES = (
    '.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif',  # mmpretrain's readers
    '.tiff', '.webp', '.gif',  # and what annotations may name
)  # fmt: skip
ANNOTATIONS = ('.txt', '.json', '.csv', '.tsv', '.xml', '.yaml', '.yml', '.mat', '.npy', '.pkl')
TEXTS = ('.txt', '.json', '.csv', '.tsv', '.xml', '.yaml', '.yml')  # of these, in words
# How whole files end. Others may be whole too, with something behind, and are looked at again.
ENDS = (b'\xff\xd9', b'IEND\xaeB`\x82')  # of JPEG and PNG

Outcome = tuple[Path, str, str]  # of a file: what became of it, and why


def check_folders(source: Path, target: Path, options: dict[str, int]) -> None:
    """Raises ValueError unless a source can be copied to a target with nothing overwritten."""
    if not source.is_dir():
        raise ValueError(f'{source} is no folder; give the folder of a data set')
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(
            f'{target} and {source} must lie side by side, neither within the other; give a '
            'folder elsewhere'
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f'{target} is a file; give a folder that does not exist yet')
    if not target.is_dir() or not any(target.iterdir()):
        return
    there = read_record(target)
    if there is None:
        raise ValueError(
            f'{target} has files that were not made here, and nothing is overwritten; give a '
            'folder that does not exist yet'
        )
    made = {name: there.get(name) for name in ('source', *options)}
    asked = dict(source=str(outer), **options)
    if made != asked:
        raise ValueError(f'{target} was begun with {made}, not {asked}; give another folder')


def read_record(folder: Path) -> dict[str, Any] | None:
    """What ``resized.json`` of a folder says; None if there is none, or it is another program's."""
    try:
        found = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and 'complete' in found else None


def records_above(folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The copies that a folder lies in, each with its record."""
    path = Path(folder).absolute()
    for each in (path, *path.parents):
        found = read_record(each)
        if found:
            yield each, found


def check_complete(folders: Iterable[str]) -> None:
    """Raises ValueError if a folder of images lies in a copy that was not made to its end."""
    for each, found in (record for folder in folders for record in records_above(folder)):
        if not found['complete']:
            lines = found.get('missed') or []
            advice = 'finish it with the command that began it'
            if lines:
                advice = f'{lines[0]} names a damaged image; repair it or take out the line'
            raise ValueError(
                f'{each} is a resized data set that is not complete: {advice} '
                f'(python tools/resize_dataset.py {found.get("source", "SRC")} {each})'
            )


def are_resized(folders: Iterable[str]) -> bool:
    """Whether any folder of images lies in a copy."""
    return any(True for folder in folders for _ in records_above(folder))


def folders_of(dataset: Any) -> Iterator[str]:
    """Where a dataset of mmengine has its images, wrapped or not."""
    for each in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if each is not None:
            yield from folders_of(each)
    prefixes = getattr(dataset, 'data_prefix', None)
    if isinstance(prefixes, dict):
        yield from (prefix for prefix in prefixes.values() if isinstance(prefix, str))


def copy_resized(
    source: Path,
    target: Path,
    short_side: int,
    quality: int,
    jobs: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Counter, list[Outcome], list[Path]]:
    """Copies a data set with smaller images; what is there already is kept.

    Each file appears whole or not at all. Files that are neither images nor annotations are left.

    Args:
        source: Folder of images and annotations, at any depth.
        target: Folder to make; ``check_folders`` says which can be.
        short_side: Pixels of the shorter side; images that are not larger are copied as they are.
        quality: Of JPEG, 1 to 100.
        jobs: Number of processes.
        progress: Is told how many images are done, and of how many.

    Returns:
        How many files were ``resized``, ``copied``, ``kept`` and ``damaged``; the damaged ones;
        and files that were left, which are neither images nor annotations.
    """
    options = dict(short_side=short_side, quality=quality)
    check_folders(source, target, options)
    target.mkdir(parents=True, exist_ok=True)
    record = dict(source=str(source.resolve()), **options, complete=False)
    write_record(target, record)
    images, annotations, left = sorted_files(source)
    outcomes = []
    work = partial(copy_image, source, target, short_side, quality)
    for outcome in in_processes(work, images, jobs):
        outcomes.append(outcome)
        progress(len(outcomes), len(images))
    outcomes += [copy_file(source, target, path) for path in annotations]
    damaged = [outcome for outcome in outcomes if outcome[1] == 'damaged']
    list_damaged(target, damaged)
    counts = Counter(what for _, what, _ in outcomes)
    missed = named_in(target, annotations, [path for path, _, _ in damaged])
    write_record(target, {**record, **counts, 'complete': not missed, 'missed': missed})
    return counts, damaged, left


def write_record(target: Path, record: dict[str, Any]) -> None:
    """Says how a copy is made, and whether it is complete."""
    write_whole(target / RECORD, json.dumps(record, indent=1) + '\n')


def list_damaged(target: Path, damaged: list[Outcome]) -> None:
    """Writes the list of damaged files, or removes that of an earlier try."""
    lines = [f'{path}\t{why}\n' for path, _, why in damaged]
    if lines:
        write_whole(target / DAMAGED, ''.join(lines))
    else:
        (target / DAMAGED).unlink(missing_ok=True)


def sorted_files(source: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, annotations and all other files of a folder, by their paths in it.

    Links are followed. Names that begin with a dot are passed by, as mmengine's readers do.
    """
    images: list[Path] = []
    annotations: list[Path] = []
    left: list[Path] = []
    for path in walk(source, frozenset()):
        if path.name in (RECORD, DAMAGED):  # of a copy that is copied
            continue
        kind = path.suffix.lower()
        (images if kind in IMAGES else annotations if kind in ANNOTATIONS else left).append(
            path.relative_to(source)
        )
    return images, annotations, left


def walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """All files in a folder, in order; a link to a folder above it is not followed."""
    real = folder.resolve()
    for path in sorted(folder.iterdir() if real not in above else ()):
        if path.name.startswith('.'):
            continue
        if path.is_dir():
            yield from walk(path, above | {real})
        else:
            yield path


def in_processes(
    work: Callable[[Path], Outcome], paths: list[Path], jobs: int
) -> Iterator[Outcome]:
    """The outcomes of some work on each path, in order."""
    if jobs == 1:
        yield from map(work, paths)
        return
    pool = ProcessPoolExecutor(jobs, initializer=prepare_worker)
    with ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)  # also when a user stops it
        yield from pool.map(work, paths, chunksize=16)


def prepare_worker() -> None:
    """One thread in each process; Ctrl-C, which reaches all of them, is the first one's to obey."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def copy_image(source: Path, target: Path, short_side: int, quality: int, path: Path) -> Outcome:
    """Makes the resized copy of an image, unless it is there."""
    if (target / path).exists():
        return path, 'kept', ''
    try:
        content = (source / path).read_bytes()
        image = decoded(content)
    except (OSError, ValueError) as error:
        return path, 'damaged', str(error).replace('\n', ' ')
    small = shrunk(image, short_side)
    if small is None:
        return copy_file(source, target, path)
    try:
        is_made, made = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error:
        is_made = False
    if not is_made:
        return path, 'damaged', 'no JPEG can be made of it, as of sides above 65,500 pixels'
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(target / path, made.tobytes())
    return path, 'resized', ''


def copy_file(source: Path, target: Path, path: Path) -> Outcome:
    """Copies a file as it is, unless it is there."""
    if (target / path).exists():
        return path, 'kept', ''
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    with replaced(target / path) as partial_file:
        shutil.copyfile(source / path, partial_file)
    return path, 'copied', ''


def decoded(content: bytes) -> np.ndarray:
    """An image as mmcv loads it, upright and in 8 bits; gray ones have no third axis.

    Raises:
        ValueError: If it cannot be decoded, or ends before its end.
    """
    if not content:
        raise ValueError('the file is empty')
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise ValueError(f'OpenCV cannot decode it: {error.err}') from None
    if image is None:
        raise ValueError('OpenCV cannot decode it')
    if not content.endswith(ENDS):
        check_end(content)
    return image


def check_end(content: bytes) -> None:
    """Raises ValueError if an image that OpenCV decodes is cut off, which it fills with gray."""
    try:
        Image.open(BytesIO(content)).load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return  # OpenCV knows it
    except Exception as error:  # Pillow's readers raise anything
        raise ValueError(str(error)) from None


def shrunk(image: np.ndarray, short_side: int) -> np.ndarray | None:
    """An image whose shorter side has so many pixels; None if it has no more already."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= short_side:
        return None
    size = (round(height * short_side / short), round(width * short_side / short))
    return resized(image, size, 'bicubic')


def named_in(folder: Path, annotations: list[Path], damaged: list[Path]) -> list[str]:
    """Lines of annotations that name a damaged image, as ``file:line``.

    Training would stop when it gets there. Folders without lists are read as they are. A name may
    leave out the first folders of a path, unless an image that is there has this name as well.
    """
    roots = {Path(*path.parts[:n]) for path in damaged for n in range(len(path.parts))}
    roots |= {Path(), *(each for each in folder.iterdir() if each.is_dir())}
    names = {'/'.join(path.parts[first:]) for path in damaged for first in range(len(path.parts))}
    missing = [n for n in names if not any((folder / root / n).exists() for root in roots)]
    if not missing:
        return []
    words = re.compile(rf'(?<![\w/.-])({"|".join(map(re.escape, missing))})(?![\w/.-])')
    return [
        f'{path}:{number}'
        for path in annotations
        if path.suffix.lower() in TEXTS
        for number, line in enumerate((folder / path).read_text(errors='replace').splitlines(), 1)
        if words.search(line)
    ]
