# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a budgeted run is refused for before it starts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from .hook import StageSwitchHook
from .plan import Plan
from .resumable import last_whole_checkpoint
from .training_stages import is_whole_number
from .weights import read_checkpoint

PLAN_FILE = 'plan.json'
STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')
SCHEDULES = ('epochs', 'budget')


def check_work_dir(work_dir: str | Path, plan: Plan) -> None:
    """Raises ValueError if the folder holds a run with another plan."""
    plan_file = Path(work_dir) / PLAN_FILE
    if not plan_file.is_file():
        return
    try:
        other = json.loads(plan_file.read_text())
    except ValueError:
        raise ValueError(f'{plan_file} is damaged; remove it, or give another work_dir') from None
    plan.check_same(other, f'{work_dir} holds a run')


def check_resumed(runner: Runner, plan: Plan) -> dict[str, Any] | None:
    """What the checkpoint to resume says of its run; the runner will load that one.

    Raises:
        ValueError: If it cannot be read, is not of a budgeted run, or of one with another plan.
    """
    if not runner._resume:
        return None
    if runner._load_from:
        file = runner._load_from
        checkpoint = read_checkpoint(file, advice='give --resume an earlier one')
    else:
        found = last_whole_checkpoint(runner.work_dir)
        if found is None:
            return None
        file, checkpoint = found
        runner._load_from = file
    saved = checkpoint.get('meta', {}).get('bvit_mm')
    if saved is None:
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
            f'{file} is of a run of bvit_mm 0.1, which drew random numbers otherwise, so it cannot '
            'be resumed exactly; finish it with that version, or start from its weights with '
            'load_from and without resume'
        )
    plan.check_same(saved['plan'], f'{file} is of a run')
    return saved


def check_length(saved: dict[str, Any], length: int, runner: Runner) -> None:
    """Raises ValueError unless epochs have as many iterations as those of a resumed run."""
    before = saved['ledger']['length']
    if before != length:
        raise ValueError(
            f'{runner._load_from} is of a run with {before} iterations an epoch, but this one has '
            f'{length} with {runner.world_size} processes; resume with the same data, and with '
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
        if begin >= plan.total_epochs:
            raise ValueError(
                f'the plan has {plan.total_epochs} epochs {list(plan.epochs)}, but the scheduler '
                f'{scheduler.get("type")} begins at epoch {begin}; '
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
