# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Publishes a checkpoint: OUT-<hash>.pth, small and plain, and OUT-<hash>.py, its model's config.

The hash is the first eight digits of the SHA-256 of the weights file. Nothing is overwritten
but files of the same name, which have the same weights.
"""

import argparse
import contextlib
import sys
from pathlib import Path

with contextlib.redirect_stdout(sys.stderr):  # some packages talk while they are imported
    from bvit_mm.publish.network import WEIGHTS, publish, write_hashed, write_published
    from bvit_mm.publish.timm_names import to_timm


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='a checkpoint of a budgeted run')
    parser.add_argument('out', type=Path, help='where to, such as work_dirs/deit-small')
    parser.add_argument(
        '--weights', choices=WEIGHTS, help='averaged or raw; averaged by default, if there are any'
    )
    parser.add_argument(
        '--stage', type=int, metavar='K', help='the smaller model of an unfinished checkpoint'
    )
    parser.add_argument(
        '--timm', action='store_true', help="also write OUT-timm-<hash>.pth with timm's keys"
    )
    args = parser.parse_args()
    args.out = Path(str(args.out).removesuffix('.pth'))
    try:
        published = publish(args.checkpoint, args.weights, args.stage)
        if args.timm:
            renamed = to_timm(published.checkpoint['state_dict'], published.backbone)
        files = list(write_published(published, args.out))
        if args.timm:
            files.append(write_hashed(renamed, args.out.with_name(f'{args.out.name}-timm')))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    about = published.checkpoint['meta']['bvit_mm']
    plan, full = about['plan'], about['plan']['full_cost']
    print(
        f'{about["backbone"]}, {about["weights"]} weights after epoch {about["epoch"]} of '
        f'{plan["total_epochs"]}, training stage {about["training_stage"]} of '
        f'{len(plan["stages"])}: {about["gflops"]:.4g} GFLOPs an image, trained for '
        f'{about["spent"]:.4g} GFLOPs x epochs ({about["spent"] / full:.1%} of the full cost)'
    )
    if published.backbone.plain_fault:
        print(f'its config names bvit_mm.{about["backbone"]}: {published.backbone.plain_fault}')
    for each in files:
        print(f'{each} ({each.stat().st_size / 2**20:.2f} MB)')


if __name__ == '__main__':
    main()
