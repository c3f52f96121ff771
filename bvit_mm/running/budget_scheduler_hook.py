# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Schedulers that advance with the share of the budget that is spent, not with epochs."""

import copy
import math
from itertools import chain
from typing import Any

from mmengine.hooks import ParamSchedulerHook
from mmengine.runner import Runner

from ..budget import Budget
from ..config_types import type_name
from ..mmengine_gaps import SchedulerLike, is_to_resume, replace_hook, steps_done
from ..options import is_whole_number
from ..plan import Plan

SCHEDULES = Budget.schedules


class BudgetSchedulerHook(ParamSchedulerHook):
    """Steps any of mmengine's schedulers by what is spent; ``BudgetedTrainLoop`` puts it in.

    A scheduler whose ``end`` is left out reaches its end with the budget's: where it begins it
    has 0 of its steps done, and when the share z of what the budget had left then is spent, z of
    them. One that states its ``end``, such as a warm-up, counts epochs or iterations as ever.

    Early stages cost little, so the learning rate falls more slowly there than over epochs.

    Args:
        configs: Of the schedulers, which tell which of them state an ``end``.
    """

    def __init__(self, configs: Any) -> None:
        self.follows = [isinstance(c, dict) and 'end' not in c for c in flat(configs)]
        self.begun: dict[int, float] = {}  # how far the plan was when a scheduler began

    def before_train(self, runner: Runner) -> None:
        # Several optimizers may share configs, of which each has schedulers of its own.
        self.follows *= len(flat(runner.param_schedulers)) // max(1, len(self.follows))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any | None = None
    ) -> None:
        for i, scheduler in enumerate(flat(runner.param_schedulers)):
            done = runner.epoch if scheduler.by_epoch else runner.iter
            if self.follows[i] and done >= scheduler.begin:
                self.begun.setdefault(i, runner.train_loop.progress)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any | None = None,
        outputs: dict | None = None,
    ) -> None:
        for i, scheduler in enumerate(flat(runner.param_schedulers)):
            if i in self.begun:
                self._advance(scheduler, self.begun[i], runner.train_loop.progress)
            elif not scheduler.by_epoch:
                scheduler.step()

    def after_train_epoch(self, runner: Runner) -> None:
        for i, scheduler in enumerate(flat(runner.param_schedulers)):
            if i not in self.begun and scheduler.by_epoch:
                scheduler.step()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'].setdefault('bvit_mm', {})['begun'] = self.begun

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if is_to_resume(runner):
            self.begun = dict(checkpoint['meta']['bvit_mm'].get('begun', {}))

    @staticmethod
    def _advance(scheduler: SchedulerLike, before: float, now: float) -> None:
        share = (now - before) / (1 - before) if before < 1 else 1.0
        steps = scheduler.begin + math.floor(share * (scheduler.end - scheduler.begin) + 1e-9)
        while steps_done(scheduler) < steps:
            scheduler.step()


class Schedule:
    """What the schedulers of a run go by.

    Args:
        runner: The runner.
        schedule: ``'epochs'``, ``'budget'``, or None for the budget's default.
        plan: What is planned.
        budget: The budget of the plan.

    Raises:
        ValueError: If there is no such schedule, or a scheduler begins after the plan.
    """

    def __init__(self, runner: Runner, schedule: str | None, plan: Plan, budget: Budget) -> None:
        self._runner, self._budget = runner, budget
        self.name = check_schedule(schedule, budget)
        self._configs = copy.deepcopy(runner.param_schedulers)
        check_schedulers(runner, self._configs, plan, budget)

    def attach(self) -> None:
        """Lets the schedulers go by the budget, if they are to."""
        if self.name == 'budget':
            replace_hook(self._runner, ParamSchedulerHook, BudgetSchedulerHook(self._configs))

    def rebuild(self, plan: Plan) -> None:
        """Builds the schedulers anew, for the length that the plan has by now."""
        runner, configs = self._runner, self._configs
        check_schedulers(runner, configs, plan, self._budget)
        if configs is None:
            return
        groups = runner.optim_wrapper.param_groups  # of several optimizers: a dict of lists
        groups = chain(*groups.values()) if isinstance(groups, dict) else groups
        for group in groups:
            for name in [key for key in group if key.startswith('initial_')]:
                group[name.removeprefix('initial_')] = group[name]
        runner.param_schedulers = runner.build_param_scheduler(configs)


def check_schedulers(runner: Runner, configs: Any, plan: Plan, budget: Budget) -> None:
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
    stated: list[Any] = [s.get('end') for s in schedulers]
    if stated and None not in stated and max(stated) != plan.total_epochs:
        runner.logger.warning(
            f'the schedulers are stated up to epoch {max(stated)}, but the plan has '
            f'{budget.length_text(plan)}; leave out `end` (and `T_max`) and they follow the budget'
        )


def flat(schedulers: Any) -> list[Any]:
    """Schedulers, or their configs, of one optimizer or of several, in one list."""
    if schedulers is None:
        return []
    if isinstance(schedulers, dict) and 'type' not in schedulers:
        return [each for several in schedulers.values() for each in flat(several)]
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def check_schedule(schedule: str | None, budget: Budget) -> str:
    """What schedulers go by, with its default.

    Raises:
        ValueError: If it is not known, or cannot be for such a budget.
    """
    if schedule is None:
        return budget.schedules[0]
    if schedule not in SCHEDULES:
        raise ValueError(f'schedule={schedule!r} is not known; give one of {SCHEDULES}')
    if schedule not in budget.schedules:
        raise ValueError(
            "schedule='epochs' needs to know how many epochs there will be, which a budget in "
            "hours does not; give schedule='budget', or a budget in GFLOPs"
        )
    return schedule
