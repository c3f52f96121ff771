# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What checkpoints keep of a budgeted run besides what mmengine saves."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..config_types import in_words
from ..mmengine_gaps import is_to_resume
from ..wrapped import unwrapped
from .processes import average_gradients_
from .saving import save_checkpoint, savers, unsaved_end


class RunStateHook(Hook):
    """Saves and loads the state of ``BudgetedTrainLoop``, which registers it.

    mmengine's loops have no say in checkpoints. Each gets the plan, what is spent, the place
    within the epoch, and gradients that are being accumulated. At the end of each training stage
    but the last, ``stage_1.pth`` and so on keep its weights, which ``tools/publish.py --stage``
    makes a smaller model of.
    """

    priority = 'HIGH'  # before the hooks that save

    def __init__(self) -> None:
        self._averaged_at = -1  # after which iteration processes shared their gradients
        self._pending: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        for name, param in unwrapped(runner.model).named_parameters():
            if name in self._pending:
                param.grad = self._pending[name].to(param)
        self._pending = {}

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any | None = None,
        outputs: dict | None = None,
    ) -> None:
        due = [each for each in savers(runner.hooks) if not each.by_epoch]
        if any(each.every_n_train_iters(runner, each.interval, each.save_begin) for each in due):
            self.average_gradients(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self.average_gradients(runner)
        plan, done = runner.train_loop.plan, runner.epoch + 1
        if done < plan.total_epochs and plan.stage_at(done) != plan.stage_at(runner.epoch):
            runner.save_checkpoint(
                runner.work_dir,
                f'stage_{plan.stage_at(runner.epoch) + 1}.pth',
                save_optimizer=False,
                save_param_scheduler=False,
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = runner.train_loop.state(checkpoint['meta']['epoch'])
        checkpoint['meta'].setdefault('bvit_mm', {}).update(state)
        cfg = runner.cfg.to_dict()
        if (words := in_words(cfg)) != cfg:
            checkpoint['meta']['cfg'] = Config(words).pretty_text
        gradients = {
            name: param.grad.detach().cpu()
            for name, param in unwrapped(runner.model).named_parameters()
            if param.grad is not None
        }
        if gradients and runner.world_size > 1 and self._averaged_at != _iterations(runner):
            runner.logger.warning(
                'a checkpoint is saved by one of several processes, which do not tell each other '
                'the gradients that they accumulate; a run resumed from it goes on without them'
            )
        elif gradients:
            checkpoint['accumulated_gradients'] = gradients

    def average_gradients(self, runner: Runner) -> None:
        """Before a checkpoint: all processes go on from the mean of what they accumulated."""
        if runner.world_size > 1 and self._averaged_at != _iterations(runner):
            average_gradients_(unwrapped(runner.model))
            self._averaged_at = _iterations(runner)

    def save(self, runner: Runner, name: str) -> Path:
        """Saves a checkpoint of this moment in ``work_dir``; all processes call it."""
        self.average_gradients(runner)
        return save_checkpoint(runner, name)

    def save_the_end(self, runner: Runner, is_early: bool, has_saved: bool) -> None:
        """Saves what a run ended with, where no hook has (``unsaved_end``)."""
        follows_pace = runner.train_loop.budget.follows_pace
        name = unsaved_end(runner, is_early, has_saved, follows_pace)
        if name is not None:
            self.save(runner, name)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_to_resume(runner):
            return
        if 'optimizer' not in checkpoint:
            runner.logger.warning(
                'the checkpoint to resume has no optimizer state (mmengine saves best_*.pth so), '
                'so this run will not equal the uninterrupted one; one from epoch_*.pth would'
            )
        runner.train_loop.load_state(checkpoint['meta']['bvit_mm'])
        self._pending = checkpoint.get('accumulated_gradients', {})


def _iterations(runner: Runner) -> int:
    return sum(runner.train_loop.ledger.iterations)
