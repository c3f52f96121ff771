# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Trains a config: mmpretrain's own ``tools/train.py``, flag for flag.

A config of mmdet or mmseg (its ``default_scope``) goes to that package's own tool. Two checks
come first: a ``work_dir`` that holds a run with another plan is refused before mmengine writes
its copy of the config there, and stages that no loop plans before data is read. Several processes
(``--launcher pytorch``) also work without a GPU.
"""

import _threads  # noqa: F401  before torch
from _processes import connect_cpu_processes
from _stock import stock_tool
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from bvit_mm.config_types import builds
from bvit_mm.cost import budget_of_config, is_budgeted
from bvit_mm.registry import HOOKS
from bvit_mm.running.resumption import check_work_dir
from bvit_mm.stage_switch_hook import StageSwitchHook


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
    hooks = cfg.get('custom_hooks') or []
    if is_budgeted(cfg) or any(builds(hook, HOOKS, StageSwitchHook) for hook in hooks):
        budget, plan, _ = budget_of_config(cfg)
        check_work_dir(cfg.work_dir, plan, budget)
    connect_cpu_processes(cfg, args.launcher)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()


if __name__ == '__main__':
    main()
