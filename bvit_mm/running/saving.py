# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""When a run saves checkpoints, and those that it saves by itself."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..files import replaced, write_whole
from .last_checkpoint import INTERRUPTED, savers, write_last


def epoch_savers(runner: Runner) -> list[CheckpointHook]:
    """Those that save after epochs."""
    return [hook for hook in savers(runner.hooks) if hook.by_epoch]


def saves_now(runner: Runner) -> bool:
    """Whether a checkpoint follows the epoch that is ending."""
    return any(
        hook.every_n_epochs(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_epoch(runner))
        for hook in epoch_savers(runner)
    )


def unsaved_end(runner: Runner, is_early: bool, has_saved: bool, follows_pace: bool) -> str | None:
    """The file to save what a run ended with, if no hook has.

    Args:
        runner: The runner.
        is_early: Whether the run has ended before its plan.
        has_saved: Whether a checkpoint followed the last epoch.
        follows_pace: Whether the plan did. A hook that saves by iterations counted on more of
            them than there was time for.
    """
    hooks = savers(runner.hooks)
    names = [(hook.out_dir, hook.filename_tmpl.format(runner.iter)) for hook in hooks]
    if any(Path(*name).exists() for name in names):
        return None
    if is_early:
        return None if has_saved else INTERRUPTED
    if follows_pace and hooks and not epoch_savers(runner):
        return Path(names[0][1]).name
    return None


def keep_two_checkpoints(runner: Runner) -> None:
    """Keeps the last checkpoint until the next one is written; mmengine removes it before."""
    for hook in savers(runner.hooks):
        if hook.max_keep_ckpts == 1:
            hook.max_keep_ckpts = 2
            runner.logger.info(
                'max_keep_ckpts=1 would remove the only checkpoint before the next one is written, '
                'and a kill meanwhile lose both; 2 are kept'
            )


def write_numbers(runner: Runner, name: str, values: dict[str, Any]) -> None:
    """Writes plain numbers into a file of ``work_dir``."""
    if is_main_process():
        write_whole(Path(runner.work_dir) / name, json.dumps(values, indent=2) + '\n')


def save_checkpoint(runner: Runner, name: str) -> Path:
    """Saves a checkpoint of this moment and notes it as the last; a kill leaves the old one.

    Args:
        runner: The runner.
        name: Of the file, in ``work_dir``.
    """
    file = Path(runner.work_dir) / name
    if is_main_process():
        with replaced(file) as partial:
            runner.save_checkpoint(
                runner.work_dir,
                partial.name,
                meta=dict(epoch=runner.epoch, iter=runner.iter),
                by_epoch=False,
            )
        write_last(runner.work_dir, file)
    return file
