# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How many images a second one CPU core makes ready for training: mmpretrain's pipeline and ours.

    python benchmarks/loader.py

The images are drawn: noise with the spectrum of photographs (amplitude falling with frequency),
mostly gray as they are, at the sizes of most of ImageNet's, and JPEG at quality 90. So a file has
about as many bytes as ImageNet's have on average (110 kB), which is what decoding takes time for.

All settings run in one process on one core, each with the same random numbers, image by image,
so that RandAugment draws the same. In each round all take their turn in random order. Seconds are
those that the CPU worked, so that other programs count little. It prints medians over rounds: of
images a second, and of the ratio to mmpretrain's in the same round.
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader

import bvit_mm  # noqa: F401  registers
from bvit_mm.loading.resized_files import copy_resized

ROOT = Path(__file__).parent.parent
OURS = ROOT / 'configs' / 'deit' / 'deit-small_bvit-b100_4xb256_in1k.py'
PLAIN = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
SHAPES = ((375, 500), (375, 500), (333, 500), (500, 375))  # ImageNet's most common ones
SLOPE = 1.15  # of amplitudes over frequency; photographs have 1.0 to 1.3
CONTRAST = 55  # standard deviation of gray values


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--sizes', type=int, nargs='+', default=[224, 160, 96])
    parser.add_argument('--short-side', type=int, default=256, help='of resized files')
    parser.add_argument('--quality', type=int, default=90, help='of resized files')
    text = "compare numbers of OpenCV's threads instead, also in workers of the data loader"
    parser.add_argument('--threads', type=int, nargs='+', help=text)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    return parser.parse_args()


def drawn(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise with the spectrum of a photograph: height x width x 3, uint8."""
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = []
    for contrast in (CONTRAST, CONTRAST / 5, CONTRAST / 5):  # luma, and two of color
        noise = np.fft.rfft2(rng.normal(size=shape)) / frequency**SLOPE
        plane = np.fft.irfft2(noise, s=shape)
        planes.append(128 + contrast * plane / plane.std())
    ycc = np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2BGR)


def draw_images(folder: Path, number: int) -> float:
    """Writes JPEGs of one class; returns their mean size in kB."""
    (folder / 'class').mkdir(parents=True)
    total = 0
    for i in range(number):
        image = drawn(np.random.default_rng(i), SHAPES[i % len(SHAPES)])
        content = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        (folder / 'class' / f'{i:05d}.JPEG').write_bytes(content)
        total += len(content)
    return total / number / 1000


def pipeline_of(config: Config, size: int) -> list[dict]:
    """The training pipeline of a config, for images of a size."""
    steps = [dict(step) for step in config.train_dataloader.dataset.pipeline]
    for step in steps:
        if step['type'].endswith('RandomResizedCrop'):
            step['scale'] = size
    return steps


class Setting:
    """A data set that is read by a pipeline, with the seconds of each step."""

    def __init__(self, folder: Path, pipeline: list[dict], repeats: int = 1) -> None:
        self.dataset = CustomDataset(data_root=str(folder), pipeline=pipeline)
        self.repeats = repeats
        self.speeds: list[float] = []
        self.seconds: Counter[str] = Counter()
        for step in self.dataset.pipeline.transforms:
            self._time(step)

    def _time(self, step: Callable) -> None:
        plain, name = step.transform, type(step).__name__

        def timed(results: dict) -> dict:
            begin = time.process_time()
            made = plain(results)
            self.seconds[name] += time.process_time() - begin
            return made

        step.transform = timed

    def run(self, seed: int) -> None:
        """Reads all images into a batch."""
        order = [i for i in range(len(self.dataset)) for _ in range(self.repeats)]
        order = order[: len(self.dataset)]
        samples = []
        begin = time.process_time()
        for place, index in enumerate(order):
            np.random.seed(1000 * seed + place)
            samples.append(self.dataset[index])
        pseudo_collate(samples)
        self.speeds.append(len(order) / (time.process_time() - begin))

    def milliseconds(self) -> str:
        """What each step takes of an image, on average."""
        n = len(self.speeds) * len(self.dataset)
        return ', '.join(f'{name} {1e3 * s / n:.2f}' for name, s in self.seconds.items())


def settings(args: argparse.Namespace, folder: Path) -> dict[str, Setting]:
    """What is compared, by its name; the first is what all are compared with."""
    init_default_scope('mmpretrain')
    plain, ours = get_config(PLAIN), Config.fromfile(OURS)
    full, small = folder / 'full', folder / 'small'
    print(f'{args.images} files of {draw_images(full, args.images):.0f} kB on average')
    copy_resized(full, small, args.short_side, args.quality, jobs=1)
    sizes = [path.stat().st_size for path in small.glob('class/*')]
    print(f'resized to {args.short_side} pixels: {statistics.fmean(sizes) / 1000:.0f} kB')
    found = {"mmpretrain's, 224": Setting(full, pipeline_of(plain, 224))}
    for name, data in (('ours', full), ('ours, resized files', small)):
        for size in args.sizes:
            found[f'{name}, {size}'] = Setting(data, pipeline_of(ours, size))
    found['ours, each image three times, 224'] = Setting(full, pipeline_of(ours, 224), repeats=3)
    found["mmpretrain's, 224, resized files"] = Setting(small, pipeline_of(plain, 224))
    return found


def processor() -> str:
    """What the machine calls its processor."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def compare_threads(args: argparse.Namespace, folder: Path) -> None:
    """Prints images a second by OpenCV's threads, and workers of the data loader."""
    draw_images(folder, args.images)
    init_default_scope('mmpretrain')
    pipeline = pipeline_of(Config.fromfile(OURS), 224)
    dataset = CustomDataset(data_root=str(folder), pipeline=pipeline)
    options = dict(batch_size=16, collate_fn=pseudo_collate)
    found: dict = {(w, t): [] for w in args.workers for t in args.threads}
    for seed in range(args.rounds):
        for workers, threads in random.Random(seed).sample(list(found), len(found)):
            cv2.setNumThreads(threads)  # as mmengine does, before workers are forked
            loader = DataLoader(dataset, num_workers=workers, **options)
            np.random.seed(seed)
            torch.manual_seed(seed)
            work = cpu_seconds()
            batches = iter(loader)
            next(batches)  # workers have begun
            begin = time.perf_counter()
            for _ in batches:
                pass
            speed = (len(dataset) - 16) / (time.perf_counter() - begin)
            del batches  # their seconds count once they have ended
            used = 1e3 * (cpu_seconds() - work) / len(dataset)
            found[workers, threads].append((speed, used))
    print("\n| workers | OpenCV's threads | images/s | ms of CPU an image |\n|---|---|---|---|")
    for (workers, threads), own in found.items():
        speed, used = map(statistics.median, zip(*own))
        print(f'| {workers} | {threads} | {speed:.0f} | {used:.2f} |')


def cpu_seconds() -> float:
    """What this process has worked, and those that it has started and that have ended."""
    return sum(os.times()[:4])


def compare_pipelines(args: argparse.Namespace, folder: Path) -> None:
    """Prints images a second of each setting, and what its steps take."""
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(0)  # as mmengine does
    compared = settings(args, folder)
    for each in compared.values():
        each.run(0)
        each.speeds.clear()
        each.seconds.clear()
    for seed in range(args.rounds):
        for each in random.Random(seed).sample(list(compared.values()), len(compared)):
            each.run(seed)
    (first, *_) = compared.values()
    print("\n| pipeline, pixels | images/s | of mmpretrain's |\n|---|---|---|")
    for name, each in compared.items():
        ratio = statistics.median(a / b for a, b in zip(each.speeds, first.speeds))
        print(f'| {name} | {statistics.median(each.speeds):.0f} | {ratio:.2f} |')
    print('\nmilliseconds of an image:')
    for name, each in compared.items():
        print(f'{name}: {each.milliseconds()}')


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    torch.set_num_threads(1)
    versions = f'torch {torch.__version__}, OpenCV {cv2.__version__}'
    print(f'{processor()}, {versions}, load {os.getloadavg()[0]:.1f}')
    with TemporaryDirectory() as folder:
        (compare_threads if args.threads else compare_pipelines)(args, Path(folder))


if __name__ == '__main__':
    main()
