# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Cuts a searched network to budgets of FLOPs: OUT-<share>-<hash>.pth and .py for each of them.

It reads no data. A larger budget keeps all units that a smaller one keeps, so one search gives
networks of many sizes. Retrain each by its config. Nothing is overwritten but files of the same
name, which have the same weights.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from _refusals import refusing

with contextlib.redirect_stdout(sys.stderr):  # some packages talk while they are imported
    from bvit_mm.publish.network import WEIGHTS, Published, write_hashed
    from bvit_mm.publish.slimmed import (
        read_search,
        sizes_table,
        slimmed,
        units_table,
        write_slimmed,
    )
    from bvit_mm.publish.timm_names import to_timm
    from bvit_mm.slim.choice import ORDERS


def arguments() -> argparse.ArgumentParser:
    """What the tool takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='a checkpoint of a run that trained gates')
    parser.add_argument('out', type=Path, help='where to, such as work_dirs/deit-small-slim')
    parser.add_argument(
        '--flops',
        nargs='+',
        required=True,
        metavar='F',
        help="budgets: shares of the whole network, such as 0.8 0.6, or '2.8 GFLOPs'",
    )
    parser.add_argument(
        '--by',
        choices=tuple(ORDERS),
        default='share',
        help='which units go first: those whose place among all of their kind is low, so that the '
        'same share of each kind stays (default), or those that do little for what they cost',
    )
    parser.add_argument(
        '--only',
        choices=('hidden', 'heads', 'dims'),
        help='cut this kind of unit only; the other stays',
    )
    parser.add_argument(
        '--multiple', type=int, default=1, metavar='N', help='hidden units in multiples of N'
    )
    parser.add_argument(
        '--fill',
        action='store_true',
        help='spend what is left on hidden units; sizes are then not nested',
    )
    parser.add_argument(
        '--weights', choices=WEIGHTS, help='averaged or raw; averaged by default, if there are any'
    )
    parser.add_argument(
        '--padded',
        action='store_true',
        help='keep the shapes of the whole network, with zeros, for programs that take no others; '
        'it saves nothing',
    )
    parser.add_argument(
        '--timm',
        action='store_true',
        help="with --padded: also write OUT-<share>-timm-<hash>.pth with timm's keys",
    )
    return parser


def main() -> None:
    """Runs the tool."""
    parser = arguments()
    args = parser.parse_args()
    if args.timm and not args.padded:
        parser.error(
            "--timm needs --padded: the blocks of timm's networks are alike, so a network whose "
            'blocks differ does not fit; add --padded, or drop --timm'
        )
    options = {name: getattr(args, name) for name in ('padded', 'by', 'only', 'multiple', 'fill')}
    args.out = Path(str(args.out).removesuffix('.pth'))
    with refusing(parser.error):
        search = read_search(args.checkpoint, args.weights)
        sizes = slimmed(search, args.flops, **options)
        renamed = [
            to_timm(size.published.checkpoint['state_dict'], size.published.backbone)
            for size in sizes
            if args.timm
        ]
        files = [list(each) for each in write_slimmed(sizes, args.out)]
        for size, of_size, weights in zip(sizes, files, renamed):
            place = size.place(args.out)
            of_size.append(write_hashed(weights, place.with_name(f'{place.name}-timm')))
    backbone = search.trained.backbone
    print(f'{type(backbone).__name__}, {search.trained.weights} weights', end=' ')
    print(f'after epoch {search.trained.meta["epoch"]}')
    print(f'\n{sizes_table(search, sizes)}\n\n{units_table(search, sizes)}\n')
    for size, of_size in zip(sizes, files):
        print(f'{size.asked} {_loads_into(size.published)}')
        for file in of_size:
            print(f'  {file} ({file.stat().st_size / 2**20:.2f} MB)')


def _loads_into(published: Published) -> str:
    """Which class a config names, and so what has it."""
    kind = published.config.model.backbone.type
    if kind == published.backbone.plain_type:
        return f"is a network of mmpretrain's {kind}, which needs no bvit_mm:"
    return f'is a network of bvit_mm.{type(published.backbone).__name__}:'


if __name__ == '__main__':
    main()
