# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Draws small data sets of plain shapes in the formats of ImageNet, COCO, ADE20K and CIFAR.

They let every config be trained for minutes, on any machine, through the readers of the real data.
The sets::

    FOLDER/folder/{train,val}/<kind>/*.png                one shape an image, ten kinds
    FOLDER/coco/annotations/instances_{train,val}2017.json   instances of six kinds
    FOLDER/coco/{train,val}2017/*.jpg
    FOLDER/ade20k/{images,annotations}/{training,validation}/*.{jpg,png}   sky, floor, six kinds
    FOLDER/cifar-10-batches-py/                           the ten kinds, 32 x 32
    FOLDER/cifar-100-python/                              ten kinds in ten hues

Masks are exact: a pixel belongs to the topmost shape that covers at least half of it. Each image
has its own random numbers, from the seed and its place: neither the number of images nor the other
sets change it. The same arguments give the same bytes (with the same OpenCV and NumPy).
"""

import argparse
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

FINE = 8  # outlines are filled on a grid this many times as fine as the pixels
MIN_VISIBLE = 0.4  # of each shape at least this part stays uncovered
MIN_SIZE = 48  # mmdet leaves out images with a side below 32; the shorter side is 3/4
INSTANCES = ('cross', 'disc', 'ring', 'square', 'star', 'triangle')
CATEGORY_IDS = (1, 2, 4, 7, 11, 18)  # with gaps, as COCO's own
SEGMENTS = ('sky', 'floor', *INSTANCES)  # annotated as 1, 2, ...; 0 is anything else
WARM = {'red': 0, 'orange': 30, 'yellow': 58, 'magenta': 300, 'rose': 332}  # degrees
HUES = WARM | {'lime': 90, 'green': 130, 'cyan': 175, 'blue': 220, 'violet': 265}
SPLITS = ('train', 'val')


def arc(start: float, stop: float, n: int) -> np.ndarray:
    """n points on the unit circle between two angles in degrees, both included."""
    angles = np.radians(np.linspace(start, stop, n))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def regular(n: int) -> np.ndarray:
    """The corners of a regular polygon on the unit circle."""
    return arc(0, 360, n + 1)[:-1]


def mirrored(*half: tuple) -> np.ndarray:
    """These points, and back along their mirror image below the x axis."""
    return np.array([*half, *((x, -y) for x, y in reversed(half))])


# Each kind's outlines, within the unit circle; a second one is a hole.
OUTLINES = {
    'arrow': [mirrored((-1, 0.24), (0.05, 0.24), (0.05, 0.75), (1, 0))],
    'bar': [mirrored((-0.96, 0.28), (0.96, 0.28))],
    'crescent': [np.concatenate([arc(60, 300, 40), 0.872 * arc(263.4, 96.6, 30) + (0.6, 0)])],
    'cross': [
        mirrored((-1, 0.28), (-0.28, 0.28), (-0.28, 1), (0.28, 1), (0.28, 0.28), (1, 0.28)),
    ],
    'disc': [regular(60)],
    'pentagon': [regular(5)],
    'ring': [regular(60), 0.55 * regular(60)],
    'square': [regular(4)],
    'star': [regular(10) * np.tile([[1], [0.42]], (5, 1))],
    'triangle': [regular(3)],
}
KINDS = tuple(OUTLINES)  # sorted, as mmpretrain sorts the folders of classes


def shrink(fine: np.ndarray) -> np.ndarray:
    """The part of each pixel that is 1 on the fine grid: (h, w), from 0 to 1."""
    h, w = fine.shape
    counts = cv2.resize(FINE**2 * fine, (w // FINE, h // FINE), interpolation=cv2.INTER_AREA)
    return counts.astype(np.float32) / FINE**2  # the counts are whole, so this is exact


def coverage(kind: str, x: float, y: float, radius: float, angle: float, shape) -> np.ndarray:
    """The part of each pixel that a shape covers: (h, w), from 0 to 1."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = [radius * outline @ turn + (x, y) for outline in OUTLINES[kind]]
    fine = np.zeros((FINE * shape[0], FINE * shape[1]), np.uint8)
    cv2.fillPoly(fine, [np.round(FINE * outline - 0.5).astype(np.int32) for outline in outlines], 1)
    return shrink(fine)


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Any color (BGR)."""
    return rng.uniform(10, 245, 3)


def color_of(hue: str) -> Callable[[np.random.Generator], np.ndarray]:
    """Draws colors (BGR) that look like this hue."""

    def draw(rng):
        hsv = HUES[hue] + rng.uniform(-7, 7), rng.uniform(0.65, 1), rng.uniform(0.6, 1)
        hsv = np.array([[[hsv[0] % 360, *hsv[1:]]]], np.float32)
        return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]

    return draw


def smooth_noise(rng: np.random.Generator, shape, strength: float) -> np.ndarray:
    """Color that changes slowly: (h, w, 3), around 0."""
    coarse = rng.normal(0, strength, (4, 4, 3)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def strokes(rng: np.random.Generator, canvas: np.ndarray, n: int) -> np.ndarray:
    """Paints n random strokes; (h, w), True where one covers at least half of a pixel."""
    h, w = canvas.shape[:2]
    painted = np.zeros((h, w), bool)
    for _ in range(n):
        ends = np.round(rng.uniform(0, 1, (2, 2)) * (FINE * w, FINE * h)).astype(int)
        fine = np.zeros((FINE * h, FINE * w), np.uint8)
        thickness = FINE * max(1, round(rng.uniform(0.01, 0.035) * min(h, w)))
        cv2.line(fine, *(tuple(map(int, end)) for end in ends), 1, thickness)
        alpha = shrink(fine)
        canvas += alpha[..., None] * (random_color(rng) - canvas)
        painted |= alpha >= 0.5
    return painted


def clutter(rng: np.random.Generator, shape) -> np.ndarray:
    """A canvas (h, w, 3) of changing color with strokes."""
    canvas = random_color(rng) + smooth_noise(rng, shape, 25)
    strokes(rng, canvas, rng.integers(2, 6))
    return canvas


def room(rng: np.random.Generator, shape) -> tuple[np.ndarray, np.ndarray]:
    """A canvas of a smooth sky over a striped floor, with strokes, and its annotation (h, w)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    horizon = shape[0] * rng.uniform(0.35, 0.65) + rng.uniform(-0.2, 0.2) * (x - shape[1] / 2)
    sky = np.array([210, 170, 130]) + rng.normal(0, 25, 3) + smooth_noise(rng, shape, 12)
    wave = np.sin((x * rng.uniform(-0.4, 0.4) + y) / rng.uniform(1, 2) + rng.uniform(0, 6))
    floor = np.array([70, 100, 125]) + rng.normal(0, 25, 3) + smooth_noise(rng, shape, 12)
    floor += 20 * wave[..., None]
    above = y < horizon
    canvas = np.where(above[..., None], sky, floor)
    labels = np.where(above, 1, 2)
    labels[strokes(rng, canvas, rng.integers(1, 4))] = 0
    return canvas, labels


def compose(
    rng: np.random.Generator,
    canvas: np.ndarray,
    kinds: tuple[str, ...],
    sizes: tuple[float, float],
    color: Callable[[np.random.Generator], np.ndarray] = random_color,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Paints shapes onto a canvas, later ones over earlier ones.

    ``sizes`` are the smallest and largest radius, as parts of the shorter side. A shape that has no
    room in 20 trials is left out. Returns the image (h, w, 3) in uint8, the topmost shape of each
    pixel (h, w), 0 where there is none and k for the k-th shape, and the kinds of the shapes.
    """
    shape, painted = canvas.shape[:2], []
    top, whole = np.zeros(shape, int), []
    for kind in kinds:
        for _ in range(20):
            radius = min(shape) * rng.uniform(*sizes)
            y, x = (rng.uniform(0.9 * radius, side - 0.9 * radius) for side in shape)
            alpha = coverage(kind, x, y, radius, rng.uniform(0, 2 * np.pi), shape)
            mask = alpha >= 0.5
            left = np.bincount(top[~mask], minlength=len(whole) + 1)[1:]
            if np.all(left >= MIN_VISIBLE * np.array(whole)):
                break
        else:
            continue
        # Of four colors the one that differs most from what it is painted on.
        below = canvas[mask].mean(0)
        paint = max((color(rng) for _ in range(4)), key=lambda c: np.abs(c - below).max())
        canvas += alpha[..., None] * (paint + smooth_noise(rng, shape, 10) - canvas)
        painted.append(kind)
        whole.append(mask.sum())
        top[mask] = len(painted)
    image = canvas + rng.normal(0, 8, canvas.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), top, painted


def sides(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Height and width of a landscape or an upright picture."""
    return tuple(rng.permutation([size, 3 * size // 4]))


def drawn_single(rng, size, kind, color=random_color) -> np.ndarray:
    """An image with one large shape."""
    return compose(rng, clutter(rng, (size, size)), (kind,), (0.26, 0.46), color)[0]


def drawn_instances(rng, size) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """An image with one to four shapes, the topmost shape of each pixel, and their kinds."""
    canvas = clutter(rng, sides(rng, size))
    return compose(rng, canvas, rng.choice(INSTANCES, rng.integers(1, 5)), (0.15, 0.3))


def drawn_scene(rng, size) -> tuple[np.ndarray, np.ndarray]:
    """An image of a room with shapes, and its annotation (h, w) in uint8."""
    canvas, labels = room(rng, sides(rng, size))
    kinds = rng.choice(INSTANCES, rng.integers(1, 5))
    image, top, kinds = compose(rng, canvas, kinds, (0.15, 0.3))
    for k, kind in enumerate(kinds):
        labels[top == k + 1] = SEGMENTS.index(kind) + 1
    return image, labels.astype(np.uint8)


def rngs(name: str, split: str, args: dict, times: int = 1) -> Iterator[np.random.Generator]:
    """The random numbers of each image of a split."""
    for i in range(times * args[split]):
        yield np.random.default_rng([args['seed'], list(WRITERS).index(name), split == 'val', i])


def save(path: Path, image: np.ndarray) -> None:
    """Writes an image, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1])


def write_folder(out: Path, args: dict) -> None:
    """Writes a folder of images a kind: of each kind as many as other sets have images."""
    for split in SPLITS:
        for i, rng in enumerate(rngs('folder', split, args, times=len(KINDS))):
            kind = KINDS[i % len(KINDS)]
            path = out / split / kind / f'{i // len(KINDS):05d}.png'
            save(path, drawn_single(rng, args['size'] // 2, kind))


def segmentation(mask: np.ndarray) -> list[list[int]] | dict:
    """COCO's form of a mask: polygons along the edges of its pixels, or runs if it has a hole.

    COCO's rasterizer gives back exactly the mask: its polygons count pixel centers.
    """
    large = np.kron(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    parts, tree = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if np.all(tree[0, :, 3] < 0):  # none lies within another
        # Of three fine pixels the first touches the pixel's near edge, the last its far edge.
        return [((part + 1) // 3).ravel().tolist() for part in parts]
    column = np.concatenate([[0], mask.ravel(order='F'), [1 - mask[-1, -1]]])
    ends = np.flatnonzero(np.diff(column))
    return {'counts': np.diff(ends, prepend=0).tolist(), 'size': list(mask.shape)}


def write_coco(out: Path, args: dict) -> None:
    """Writes instances as COCO 2017 does."""
    image_id = 0
    for split in SPLITS:
        images, annotations = [], []
        for rng in rngs('coco', split, args):
            image, top, kinds = drawn_instances(rng, args['size'])
            image_id += 1 + int(rng.integers(0, 40))
            name = f'{image_id:012d}.jpg'
            save(out / f'{split}2017' / name, image)
            height, width = top.shape
            images.append(
                {'id': image_id, 'license': 1, 'file_name': name, 'height': height, 'width': width}
                | {'date_captured': '2026-01-01 00:00:00', 'coco_url': '', 'flickr_url': ''}
            )
            for k, kind in enumerate(kinds):
                mask = top == k + 1
                x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
                annotations.append(
                    {'id': 10 * image_id + k, 'image_id': image_id, 'iscrowd': 0}
                    | {'category_id': CATEGORY_IDS[INSTANCES.index(kind)]}
                    | {'bbox': [x, y, w, h], 'area': int(mask.sum())}
                    | {'segmentation': segmentation(mask)}
                )
        names = zip(CATEGORY_IDS, INSTANCES)
        instances = {
            'info': {'description': 'drawn by tools/make_shapes.py', 'version': '1.0'}
            | {'year': 2026, 'contributor': '', 'date_created': '2026/01/01', 'url': ''},
            'licenses': [{'id': 1, 'name': 'Apache License 2.0', 'url': ''}],
            'images': images,
            'annotations': annotations,
            'categories': [{'supercategory': 'shape', 'id': i, 'name': name} for i, name in names],
        }
        (out / 'annotations').mkdir(exist_ok=True)
        (out / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(instances))


def write_ade20k(out: Path, args: dict) -> None:
    """Writes scenes as the ADE20K challenge does."""
    for split, name in zip(SPLITS, ('training', 'validation')):
        for i, rng in enumerate(rngs('ade20k', split, args)):
            image, labels = drawn_scene(rng, args['size'])
            stem = f'ADE_{split}_{i + 1:08d}'
            save(out / 'images' / name / f'{stem}.jpg', image)
            save(out / 'annotations' / name / f'{stem}.png', labels)


def cifar_images(name: str, split: str, args: dict, classes: list[tuple]) -> dict:
    """Images in CIFAR's form, the red, green and blue plane of each in a row, and their classes."""
    made = [
        (i % len(classes), drawn_single(rng, 32, *classes[i % len(classes)]))
        for i, rng in enumerate(rngs(name, split, args, times=len(KINDS)))
    ]
    return {
        'data': np.stack([image[..., ::-1].transpose(2, 0, 1).ravel() for _, image in made]),
        'labels': [label for label, _ in made],
        'filenames': [f'{split}_{i:06d}.png' for i in range(len(made))],
    }


def dump(path: Path, content: dict) -> None:
    """Pickles a file of CIFAR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=4))


def write_cifar10(out: Path, args: dict) -> None:
    """Writes the pickles of CIFAR-10: of each kind as many images as other sets have."""
    classes = [(kind,) for kind in KINDS]
    train, test = (cifar_images('cifar10', split, args, classes) for split in SPLITS)
    n = len(train['labels']) // 5
    for i in range(5):
        batch = {key: rows[i * n : (i + 1) * n] for key, rows in train.items()}
        dump(out / f'data_batch_{i + 1}', batch | {'batch_label': f'training batch {i + 1} of 5'})
    dump(out / 'test_batch', test | {'batch_label': 'testing batch 1 of 1'})
    meta = {'num_cases_per_batch': n, 'label_names': list(KINDS), 'num_vis': 3072}
    dump(out / 'batches.meta', meta)


def write_cifar100(out: Path, args: dict) -> None:
    """Writes the pickles of CIFAR-100: kinds in ten hues, five of one kind to a group."""
    groups = [(kind, tone) for kind in KINDS for tone in ('warm', 'cold')]
    fine = [(kind, hue) for kind in KINDS for hue in HUES]
    coarse = [groups.index((kind, 'warm' if hue in WARM else 'cold')) for kind, hue in fine]
    classes = [(kind, color_of(hue)) for kind, hue in fine]
    for split, name in zip(SPLITS, ('train', 'test')):
        content = cifar_images('cifar100', split, args, classes)
        labels = content.pop('labels')
        content |= {'fine_labels': labels, 'coarse_labels': [coarse[label] for label in labels]}
        dump(out / name, content | {'batch_label': f'{name}ing batch 1 of 1'})
    names = [[f'{b}_{a}' for a, b in pairs] for pairs in (fine, groups)]
    dump(out / 'meta', {'fine_label_names': names[0], 'coarse_label_names': names[1]})


# Each set's folder and writer. New sets come last: the place is part of the random numbers.
WRITERS = {
    'folder': ('folder', write_folder),
    'coco': ('coco', write_coco),
    'ade20k': ('ade20k', write_ade20k),
    'cifar10': ('cifar-10-batches-py', write_cifar10),
    'cifar100': ('cifar-100-python', write_cifar100),
}


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', metavar='FOLDER', type=Path, help='for example data/shapes')
    parser.add_argument('--sets', nargs='+', choices=WRITERS, default=list(WRITERS))
    parser.add_argument('--size', type=int, default=128, help='longer side in pixels; folder: half')
    for split, n in (('train', 400), ('val', 100)):
        text = f'{split} images; folder and CIFAR: ten times as many'
        parser.add_argument(f'--{split}', type=int, default=n, help=text)
    parser.add_argument('--seed', type=int, default=0)
    given = vars(parser.parse_args())
    out, sets = given.pop('out'), dict.fromkeys(given.pop('sets'))
    for name, least in (('size', MIN_SIZE), ('train', 1), ('val', 1), ('seed', 0)):
        if given[name] < least:
            parser.error(f'--{name} {given[name]} must be {least} or more')
    if out.exists() and not out.is_dir():
        parser.error(f'{out} is a file; give a folder')

    missing = []
    for name in sets:
        target = out / WRITERS[name][0]
        record = target / 'drawn.json'
        if not target.exists():
            missing.append(name)
        elif not record.exists():
            parser.error(f'{target} exists and was not drawn by this tool; give another folder')
        elif (there := json.loads(record.read_text())) != given:
            parser.error(f'{target} was drawn with {there}, not {given}; remove it first')
        else:
            print(f'{target} is there already')
    out.mkdir(parents=True, exist_ok=True)
    for name in missing:
        folder, write = WRITERS[name]
        with tempfile.TemporaryDirectory(prefix=f'{folder}.partial-', dir=out) as partial:
            drawn = Path(partial) / folder
            drawn.mkdir()
            write(drawn, given)
            (drawn / 'drawn.json').write_text(json.dumps(given))
            drawn.rename(out / folder)
        print(f'wrote {out / folder}')


if __name__ == '__main__':
    main()
