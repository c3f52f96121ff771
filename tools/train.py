# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Trains a config: mmpretrain's own ``tools/train.py``, flag for flag.

A config of mmdet or mmseg (its ``default_scope``) goes to that package's own tool. Two checks
come first: a ``work_dir`` that holds a run with another plan is refused before mmengine writes
its copy of the config there, and stages that no loop plans before data is read.
"""

from _stock import stock_tool
from mmengine.config import Config

from bvit_mm.cost import is_budgeted, plan_of_config
from bvit_mm.loop import check_work_dir


def main() -> None:
    """Runs the tool."""
    stock = stock_tool('train')
    args = stock.parse_args()  # the others' flags are among mmpretrain's
    cfg = Config.fromfile(args.config)
    scope = cfg.get('default_scope', 'mmpretrain')
    if scope != 'mmpretrain':
        stock_tool('train', scope).main()
        return
    cfg = stock.merge_args(cfg, args)
    hooks = [hook.get('type') for hook in cfg.get('custom_hooks') or []]
    if is_budgeted(cfg) or 'bvit_mm.StageSwitchHook' in hooks:
        plan, _ = plan_of_config(cfg)
        check_work_dir(cfg.work_dir, plan)
    stock.main()


if __name__ == '__main__':
    main()
