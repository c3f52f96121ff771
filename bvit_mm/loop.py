# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The plan sets the length of the run."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    Runner,
    find_latest_checkpoint,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .classes import check_classes
from .cost import build_to_count, find_backbone, plan_for
from .hook import StageSwitchHook
from .plan import Plan
from .randomness import seed_epoch, set_random_state
from .registry import LOOPS
from .report import plan_table
from .weights import read_checkpoint

PLAN_FILE = 'plan.json'
STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')


@LOOPS.register_module()
class BudgetedTrainLoop(EpochBasedTrainLoop):
    """Trains for as many epochs as a budget buys, in training stages.

    The runner builds the train loop before optimizers and schedulers, whose ``end`` defaults
    to ``max_epochs``; so the length is planned here, and schedulers follow by themselves.
    ``StageSwitchHook`` then switches the stages.

    It also seeds each epoch by its number, so that a resumed run equals an uninterrupted one
    (``randomness``), and goes on in the middle of an epoch where a checkpoint was taken there.

    Args:
        runner: The runner.
        dataloader: The training data.
        val_begin: First epoch after which to validate.
        val_interval: Epochs between validations.
        dynamic_intervals: As in mmengine's ``EpochBasedTrainLoop``.
        **plan: What ``make_plan`` takes: ``budget`` with ``full_epochs``, ``alpha``, ``seed`` (of
            the plan, not of training), ``family`` and ``max_epochs``; or ``epochs``.

    Raises:
        ValueError: If there is no such plan, the model, hooks, strategy or schedulers do not fit
            it, or ``work_dir`` or the checkpoint to resume holds a run with another plan. It is
            raised before any data is read. Also if the data has more classes than the head.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        **plan: Any,
    ) -> None:
        hook = _find_hook(runner)
        _check_strategy(runner)
        model = runner.model
        if isinstance(model, dict):  # FlexibleRunner builds the loop before the model
            model = build_to_count(model)
        backbone = find_backbone(model)
        self.plan = plan_for(model, **plan)
        _check_schedulers(runner, self.plan)
        check_work_dir(runner.work_dir, self.plan)
        _check_resumed(runner, self.plan)
        if isinstance(runner.model, nn.Module):  # the runner would build it just after the loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            hook.check_optimizers(runner)

        super().__init__(
            runner,
            dataloader,
            max_epochs=self.plan.total_epochs,
            val_begin=val_begin,
            val_interval=val_interval,
            dynamic_intervals=dynamic_intervals,
        )
        check_classes(model, self.dataloader.dataset)
        # Set by the hook when it resumes from a checkpoint taken within an epoch.
        self.batches_done = 0
        self.resumed_random_state: dict[str, Any] | None = None
        sampler = self.dataloader.sampler
        self._sampler_follows_seed = getattr(sampler, 'seed', None) == runner.seed
        runner.logger.info('The plan:\n' + plan_table(self.plan, backbone.training_stages))

    def run(self) -> nn.Module:
        """Trains the plan, and leaves it in ``work_dir``."""
        if is_main_process():
            plan_file = Path(self.runner.work_dir) / PLAN_FILE
            partial = plan_file.with_suffix('.partial')  # a kill must not leave half a file
            partial.write_text(json.dumps(self.plan.as_dict(), indent=2) + '\n')
            partial.replace(plan_file)
        return super().run()

    def run_epoch(self) -> None:
        """Trains one epoch, or what is left of the one that a checkpoint was taken in."""
        self._seed_epoch()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = iter(self.dataloader)
        for _ in range(self.batches_done):
            next(batches)
        if self.batches_done:
            set_random_state(self.resumed_random_state)
        for idx, data_batch in enumerate(batches, start=self.batches_done):
            self.run_iter(idx, data_batch)
        self.batches_done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _seed_epoch(self) -> None:
        diff_rank_seed = self.runner._randomness_cfg.get('diff_rank_seed', False)
        seed_epoch(self.dataloader, self.runner.seed, self._epoch, diff_rank_seed)
        if self._sampler_follows_seed:  # a resumed run has the seed of its checkpoint
            self.dataloader.sampler.seed = self.runner.seed


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


def _check_resumed(runner: Runner, plan: Plan) -> None:
    if not runner._resume:
        return
    file = runner._load_from or find_latest_checkpoint(runner.work_dir)
    if file is None:
        return
    checkpoint = read_checkpoint(file, advice='give --resume an earlier one')
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
    plan.check_same(saved['plan'], f'{file} is of a run')


def _find_hook(runner: Runner) -> StageSwitchHook:
    for hook in runner.hooks:
        if isinstance(hook, StageSwitchHook):
            return hook
    raise ValueError(
        'BudgetedTrainLoop plans training stages, but nothing switches them; '
        "add dict(type='bvit_mm.StageSwitchHook') to custom_hooks"
    )


def _check_strategy(runner: Runner) -> None:
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


def _check_schedulers(runner: Runner, plan: Plan) -> None:
    schedulers = runner.param_schedulers or []
    schedulers = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
    schedulers = [s for s in schedulers if isinstance(s, dict) and s.get('by_epoch', True)]
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
        runner.logger.warning(
            f'the schedulers are stated up to epoch {max(stated)}, but the plan has '
            f'{plan.total_epochs} epochs; leave out `end` (and `T_max`) and they follow the budget'
        )
