# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Measures how much heads, hidden units and tokens repeat each other over a run (Fig. 2 to 4).

Of checkpoints of a run it writes OUT/redundancy.json and figures; of a redundancy.jsonl, which
RedundancyHook writes during training, figures alone.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _threads  # noqa: F401  before torch
from _refusals import refusing
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn
from torch.utils.data import Dataset

with contextlib.redirect_stdout(sys.stderr):  # some packages talk while they are imported
    from bvit_mm.analysis.hook import read_records
    from bvit_mm.analysis.measure import image_loader, measure_class_attention, measure_redundancy
    from bvit_mm.building import build_to_count, model_config
    from bvit_mm.publish.network import WEIGHTS, choose_weights
    from bvit_mm.reading.saved_config import check_buildable, read_config
    from bvit_mm.reading.weights import load_strictly, read_checkpoint

WHAT = ('cka', 'pca', 'attention')
SHOWN = 6  # images on which attention is drawn


def argument_parser() -> argparse.ArgumentParser:
    """The flags of the tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoints', nargs='*', type=Path, help='of one run, such as work_dirs/mine/epoch_*.pth'
    )
    parser.add_argument(
        '--what',
        nargs='+',
        choices=WHAT,
        default=['cka', 'pca'],
        help='CKA between heads (Fig. 2), principal components of hidden units (Fig. 3), attention '
        'of the class token (Fig. 4; not of pyramids, which have none)',
    )
    parser.add_argument('--out', type=Path, required=True, help='a folder for numbers and figures')
    parser.add_argument('--format', choices=['pdf', 'png', 'svg'], default='pdf', help='of figures')
    parser.add_argument(
        '--images', metavar='DIR', type=Path, help="of images, instead of the config's val set"
    )
    parser.add_argument(
        '--num-images', type=int, default=256, help='spread evenly over the images there are'
    )
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        default='raw',
        help='those that were trained, as RedundancyHook measures them, or averaged ones (ema)',
    )
    parser.add_argument('--config', help='instead of the one that a checkpoint holds')
    parser.add_argument('--block', help='of which attention is drawn; by default a shallow one')
    parser.add_argument('--workers', type=int, default=0, help='processes that read images')
    parser.add_argument(
        '--log', metavar='FILE', type=Path, help='a redundancy.jsonl, instead of checkpoints'
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises ValueError if flags do not go together, or name what is not there."""
    if bool(args.log) == bool(args.checkpoints):
        raise ValueError('give checkpoints to measure, or --log redundancy.jsonl: one of them')
    if args.log and 'attention' in args.what:
        raise ValueError('--log has no attention of the class token; give checkpoints')
    if args.num_images < 1:
        raise ValueError(f'--num-images {args.num_images} must be 1 or more')
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f'--out {args.out} is no folder; give another')
    for file in (*args.checkpoints, *filter(None, [args.log])):
        if not file.is_file():
            raise ValueError(f'{file} does not exist')


def measured(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Sequence[Tensor]]:
    """What the flags ask for, from a log or by measuring, and images to draw attention on.

    Raises:
        ValueError: If it cannot be measured, or there is nothing to draw.
    """
    if args.log:
        records, shown = read_records(args.log), []
    else:
        # What others print on the way is no answer, so it goes where errors go.
        with contextlib.redirect_stdout(sys.stderr):
            records, shown = _measure(args)
    if not records:
        raise ValueError(f'{args.log} has no records; give that of a run that has')
    if 'cka' in args.what and not any(record['cka'] for record in records):
        raise ValueError(
            'every attention has one head, so there are no pairs whose CKA could be measured; give '
            'checkpoints of later training stages, or leave out cka'
        )
    return records, shown


def _measure(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Sequence[Tensor]]:
    """What each checkpoint's network is like, by epoch, and the images attention is drawn on."""
    records, dataset, shown = [], None, []
    for file in args.checkpoints:
        model, cfg, epoch = _trained(file, args)
        if dataset is None:
            dataset = _images(args, cfg)
            if 'attention' in args.what:
                (shown,) = image_loader(dataset, min(SHOWN, args.num_images))
        record = dict(epoch=epoch, checkpoint=str(file))
        if 'attention' in args.what:  # first, because it may be refused
            attention = measure_class_attention(model, [shown], args.block)
            record['attention'] = {**attention._asdict(), 'maps': attention.maps.tolist()}
        loader = image_loader(dataset, args.num_images, args.workers)
        record.update(measure_redundancy(model, loader, args.what))
        records.append(record)
        print(_line(record), file=sys.stderr)
    return sorted(records, key=lambda record: record['epoch']), shown


def _trained(file: Path, args: argparse.Namespace) -> tuple[nn.Module, Config, int]:
    """The model of a checkpoint, at its training stage; its config and finished epochs."""
    advice = 'give one of training, such as work_dirs/mine/epoch_300.pth'
    checkpoint = read_checkpoint(str(file), advice)
    meta = checkpoint.get('meta') or {}
    if 'state_dict' not in checkpoint or 'epoch' not in meta:
        raise ValueError(f'{file} is no checkpoint of training; {advice}')
    if not args.config and not meta.get('cfg'):
        raise ValueError(f'{file} holds no config; give --config, the one it was trained with')
    if args.config:
        cfg = Config.fromfile(args.config)
    else:
        cfg = read_config(meta['cfg'], file)
        built = ('model', 'data_preprocessor', 'val_dataloader')
        check_buildable({name: cfg.get(name) for name in built}, file)
    if not cfg.get('model'):
        raise ValueError(f'{args.config or file} has no model; give a config that has')
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    model = build_to_count(model_config(cfg))
    _, state_dict = choose_weights(checkpoint, args.weights, str(file))
    load_strictly(model, state_dict, str(file))
    return model.to(get_device()), cfg, meta['epoch']


def _images(args: argparse.Namespace, cfg: Config) -> Dataset:
    """The data set to measure on, read as the config reads images for validation."""
    dataset = (cfg.get('val_dataloader') or {}).get('dataset')
    if dataset is None or (args.images and 'pipeline' not in dataset):
        raise ValueError(
            'the config does not say how to read images (val_dataloader.dataset.pipeline); give '
            'a --config that does'
        )
    if args.images:
        if not args.images.is_dir():
            raise ValueError(f'--images {args.images} is no folder')
        dataset = dict(
            type='mmpretrain.CustomDataset',
            data_root=str(args.images),
            with_label=False,
            pipeline=dataset.pipeline,
        )
    try:
        return DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise ValueError(f'{error}; give --images, a folder with some') from None
    except RuntimeError as error:  # mmpretrain's for a folder without images
        raise ValueError(f'{args.images or "the validation set"} has no images: {error}') from None


def _line(record: dict[str, Any]) -> str:
    """The means of a record over blocks."""
    texts = [f'epoch {record["epoch"]}']
    if record['training_stage']:
        texts.append(f'training stage {record["training_stage"]}')
    for part, number, text in (('cka', 'mean', 'CKA'), ('pca', 'share', 'components')):
        values = [block[number] for block in record.get(part, {}).values()]
        values = [value for value in values if value is not None]
        if values:
            texts.append(f'{text} {sum(values) / len(values):.3f}')
    return ', '.join(texts)


def write(
    args: argparse.Namespace, records: Sequence[dict[str, Any]], shown: Sequence[Tensor]
) -> list[Path]:
    """Writes numbers, if they are new, and figures; the files."""
    # Only here is matplotlib needed.
    from bvit_mm.analysis.figures import draw_attention, draw_lines, draw_matrices

    args.out.mkdir(parents=True, exist_ok=True)
    names = ['cka', 'cka_matrices', 'components', 'attention']
    cka, matrices, components, attention = (args.out / f'{n}.{args.format}' for n in names)
    files = []
    if not args.log:
        files.append(args.out / 'redundancy.json')
        files[0].write_text(json.dumps(records, indent=1) + '\n')
    if 'cka' in args.what:
        draw_lines(records, 'cka', dict(mean=('mean CKA of pairs of heads', 1)), cka)
        draw_matrices(records, matrices)
        files += [cka, matrices]
    if 'pca' in args.what:
        numbers = dict(
            share=('components for 99 %\nof variance, % of units', 100),
            components=('components for 99 %\nof variance', 1),
        )
        draw_lines(records, 'pca', numbers, components)
        files.append(components)
    if 'attention' in args.what:
        draw_attention(shown, records, attention)
        files.append(attention)
    return files


def main() -> None:
    """Runs the tool."""
    parser = argument_parser()
    args = parser.parse_args()
    with refusing(parser.error):
        check(args)
        records, shown = measured(args)
    try:
        files = write(args, records, shown)
    except OSError as error:
        raise SystemExit(f'--out {args.out} cannot be written: {error}') from None
    for file in files:
        print(file)


if __name__ == '__main__':
    main()
