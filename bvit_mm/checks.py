# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a budgeted run is refused for before it starts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .config_types import type_name
from .hook import StageSwitchHook
from .ledger import Ledger
from .mmengine_gaps import is_to_resume, load_from, set_load_from
from .plan import Plan
from .resumable import last_whole_checkpoint
from .snapshot import lasting_iterators
from .subset_hook import SubsetHook
from .training_stages import is_whole_number
from .weights import read_checkpoint

PLAN_FILE = 'plan.json'
STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')
SCHEDULES = ('epochs', 'budget')


def check_work_dir(work_dir: str | Path, plan: Plan) -> None:
    """Raises ValueError if the folder holds a run with another plan."""
    plan_file = Path(work_dir) / PLAN_FILE
    if not plan_file.exists():
        return
    try:
        other = json.loads(plan_file.read_text())
    except (ValueError, OSError):  # the latter of a folder
        other = None
    if not _is_plan(other):
        raise ValueError(f'{plan_file} is damaged; remove it, or give another work_dir')
    plan.check_same(other, f'{work_dir} holds a run')


def check_resumed(runner: Runner, plan: Plan, schedule: str) -> dict[str, Any] | None:
    """What the checkpoint to resume says of its run; the runner will load that one.

    Raises:
        ValueError: If it cannot be read, is not of a budgeted run, or of one with another plan.
    """
    if not is_to_resume(runner):
        return None
    file = load_from(runner)
    if file:
        checkpoint = read_checkpoint(file, advice='give --resume an earlier one')
    else:
        found = last_whole_checkpoint(runner.work_dir, runner.hooks)
        if found is None:
            return None
        file, checkpoint = found
        set_load_from(runner, file)
    meta = checkpoint.get('meta')
    saved = meta.get('bvit_mm') if isinstance(meta, dict) else None
    if not isinstance(saved, dict):
        raise ValueError(
            f'{file} is not of a budgeted run and cannot be resumed; start from its weights with '
            'load_from and without resume, or give a checkpoint of BudgetedTrainLoop'
        )
    if 'batches_done' not in saved:
        raise ValueError(
            f'{file} is published, without what resuming needs; start from its weights with '
            'load_from and without resume, or give a checkpoint of the run'
        )
    if 'ledger' not in saved:
        raise ValueError(
            f'{file} is of an earlier bvit_mm, which drew random numbers otherwise, so it cannot '
            'be resumed exactly; finish it with that version, or start from its weights with '
            'load_from and without resume'
        )
    lacks = _what_is_lost(meta)
    if lacks:
        raise ValueError(
            f'{file} is damaged, it lacks {" and ".join(lacks)} of its run; give --resume an '
            'earlier one'
        )
    plan.check_same(saved['plan'], f'{file} is of a run')
    if saved.get('schedule', schedule) != schedule:
        raise ValueError(
            f'{file} is of a run with schedule={saved["schedule"]!r}, and this one has '
            f'{schedule!r}, so learning rates would jump; give train_cfg.schedule as it was'
        )
    return saved


def keep_two_checkpoints(runner: Runner) -> None:
    """Keeps the last checkpoint until the next one is written; mmengine removes it before."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1:
            hook.max_keep_ckpts = 2
            runner.logger.info(
                'max_keep_ckpts=1 would remove the only checkpoint before the next one is written, '
                'and a kill meanwhile lose both; 2 are kept'
            )


def check_runner_for_hours(runner: Runner) -> None:
    """Raises ValueError if schedulers cannot be built again when the stages are timed."""
    if not hasattr(runner, 'build_param_scheduler'):
        raise ValueError(
            f"a budget in hours needs mmengine's Runner, not {type(runner).__name__}; leave out "
            'runner_type, or give a budget in GFLOPs'
        )


def _is_plan(value: Any) -> bool:
    """Whether it is what ``Plan.as_dict`` returns, as far as runs are compared."""
    stages = value.get('stages') if isinstance(value, dict) else None
    return isinstance(stages, list) and all(
        isinstance(stage, dict) and {'gflops', 'epochs'} <= stage.keys() for stage in stages
    )


def _what_is_lost(meta: dict[str, Any]) -> list[str]:
    """What resuming needs and the metadata of a checkpoint, which hold a ledger, have not."""
    saved = meta['bvit_mm']
    ledger, saved_plan = saved['ledger'], saved.get('plan')
    lost = [f'the {name}' for name in ('epoch', 'iter') if name not in meta]
    if not isinstance(ledger, dict) or not {'gflops', 'length', 'batch'} <= ledger.keys():
        lost.append('the ledger')
    if not _is_plan(saved_plan):
        lost.append('the plan')
    elif saved_plan.get('seconds') and meta.get('iter') and saved.get('pace') is None:
        lost.append('the pace')
    return lost


def check_sampler(loader: DataLoader) -> None:
    """Raises ValueError if the order of training data cannot be gone back in."""
    drawing = dict(sampler=loader.sampler, batch_sampler=loader.batch_sampler)
    for name, sampler in drawing.items():
        places = lasting_iterators(sampler, without=[loader.dataset])
        if places:
            raise ValueError(
                f'train_dataloader.{name}={type(sampler).__name__} keeps an iterator '
                f'({places[0]}) that goes on from epoch to epoch. No resumed run can go back in '
                'it, nor a run that has tried a batch before; give '
                "sampler=dict(type='DefaultSampler', shuffle=True)"
            )


def check_length(saved: dict[str, Any] | None, ledger: Ledger, runner: Runner) -> None:
    """Raises ValueError unless epochs have iterations, and those of a resumed run's length."""
    if not ledger.length:
        raise ValueError(
            'an epoch of train_dataloader has no iteration; give more data, a smaller '
            'train_dataloader.batch_size, or drop_last=False'
        )
    if saved is None:
        return
    before, now = (
        f'{n} iterations of {batch} samples'
        for n, batch in (
            (saved['ledger']['length'], saved['ledger']['batch']),
            (ledger.length, ledger.batch),
        )
    )
    if before != now:
        raise ValueError(
            f'{load_from(runner)} is of a run with {before} an epoch, but this one has {now} '
            f'({runner.world_size} processes); resume with the same data, and with '
            'train_dataloader.batch_size x processes as it was'
        )


def find_hook(runner: Runner) -> StageSwitchHook:
    """The hook that switches the stages.

    Raises:
        ValueError: If there is none.
    """
    for hook in runner.hooks:
        if isinstance(hook, StageSwitchHook):
            return hook
    raise ValueError(
        'BudgetedTrainLoop plans training stages, but nothing switches them; '
        "add dict(type='bvit_mm.StageSwitchHook') to custom_hooks"
    )


def check_launcher(runner: Runner) -> None:
    """Raises ValueError if several processes were started that would not train together."""
    started = int(os.environ.get('WORLD_SIZE', 1)) if 'TORCHELASTIC_RUN_ID' in os.environ else 1
    if max(started, get_world_size()) > 1 and not runner.distributed:
        raise ValueError(
            f'launcher={runner.launcher!r}, but this is one of {max(started, get_world_size())} '
            'processes: each would train by itself, all into one work_dir; '
            "give launcher='pytorch' (tools/train.py --launcher pytorch)"
        )


def check_strategy(runner: Runner) -> None:
    """Raises ValueError if something shards or copies the parameters that growth writes."""
    strategy = type(getattr(runner, 'strategy', None)).__name__
    wrapper = runner.model if is_model_wrapper(runner.model) else None
    if getattr(wrapper, 'static_graph', False):
        raise ValueError(
            'static_graph=True of model_wrapper_cfg lets DistributedDataParallel learn the graph '
            'from its first step, but a trial comes before that, and stages have graphs of their '
            'own: gradients would not be shared. Leave it out'
        )
    if strategy not in (*STRATEGIES, 'NoneType'):
        problem = f'the strategy {strategy}'
    elif wrapper is not None and not isinstance(wrapper, DistributedDataParallel):
        problem = f'the model wrapper {type(wrapper).__name__}'
    else:
        return
    raise ValueError(
        f'{problem} shards or copies the parameters, so weights that grow would be overwritten; '
        'train with one process or with DistributedDataParallel'
    )


def check_schedulers(runner: Runner, configs: Any, plan: Plan) -> None:
    """Raises ValueError if a scheduler begins after the plan; warns if all end elsewhere."""
    schedulers = [s for s in flat(configs) if isinstance(s, dict) and s.get('by_epoch', True)]
    for scheduler in schedulers:
        begin = scheduler.get('begin', 0)
        if not is_whole_number(begin):
            raise ValueError(
                f'begin={begin!r} of the scheduler {type_name(scheduler)} must be a whole number '
                'of epochs'
            )
        if begin >= plan.total_epochs:
            raise ValueError(
                f'the plan has {plan.total_epochs} epochs {list(plan.epochs)}, but the scheduler '
                f'{type_name(scheduler)} begins at epoch {begin}; '
                'raise the budget, or shorten what comes before it (warm-up)'
            )
    stated = [s.get('end') for s in schedulers]
    if stated and None not in stated and max(stated) != plan.total_epochs:
        what = 'a budget in hours' if plan.seconds else f'{plan.total_epochs} epochs'
        runner.logger.warning(
            f'the schedulers are stated up to epoch {max(stated)}, but the plan has '
            f'{what}; leave out `end` (and `T_max`) and they follow the budget'
        )


def flat(schedulers: Any) -> list[Any]:
    """Schedulers, or their configs, of one optimizer or of several, in one list."""
    if schedulers is None:
        return []
    if isinstance(schedulers, dict) and 'type' not in schedulers:
        return [each for several in schedulers.values() for each in flat(several)]
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def check_subset_hooks(runner: Runner, model: nn.Module, loop: EpochBasedTrainLoop) -> None:
    """Raises ValueError if data cannot be selected for this run (``SubsetHook``)."""
    for hook in runner.hooks:
        if not isinstance(hook, SubsetHook):
            continue
        hook.check(runner, model, loop.dataloader)
        if hook.weighs and (loop.finds_parts or max(loop.parts) > 1):
            raise ValueError(
                "selection='gradmatch' weighs the samples of whole mini-batches, but "
                'accumulative_counts of train_cfg divides them; leave it out, and accumulate '
                'mini-batches with optim_wrapper.accumulative_counts'
            )
        if hook.weighs and loop.hours is not None:
            raise ValueError(
                "selection='gradmatch' takes time that a budget in hours does not plan; state "
                "epochs, or give selection='random'"
            )


def check_validation(val_begin: int, val_interval: int) -> None:
    """Raises ValueError unless it can be told after which epochs to validate."""
    if not is_whole_number(val_begin):
        raise ValueError(f'val_begin={val_begin!r} of train_cfg must be a whole number of epochs')
    if not is_whole_number(val_interval) or val_interval < 1:
        raise ValueError(
            f'val_interval={val_interval!r} of train_cfg must be a whole number of epochs, at '
            'least 1; to validate at the end only, give one above the number of epochs'
        )


def check_schedule(schedule: str | None, in_hours: bool) -> str:
    """What schedulers go by, with its default.

    Raises:
        ValueError: If it is not known, or cannot be for a budget in hours.
    """
    if schedule is None:
        return 'budget' if in_hours else 'epochs'
    if schedule not in SCHEDULES:
        raise ValueError(f'schedule={schedule!r} is not known; give one of {SCHEDULES}')
    if in_hours and schedule == 'epochs':
        raise ValueError(
            "schedule='epochs' needs to know how many epochs there will be, which a budget in "
            "hours does not; give schedule='budget', or a budget in GFLOPs"
        )
    return schedule


def check_parts(counts: Sequence[int] | str | None, stages: int) -> tuple[int, ...]:
    """Into how many parts each training stage divides a batch.

    Raises:
        ValueError: If ``counts`` is neither ``'auto'`` nor a number for each stage.
    """
    if counts is None or counts == 'auto':
        return (1,) * stages
    if (
        isinstance(counts, str)
        or not isinstance(counts, Sequence)
        or len(counts) != stages
        or any(not is_whole_number(n) or n < 1 for n in counts)
    ):
        raise ValueError(
            f"accumulative_counts={counts!r} of train_cfg must be 'auto', or a list of {stages} "
            'whole numbers, at least 1, one for each training stage (the optimizer has one of its '
            'own, optim_wrapper.accumulative_counts)'
        )
    return tuple(counts)
