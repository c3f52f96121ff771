# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Draws the learning rates of a config: mmpretrain's own ``vis_scheduler.py``, flag for flag.

The stock tool trains a model that is no network, so it cannot know the plan. Here the plan is that
of the config, an epoch has as many iterations as its data gives, and lines show where stages begin.
"""

import argparse
import math
import sys
from itertools import accumulate
from types import ModuleType
from typing import Any, NoReturn

from _refusals import refusing
from _stock import stock_tool
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop, Runner

from bvit_mm.analysis.hook import RedundancyHook
from bvit_mm.budget import Budget
from bvit_mm.config_types import class_of
from bvit_mm.cost import budget_of_config, is_budgeted
from bvit_mm.ledger import Ledger
from bvit_mm.mmengine_gaps import replace_hook
from bvit_mm.plan import Plan
from bvit_mm.registry import HOOKS, LOOPS
from bvit_mm.running.budget_scheduler_hook import BudgetSchedulerHook, check_schedule
from bvit_mm.running.class_count_hook import ClassCountHook
from bvit_mm.stage_switch_hook import StageSwitchHook
from bvit_mm.subsets.hook import SubsetHook

# They look at the network, or at data, and there is neither.
LEFT_OUT = (StageSwitchHook, SubsetHook, RedundancyHook, ClassCountHook)


@LOOPS.register_module(force=True)  # a notebook may run the tool again
class PlannedLoop(EpochBasedTrainLoop):
    """Books what ``BudgetedTrainLoop`` would spend, and trains nothing.

    Args:
        runner: The runner.
        dataloader: Anything with the length of an epoch.
        plan: The plan.
        budget: The budget of the plan.
        schedule: As of ``BudgetedTrainLoop``.
    """

    def __init__(
        self, runner: Runner, dataloader: Any, plan: Plan, budget: Budget, schedule: str | None
    ) -> None:
        super().__init__(runner, dataloader, max_epochs=plan.total_epochs)
        self.plan = plan
        self.ledger = Ledger(plan.gflops, len(dataloader), 1, epoch_share=plan.epoch_share)
        if check_schedule(schedule, budget) == 'budget':
            by_budget = BudgetSchedulerHook(runner.param_schedulers)
            replace_hook(runner, ParamSchedulerHook, by_budget)

    @property
    def progress(self) -> float:
        """How far the plan is, as of ``BudgetedTrainLoop``."""
        return min(1.0, self.ledger.cost / self.plan.cost)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        for charge in self.plan.charges:
            if idx == 0 and self._epoch in charge.before(self._max_epochs):
                self.ledger.charge(charge.name, self.plan.stage_at(self._epoch - 1), charge.share)
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        self.ledger.train(self.plan.stage_at(self._epoch), 1)
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs={})
        self._iter += 1


def planned(cfg: Config) -> tuple[Budget, Plan]:
    """The budget and the plan of a config.

    Raises:
        ValueError: If its epochs are not known before they are timed.
    """
    budget, plan, _ = budget_of_config(cfg)
    if budget.needs_pace:
        raise ValueError(
            f'budget={cfg.train_cfg.budget!r} has no epochs until they are timed; see what '
            'tools/plan.py says, and give --cfg-options train_cfg.budget=None '
            'train_cfg.epochs=[1,2,3] with its epochs'
        )
    return budget, plan


def iterations(cfg: Config, gpus: int) -> int:
    """Iterations of an epoch.

    Raises:
        FileNotFoundError: If the data is not there.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    try:
        return math.ceil(len(Runner.build_dataloader(cfg.train_dataloader)) / gpus)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{error}; say where the training data is, with --cfg-options '
            'train_dataloader.dataset.data_root=..., or how large it is, with -d'
        ) from None


def use_plan(stock: ModuleType, budget: Budget, plan: Plan) -> None:
    """Lets the stock tool train by a plan, and draw where its stages begin."""
    simulate, plot = stock.simulate_train, stock.plot_curve

    def simulate_plan(data_loader: list, cfg: Config, by_epoch: bool) -> dict[str, list[float]]:
        schedule = cfg.train_cfg.get('schedule')
        cfg.train_cfg = dict(
            type='bvit_mm.PlannedLoop', plan=plan, budget=budget, schedule=schedule
        )
        cfg.custom_hooks = [
            hook
            for hook in cfg.get('custom_hooks') or []
            if not issubclass(class_of(hook, HOOKS) or object, LEFT_OUT)
        ]
        return simulate(data_loader, cfg, by_epoch)

    def plot_plan(
        values: list[float], args: argparse.Namespace, name: str, length: int, by_epoch: bool
    ) -> None:
        plot(values, args, name, length, True)
        for epochs in accumulate(plan.epochs[:-1]):
            stock.plt.gca().axvline(epochs * length, color='0.4', lw=0.8, ls=(0, (2, 4)))

    stock.simulate_train, stock.plot_curve = simulate_plan, plot_plan


def check_size(cfg: Config, size: int | None, gpus: int) -> None:
    """Raises ValueError if an epoch has no iteration by what the command line says."""
    if gpus < 1:
        raise ValueError(f'--ngpus {gpus} must be at least 1')
    if not cfg.get('train_dataloader'):
        raise ValueError('the config has no train_dataloader, so nothing is trained by it')
    batch = cfg.train_dataloader.batch_size
    if size is not None and size < batch * gpus:
        raise ValueError(
            f'--dataset-size {size} is less than one batch of each GPU (train_dataloader.'
            f'batch_size={batch}, --ngpus {gpus}); give -d {batch * gpus} or more, or a smaller '
            'batch_size'
        )


def main() -> None:
    """Runs the tool."""
    stock = stock_tool('visualization/vis_scheduler')
    args = stock.parse_args()
    with refusing(_refuse):
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        check_size(cfg, args.dataset_size, args.ngpus)
        if is_budgeted(cfg):
            use_plan(stock, *planned(cfg))
            if args.dataset_size is None:
                size = cfg.train_dataloader.batch_size * args.ngpus * iterations(cfg, args.ngpus)
                sys.argv += ['-d', str(size)]
    stock.main()


def _refuse(why: str) -> NoReturn:
    print(f'vis_scheduler.py: error: {why}', file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == '__main__':
    main()
