# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Hands what is spent to mmengine's logger, and says what bound a training stage at its end."""

from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from ..waiting import waiting_text
from .loading import loading_of


class SpendingLogHook(Hook):
    """Logs what a budgeted run has spent; ``BudgetedTrainLoop`` registers it."""

    priority = 'HIGHEST'  # before any hook that logs

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any | None = None,
        outputs: dict | None = None,
    ) -> None:
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if not any(hook.every_n_inner_iters(batch_idx, hook.interval) for hook in loggers):
            return
        hub, ledger = runner.message_hub, runner.train_loop.ledger
        hub.update_scalar('train/spent', runner.train_loop.spent)
        hub.update_scalar('train/gflops_epochs', ledger.cost)
        hub.update_scalar('train/samples', sum(ledger.samples))
        hub.update_scalar('train/hours', ledger.elapsed / 3600)

    def after_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if loop.plan.ends_stage(runner.epoch):
            k, ledger = loop.stage, loop.ledger
            what, times = f'training stage {k + 1}', (ledger.waiting[k], ledger.seconds[k])
            runner.logger.info(waiting_text(what, *times, loading_of(loop.dataloader)))
