# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Evaluates a checkpoint: mmpretrain's own ``tools/test.py``, flag for flag.

A config of mmdet or mmseg (its ``default_scope``) goes to that package's own tool. A checkpoint
that does not fit the config is refused first, where mmengine warns and tests random weights.
"""

import sys

import _threads  # noqa: F401  before torch
from _stock import stock_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope

from bvit_mm.building import build_to_count
from bvit_mm.reading.weights import load_strictly, read_checkpoint


def main() -> None:
    """Runs the tool."""
    args = stock_tool('test').parse_args()  # the others' flags are among mmpretrain's
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    scope = cfg.get('default_scope', 'mmpretrain')
    stock = stock_tool('test', scope)
    init_default_scope(scope)
    try:
        checkpoint = read_checkpoint(args.checkpoint)
        weights = checkpoint.get('state_dict', checkpoint)
        load_strictly(build_to_count(cfg.model), weights, args.checkpoint)
    except (ValueError, FileNotFoundError) as error:
        print(f'test.py: error: {error}', file=sys.stderr)
        raise SystemExit(2) from None
    stock.main()


if __name__ == '__main__':
    main()
