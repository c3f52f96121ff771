# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What mmengine and mmpretrain keep private and exact training needs.

Nothing else reaches into their privates, so a new release of theirs has this file to check.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import _ParamScheduler
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from mmpretrain.models.losses import LabelSmoothLoss
from torch import nn
from torch.utils.data import DataLoader

SchedulerLike: TypeAlias = _ParamScheduler


def is_to_resume(runner: Runner) -> bool:
    """Whether the run goes on from a checkpoint."""
    return runner._resume


def has_loaded(runner: Runner) -> bool:
    """Whether the runner has read its checkpoint."""
    return runner._has_loaded


def load_from(runner: Runner) -> str | None:
    """The file that weights are loaded from."""
    return runner._load_from


def set_load_from(runner: Runner, file: str) -> None:
    """Names the file that the runner will resume from."""
    runner._load_from = file


def has_train_loop(runner: Runner) -> bool:
    """Whether the train loop is built; asking for it would build it."""
    return isinstance(runner._train_loop, BaseLoop)


def has_seeds_by_rank(runner: Runner) -> bool:
    """Whether processes have seeds of their own (``randomness.diff_rank_seed``)."""
    return bool(runner._randomness_cfg.get('diff_rank_seed', False))


def replace_hook(runner: Runner, kind: type[Hook], new: Hook) -> None:
    """Puts a hook into the place of those of a class, default ones included."""
    for i, hook in enumerate(runner._hooks):
        if isinstance(hook, kind):
            new.priority = hook.priority
            runner._hooks[i] = new


def restart_workers(loader: DataLoader) -> None:
    """Lets a data loader start its workers anew, the next time that it is read."""
    loader._iterator = None


def steps_done(scheduler: SchedulerLike) -> int:
    """How many steps a scheduler has made."""
    return scheduler._global_step


def set_inner_count(wrapper: OptimWrapper, count: int) -> None:
    """Says how many batches an optimizer wrapper has accumulated."""
    wrapper._inner_count = count


def update_each_time(wrapper: OptimWrapper) -> None:
    """Lets an optimizer wrapper update after every batch."""
    wrapper._accumulative_counts = 1


def initialize_anew(module: nn.Module) -> None:
    """Lets ``init_weights`` draw the weights of a module again."""
    if isinstance(module, BaseModule):
        module._is_init = False


def smoothing(loss: Any) -> float:
    """What a loss takes from a label for the other classes."""
    return loss._eps if isinstance(loss, LabelSmoothLoss) else 0.0


def is_compiled(model: nn.Module) -> bool:
    """Whether the runner has put a compiled ``train_step`` over that of the model's class."""
    return 'train_step' in vars(model)


def checkpoint_loaders() -> dict[str, Callable[..., Any]]:
    """What reads checkpoints, by how their addresses begin."""
    return dict(CheckpointLoader._schemes)


def history_methods() -> dict[str, Callable[..., Any]]:
    """The methods that all history buffers share, by name; changes of it are theirs."""
    HistoryBuffer()  # which the first one registers, but not one that is read
    return HistoryBuffer._statistics_methods


def run_forward(model: Any, data: Any) -> Any:
    """The losses of preprocessed data, a dict or a sequence, as ``train_step`` computes them."""
    return model._run_forward(data, mode='loss')


def put_after(runner: Runner, place: Hook, new: Hook) -> None:
    """Puts a hook right after another one, with its priority, in place of others of its kind."""
    kept = [hook for hook in runner._hooks if not isinstance(hook, type(new))]
    kept.insert(kept.index(place) + 1, new)
    new.priority = place.priority
    runner._hooks[:] = kept


def replace_or_register(runner: Runner, new: Hook) -> None:
    """Registers a hook, in place of others of its kind."""
    runner._hooks[:] = [hook for hook in runner._hooks if not isinstance(hook, type(new))]
    runner.register_hook(new)
