# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The whole way, on data that is drawn: train to a budget, publish, fine-tune, evaluate.

Small networks of three families are trained to half of their budget; their published weights
go on to Mask R-CNN, Semantic FPN, UperNet and CIFAR through the downstream configs, made small. It
prints what each step runs, then the metrics, and leaves predictions to look at.

With --seeds N each task is also trained from random weights, for as many iterations, and both
with N seeds; remove FOLDER/seeds to measure anew.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import cv2
import numpy as np

ROOT = Path(os.path.relpath(Path(__file__).parent.parent))
DEMO = ROOT / 'configs' / 'demo'
PRETRAINED = {
    'deit': DEMO / 'deit-digits_bvit-b50.py',
    'pvtv2': DEMO / 'pvtv2-shapes_bvit-b50.py',
    'swin': DEMO / 'swin-digits_bvit-b50.py',
}
PICTURES, HEIGHT = 4, 160  # of each task on the sheet of predictions, and their height


class Task(NamedTuple):
    """A downstream task: its config, the backbone it starts from, its metrics (name, key)."""

    name: str
    family: str
    config: str
    metrics: dict[str, str]


TASKS = (
    Task(
        'Mask R-CNN',
        'pvtv2',
        'mask-rcnn_pvtv2_shapes',
        {'box AP': 'coco/bbox_mAP', 'mask AP': 'coco/segm_mAP'},
    ),
    Task('Semantic FPN', 'pvtv2', 'fpn_pvtv2_shapes', {'mIoU': 'mIoU'}),
    Task('UperNet', 'swin', 'upernet_swin_shapes', {'mIoU': 'mIoU'}),
    Task('CIFAR-100', 'deit', 'deit_cifar100-shapes', {'top-1': 'accuracy/top1'}),
)


def run(*command: str | Path, **environment: str) -> str:
    """Runs a tool of this folder, its output in sight; what it printed on standard output."""
    tool, *arguments = map(str, command)
    shown = [f'{name}={value}' for name, value in environment.items()]
    command = [str(ROOT / 'tools' / f'{tool}.py'), *arguments]
    print('\n$', *shown, shlex.join(['python', *command]), flush=True)
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end='', flush=True)
    if process.returncode:
        raise SystemExit(f'tools/{tool}.py failed with status {process.returncode}')
    return ''.join(lines)


def pretrain(folder: Path) -> dict[str, str]:
    """Trains and publishes each family; the published files."""
    files = {}
    for family, config in PRETRAINED.items():
        run('train', config, '--work-dir', folder / family, '--resume')
        last = (folder / family / 'last_checkpoint').read_text()
        printed = run('publish', last, folder / 'published' / family)
        files[family] = next(
            line.rsplit(' (', 1)[0] for line in printed.splitlines() if '.pth (' in line
        )
    return files


def fine_tune(task: Task, folder: Path, checkpoint: str | None, seed: int) -> dict[str, float]:
    """Trains a task from a checkpoint or, of None, from random weights; its metrics in percent."""
    config = DEMO / 'transfer' / f'{task.config}.py'
    given = {'CHECKPOINT': checkpoint} if checkpoint else {}
    start = [] if checkpoint else ['model.backbone.init_cfg=None']
    run(
        'train',
        config,
        '--work-dir',
        folder,
        '--cfg-options',
        f'randomness.seed={seed}',
        *start,
        **given,
    )
    last = (folder / 'last_checkpoint').read_text()
    pictures = (folder / 'pictures').resolve()  # mmdet would put another under its work_dir
    run('test', config, last, '--work-dir', folder / 'test', '--show-dir', pictures)
    metrics = json.loads(max((folder / 'test').glob('*/*.json')).read_text())
    return {
        name: 100 * metrics[key] if key.startswith('coco/') else metrics[key]
        for name, key in task.metrics.items()
    }


def chances(shapes: Path) -> dict[str, float]:
    """What each metric gives for guesses: one class everywhere, the commonest, for mIoU."""
    labels = [cv2.imread(str(f), 0) for f in (shapes / 'ade20k/annotations/validation').iterdir()]
    counts = np.bincount(np.concatenate([label.ravel() for label in labels]))[1:]
    miou = 100 * counts.max() / counts.sum() / len(counts)
    return {'box AP': 0.0, 'mask AP': 0.0, 'mIoU': miou, 'top-1': 1.0}


def sheet(folder: Path) -> Path:
    """Draws predictions of every task onto one picture."""
    rows = []
    for task in TASKS:
        files = sorted((folder / task.config).glob('pictures/**/*.[jp][pn]g'))[:PICTURES]
        images = [cv2.imread(str(file)) for file in files]
        scales = [HEIGHT / image.shape[0] for image in images]
        row = np.hstack(
            [
                cv2.resize(image, None, fx=s, fy=s, interpolation=cv2.INTER_AREA)
                for image, s in zip(images, scales)
            ]
        )
        title = np.full((24, row.shape[1], 3), 255, np.uint8)
        cv2.putText(title, task.name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
        rows.append(np.vstack([title, row]))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    file = folder / 'predictions.png'
    cv2.imwrite(str(file), np.vstack(rows))
    return file


def kept_metrics(task: Task, folder: Path, checkpoint: str | None, seed: int) -> dict[str, float]:
    """``fine_tune``, unless an earlier call that was interrupted later has done it."""
    kept = folder / 'metrics.json'
    if not kept.is_file():
        metrics = fine_tune(task, folder, checkpoint, seed)
        kept.write_text(json.dumps(dict(metrics=metrics, checkpoint=checkpoint)))
    made = json.loads(kept.read_text())
    if made['checkpoint'] != checkpoint:
        raise SystemExit(f'{kept} is of {made["checkpoint"]}, not {checkpoint}; remove {folder}')
    return made['metrics']


def compare(files: dict[str, str], folder: Path, seeds: int) -> list[str]:
    """Both starts with each seed, as rows of a table."""
    rows = [
        '| task | metric | budgeted checkpoint | random weights | difference, by seed |',
        '|---|---|---|---|---|',
    ]
    for task in TASKS:
        results = [
            [
                kept_metrics(task, folder / 'seeds' / f'{task.config}-{start}-{seed}', file, seed)
                for seed in range(seeds)
            ]
            for start, file in (('budgeted', files[task.family]), ('random', None))
        ]
        for metric in task.metrics:
            ours, random = ([r[metric] for r in each] for each in results)
            differences = ', '.join(f'{a - b:+.1f}' for a, b in zip(ours, random))
            cells = [f'{mean(v):.1f} +- {stdev(v):.1f}' for v in (ours, random)]
            rows.append(f'| {task.name} | {metric} | {" | ".join(cells)} | {differences} |')
    return rows


def main() -> None:
    """Runs the tour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='for what is trained, such as work_dirs/tour')
    parser.add_argument('--seeds', type=int, help='compare with random weights, 2 seeds or more')
    args = parser.parse_args()
    if args.seeds is not None and args.seeds < 2:
        parser.error(f'--seeds {args.seeds} must be at least 2, for a spread')
    began = time.monotonic()
    run('make_digits', 'data/digits')
    run('make_shapes', 'data/shapes')
    files = pretrain(args.folder)
    if args.seeds:
        print('\n' + '\n'.join(compare(files, args.folder, args.seeds)))
        return
    chance = chances(Path('data/shapes'))
    lines = []
    for task in TASKS:
        metrics = fine_tune(task, args.folder / task.config, files[task.family], seed=0)
        for name, value in metrics.items():
            lines.append(f'{task.name:14}{name:10}{value:6.1f}{chance[name]:9.1f}')
    print(f'\n{"task":14}{"metric":10}{"value":>6}{"guess":>9}  (all in percent)')
    print('\n'.join(lines))
    print(f'predictions: {sheet(args.folder)}')
    print(f'took {(time.monotonic() - began) / 60:.0f} minutes')


if __name__ == '__main__':
    main()
