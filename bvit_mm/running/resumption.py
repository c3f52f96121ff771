# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The contract of a resumed run: the same plan, the same schedule, epochs of the same length."""

import json
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from ..budget import Budget, amount_of, described
from ..ledger import Ledger
from ..mmengine_gaps import is_to_resume, load_from, set_load_from
from ..plan import Plan
from ..reading.weights import read_checkpoint
from .last_checkpoint import check_savers, last_whole_checkpoint
from .old_records import plan_of_today
from .saving import keep_two_checkpoints

PLAN_FILE = 'plan.json'


class Resumption:
    """What a run that is resumed goes on from, and what its folder must not hold.

    The runner will load the checkpoint that was found.

    Args:
        runner: The runner.
        plan: What is planned.
        budget: The budget of the plan.
        schedule: What schedulers go by.

    Raises:
        ValueError: If the folder, or the checkpoint to resume, holds a run with another plan; if
            that cannot be read, or is not of a budgeted run.
    """

    def __init__(self, runner: Runner, plan: Plan, budget: Budget, schedule: str) -> None:
        self._runner = runner
        check_work_dir(runner.work_dir, plan, budget)
        check_savers(runner.hooks, runner.work_dir)
        self._saved = _saved(runner, plan, budget, schedule)
        keep_two_checkpoints(runner)

    def check_length(self, ledger: Ledger) -> None:
        """Raises ValueError unless epochs are as long as those of the run that is resumed."""
        if self._saved is None:
            return
        saved = self._saved['ledger']
        before, now = (
            f'{n} iterations of {batch} samples'
            for n, batch in ((saved['length'], saved['batch']), (ledger.length, ledger.batch))
        )
        if before != now:
            raise ValueError(
                f'{load_from(self._runner)} is of a run with {before} an epoch, but this one has '
                f'{now} ({self._runner.world_size} processes); resume with the same data, and with '
                'train_dataloader.batch_size x processes as it was'
            )


def check_work_dir(work_dir: str | Path, plan: Plan, budget: Budget) -> None:
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
    check_same(plan, budget, other, f'{work_dir} holds a run')


def check_same(plan: Plan, budget: Budget, other: dict[str, Any], where: str) -> None:
    """Raises ValueError if ``other``, a plan's ``as_dict``, trains other stages or epochs.

    If the epochs follow the pace of training, the budget must be the same, not they.

    Args:
        plan: This run's.
        budget: This run's.
        other: The other run's, with its budget's.
        where: It was found, for the message.
    """
    other, mine = plan_of_today(other), budget.as_dict()
    if amount_of(other) != amount_of(mine):
        raise ValueError(
            f'{where} with {described(other)}, and this one has {described(mine)}; give another '
            'work_dir, or the options of that run'
        )
    if budget.follows_pace and _lengths(other) != _lengths(mine):
        raise ValueError(
            f'{where} with stages of other relative lengths ({_lengths(other)}) than this one '
            f'({_lengths(mine)}); give another work_dir, or its alpha, seed and family, or its '
            'shares'
        )
    for name, default in (('epoch_share', 1.0), ('charges', [])):
        theirs, ours = (values.get(name, default) for values in (other, plan.as_dict()))
        if theirs != ours:
            theirs, ours = _in_words(theirs), _in_words(ours)
            raise ValueError(
                f'{where} with {name}={theirs}, and this one has {ours}; give another '
                'work_dir, or the sampler and hooks of that run'
            )
    epochs = [stage['epochs'] for stage in other['stages']]
    gflops = [stage['gflops'] for stage in other['stages']]
    are_others = epochs != list(plan.epochs) and not budget.follows_pace
    if are_others or gflops != list(plan.gflops):
        theirs, ours = ([float(f'{g:.6g}') for g in each] for each in (gflops, plan.gflops))
        raise ValueError(
            f'{where} with another plan: epochs={epochs} at {theirs} GFLOPs, and this one is '
            f'epochs={list(plan.epochs)} at {ours} GFLOPs; give another work_dir, or the '
            'options of that run'
        )


def _lengths(values: dict[str, Any]) -> str:
    """How long a budget makes stages that follow the pace of training, in words."""
    shares = values.get('shares')
    return f'{values.get("weights")}' if shares is None else f'shares={shares}'


def _in_words(value: Any) -> Any:
    """An epoch's share as it is; charges by their names and intervals."""
    if not isinstance(value, list):
        return value
    return [f'{each["name"]} every {each["interval"]} epochs' for each in value]


def _saved(runner: Runner, plan: Plan, budget: Budget, schedule: str) -> dict[str, Any] | None:
    """What the checkpoint to resume says of its run; None if there is none."""
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
    saved = _state(file, checkpoint)
    check_same(plan, budget, saved['plan'], f'{file} is of a run')
    if saved.get('schedule', schedule) != schedule:
        raise ValueError(
            f'{file} is of a run with schedule={saved["schedule"]!r}, and this one has '
            f'{schedule!r}, so learning rates would jump; give train_cfg.schedule as it was'
        )
    return saved


def _state(file: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of a budgeted run.

    Raises:
        ValueError: If it has not, or not all of it.
    """
    meta: Any = checkpoint.get('meta')
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
    return saved


def _what_is_lost(meta: dict[str, Any]) -> list[str]:
    """What resuming needs and the metadata of a checkpoint, which hold a ledger, have not."""
    saved = meta['bvit_mm']
    ledger, saved_plan = saved['ledger'], saved.get('plan')
    lost = [f'the {name}' for name in ('epoch', 'iter') if name not in meta]
    if not isinstance(ledger, dict) or not {'gflops', 'length', 'batch'} <= ledger.keys():
        lost.append('the ledger')
    if not _is_plan(saved_plan):
        lost.append('the plan')
    elif amount_of(saved_plan) and meta.get('iter') and saved.get('pace') is None:
        lost.append('the pace')
    return lost


def _is_plan(value: Any) -> bool:
    """Whether it is what ``Plan.as_dict`` returns, as far as runs are compared."""
    stages = value.get('stages') if isinstance(value, dict) else None
    return isinstance(stages, list) and all(
        isinstance(stage, dict) and {'gflops', 'epochs'} <= stage.keys() for stage in stages
    )
