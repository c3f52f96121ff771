# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Several sizes from one search on the digits: accuracy over GFLOPs, before and after retraining.

python .dev_scripts/slim_sizes.py work_dirs/demo-search/epoch_10.pth results/slim_sizes.json \
    docs/slim_sizes.png

Each size is retrained for ten epochs by the recipe of the demo. Beside it, the uniform network of
that cost trains for ten epochs from the start. Sizes that are in the file already are kept.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from bvit_mm.building import build_to_count
from bvit_mm.cost import classifier_flops
from bvit_mm.elastic import find_backbone
from bvit_mm.publish.slimmed import read_search, slimmed, write_slimmed
from bvit_mm.slim.cutting import widths_argument
from bvit_mm.slim.phases import Slimming, add_phases_

CONFIG = 'configs/demo/deit-digits_slim-retrain.py'
SHARES = [0.9, 0.8, 0.6, 0.4]
EPOCHS = 10


def config(widths: dict[str, Any], weights: str | None, folder: str) -> Config:
    """The run of a network with such widths, from these weights or from the start."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.widths = widths
    cfg.train_cfg.update(budget=None, epochs=[EPOCHS])
    cfg.load_from, cfg.work_dir = weights, folder
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    return cfg


def trained(widths: dict[str, Any], weights: str | None = None) -> tuple[float, float]:
    """Top-1 accuracy before and after training."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.from_cfg(config(widths, weights, folder))
        if weights:
            runner.load_checkpoint(weights)
        before = runner.val()['accuracy/top1']
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.from_cfg(config(widths, weights, folder))
        runner.train()
        return before, runner.val()['accuracy/top1']


def uniform_widths(share: float) -> dict[str, Any]:
    """Of the network of that cost whose modules have equally many units."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(widths=None, gates=True)
    model = build_to_count(cfg.model)
    backbone = find_backbone(model)
    add_phases_(backbone, Slimming(share), classifier_flops(model))
    return widths_argument(backbone, dict(backbone.training_stages[-1].widths))


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Accuracy over GFLOPs."""
    rows = sorted(rows, key=lambda row: row['gflops'])
    figure = Figure(figsize=(7, 4), layout='constrained')
    axis = figure.subplots()
    labels = dict(
        retrained='cut and retrained, ten epochs',
        cut='cut, not retrained',
        uniform='uniform from the start, ten epochs',
    )
    for (name, label), style in zip(labels.items(), ('o-', 's--', '^:')):
        axis.plot(
            [row['gflops'] * 1e3 for row in rows], [row[name] for row in rows], style, label=label
        )
    axis.set(xlabel='MFLOPs of one image', ylabel='top-1 accuracy, %')
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measures the sizes that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('search', help='a checkpoint of configs/demo/deit-digits_slim-search.py')
    parser.add_argument('out', type=Path)
    parser.add_argument('figure', type=Path)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else []
    init_default_scope('mmpretrain')
    search = read_search(args.search)
    with tempfile.TemporaryDirectory() as folder:
        sizes = slimmed(search, SHARES, by='share', fill=True)
        files = write_slimmed(sizes, Path(folder) / 'size')
        for share, size, (weights, written) in zip(SHARES, sizes, files):
            if any(row['share'] == share for row in found):
                continue
            widths = Config.fromfile(written).model.backbone.widths
            before, after = trained(widths, str(weights))
            _, uniform = trained(uniform_widths(share))
            reached = dict(cut=before, retrained=after, uniform=uniform)
            rounded = {name: round(value, 1) for name, value in reached.items()}
            found.append(dict(share=share, gflops=size.gflops, **rounded))
            args.out.write_text(json.dumps(found, indent=1) + '\n')
            print(found[-1], flush=True)
    draw(found, args.figure)


if __name__ == '__main__':
    main()
