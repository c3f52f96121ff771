# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The plan sets the length of the run; the ledger says what of it is spent."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .budget_scheduler_hook import Schedule
from .building import build_to_count
from .checks import (
    check_data,
    check_launcher,
    check_runner,
    check_sampler,
    check_strategy,
    check_validation,
    find_hook,
)
from .classes import check_classes, check_evaluated
from .cost import budget_for, charges_of, epoch_share
from .elastic import ElasticBackbone, find_backbone
from .ending import early_end, never_validated
from .files import write_whole
from .hours import Measurement
from .image_size import SizeLedger, watched
from .ledger import Ledger
from .micro_batches import count_samples
from .old_records import ledger_of_today
from .parts import Parts
from .plan import Plan
from .processes import Agreement
from .randomness import Seeds
from .registry import LOOPS
from .rehearsal import time_stages
from .report import ledger_table, plan_table
from .resumable import INTERRUPTED
from .resumption import PLAN_FILE, Resumption
from .run_state_hook import RunStateHook
from .saving import save_checkpoint, saves_now, unsaved_end
from .signals import StopSignals
from .stopwatch import EpochTimer, Stopwatch
from .training_step import TrainingStep

LEDGER_FILE = 'ledger.json'


@LOOPS.register_module()
class BudgetedTrainLoop(EpochBasedTrainLoop):
    """Trains for as long as a budget lasts, in training stages.

    The runner builds the train loop before optimizers and schedulers, whose ``end`` defaults
    to ``max_epochs``; so the length is planned here, and schedulers follow by themselves.
    ``StageSwitchHook`` then switches the stages.

    Before the first iteration the last stage is tried, so that a run does not die of memory when
    it gets there. With a budget in hours all stages are timed as well; after each epoch what is
    left is planned anew, and the last epoch ends when the time is over.

    Every iteration is seeded by its number, so that a resumed run equals an uninterrupted one
    (``randomness``), also from a checkpoint in the middle of an epoch. SIGTERM and SIGINT save
    such a checkpoint and end the process.

    Args:
        runner: The runner.
        dataloader: The training data.
        val_begin: First epoch after which to validate.
        val_interval: Epochs between validations.
        dynamic_intervals: As in mmengine's ``EpochBasedTrainLoop``.
        schedule: Whether schedulers without an ``end`` of their own go by ``'epochs'`` or by
            the share of the ``'budget'`` that is spent (``BudgetSchedulerHook``). Defaults to
            ``'budget'`` for hours, else to ``'epochs'``.
        accumulative_counts: Into how many parts each training stage divides a batch, whose
            gradients are accumulated, to save memory: ``[1, 1, 4]``; or ``'auto'``, the fewest
            that fit. Not to be mistaken for the optimizer's, which accumulates over batches.
        **plan: What ``make_plan`` takes: ``budget`` with ``full_epochs``, ``alpha``, ``seed`` (of
            the plan, not of training), ``family`` and ``max_epochs``; or ``epochs``.

    Raises:
        ValueError: If there is no such plan, the model, hooks, strategy or schedulers do not fit
            it, or ``work_dir`` or the checkpoint to resume holds a run with another plan. It is
            raised before any data is read. Also if the data has more classes than the head,
            validation data has others, a resumed run has epochs of another length, the images that
            reach the backbone do not keep a budget in GFLOPs, and, after timing, if hours are too
            few.
        MemoryError: If the last stage does not fit.
        SystemExit: After a signal, with 128 + its number.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        schedule: str | None = None,
        accumulative_counts: Sequence[int] | str | None = None,
        **plan: Any,
    ) -> None:
        check_launcher(runner)
        self._agree = Agreement()
        self._stopwatch = Stopwatch(self._agree)
        switch = find_hook(runner)
        check_strategy(runner)
        model = runner.model
        if isinstance(model, dict):  # FlexibleRunner builds the loop before the model
            model = build_to_count(model)
        self._stages = find_backbone(model).training_stages
        of_data = epoch_share(dataloader), charges_of(runner.hooks)
        self.budget, self.plan = budget_for(model, *of_data, **plan)
        self._stopwatch.use(self.budget.meter)
        check_validation(val_begin, val_interval)
        self.parts = Parts(accumulative_counts, len(self._stages))
        self._schedule = Schedule(runner, schedule, self.plan, self.budget)
        resumption = Resumption(runner, self.plan, self.budget, self._schedule.name)
        check_runner(runner, self.budget)
        if isinstance(runner.model, nn.Module):  # the runner would build it just after the loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            switch.check_optimizers(runner)
            self.parts.check_optimizers(runner)

        super().__init__(
            runner,
            dataloader,
            max_epochs=self.plan.total_epochs,
            val_begin=val_begin,
            val_interval=val_interval,
            dynamic_intervals=dynamic_intervals,
        )
        check_classes(model, self.dataloader.dataset)
        check_sampler(self.dataloader)
        for hook in runner.hooks:
            if hasattr(hook, 'check_run'):
                hook.check_run(self, model)
        check_data(self.dataloader)
        batch = (self.dataloader.batch_size or 0) * runner.world_size
        self.ledger = Ledger(
            self.plan.gflops, len(self.dataloader), batch, epoch_share=self.plan.epoch_share
        )
        resumption.check_length(self.ledger)
        self.batches_done = 0  # of this epoch
        self._has_saved = False  # what the last epoch ended with
        self._signals = StopSignals()
        self._step = TrainingStep(runner)
        is_stated = isinstance(dataloader, dict) and 'seed' in dataloader.get('sampler', {})
        self._seeds = Seeds(runner, self.dataloader, is_stated)
        self._state_hook = RunStateHook()
        runner.register_hook(self._state_hook)
        if not self.budget.needs_pace:
            runner.logger.info('The plan:\n' + plan_table(self.plan, self._stages))

    @cached_property
    def _backbone(self) -> ElasticBackbone:
        return find_backbone(self.runner.model)

    @cached_property
    def sizes(self) -> SizeLedger:
        """What images of another size cost."""
        return SizeLedger(self._backbone, self._agree, self.runner.logger)

    @property
    def stage(self) -> int:
        """The training stage that the model is at."""
        return self._backbone.training_stage

    @property
    def spent(self) -> float:
        """The share of the budget that is spent; above 1 if images cost more than planned."""
        return self.budget.spent(self.plan, self.ledger)

    @property
    def progress(self) -> float:
        """How far the plan is, as a share of its budget; schedulers end where it is 1."""
        return self.budget.progress(self.plan, self.ledger)

    def state(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint of an epoch must keep for ``load_state``, in plain numbers."""
        return dict(
            plan={**self.plan.as_dict(), **self.budget.as_dict()},
            batches_done=self.batches_done if epoch == self._epoch else 0,
            ledger=self.ledger.as_dict(),
            pace=self.budget.state(),
            schedule=self._schedule.name,
        )

    def load_state(self, saved: dict[str, Any]) -> None:
        """Resumes from what ``state`` returned."""
        self.batches_done = saved['batches_done']
        self.ledger = Ledger.from_dict(ledger_of_today(saved['ledger']))
        self.budget.load_state(saved['pace'])
        epochs = tuple(stage['epochs'] for stage in saved['plan']['stages'])
        self._follow(replace(self.plan, epochs=epochs))

    def run(self) -> nn.Module:
        """Trains the plan.

        ``work_dir`` gets ``plan.json``, the plan when training began, and ``ledger.json``, what
        was spent when it has ended. A run that had ended already is only validated.
        """
        check_evaluated(self.runner.val_loop, 'the validation data', self.dataloader.dataset)
        with self._signals:
            self._charge('setup')
            if self._epoch < self._max_epochs:
                with self._signals.tolerated(self.runner.logger):
                    self.rehearse()
                self._warn(never_validated(self.runner, self.val_begin, self._max_epochs))
            self._write(PLAN_FILE, {**self.plan.as_dict(), **self.budget.as_dict()})
            self.runner.call_hook('before_train')
            self._charge('setup')
            if self._epoch >= self._max_epochs:  # what ended it may have come before it validated
                self._validate()
            with watched(self._backbone, self.sizes.seen):
                while self._epoch < self._max_epochs and not self.stop_training:
                    self.run_epoch()
                    self._decide_current_val_interval()
                    self._validate()
            self._save_the_end()
            self.runner.call_hook('after_train')
        self._charge('saving')
        self._write(LEDGER_FILE, self.ledger.as_dict())
        table = ledger_table(self.plan, self.ledger, self.budget)
        self.runner.logger.info('Planned and spent:\n' + table)
        self._warn(
            early_end(
                self.plan,
                self.budget,
                self._backbone,
                self.ledger,
                self._epoch,
                self.runner.work_dir,
            )
        )
        return self.runner.model

    def rehearse(self) -> list[Measurement]:
        """Tries the last stage; times all of them where the plan follows their pace."""
        with watched(self._backbone) as images:
            self.parts.find(self.runner, self._step.eagerly, self._agree)
        self.sizes.check(self.plan, self.budget, images.size, is_new=self._iter == 0)
        measurements = []
        if needs_pace := self.budget.needs_pace:
            measurements = time_stages(
                self.runner, self._train, self.budget, self.val_interval, self._agree
            )
        self._step.forget_compiled()
        self._charge('rehearsal')
        if needs_pace:
            self._begin_at_the_pace()
        if self.budget.follows_pace:  # nobody knows which iteration will be the last to accumulate
            self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, -1)
        return measurements

    def rehearse_only(self) -> list[Measurement]:
        """What ``rehearse`` measures, in the place of ``run``."""
        self._charge('setup')
        return self.rehearse()

    def run_epoch(self) -> None:
        """Trains one epoch, or what is left of the one that a checkpoint was taken in."""
        self._seeds.epoch(self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        stage, first = self.plan.stage_at(self._epoch), self.batches_done
        batches = iter(self.dataloader)
        for _ in range(first):
            self._fetch(batches)
        timer = EpochTimer(self._stopwatch, first, started=self._charge('setup'))
        for idx in range(first, len(self.dataloader)):
            self._seeds.iteration(self._epoch, idx)
            data_batch = self._fetch(batches)
            if signal := self._charge_training(stage):
                self._leave(signal)
            if self.budget.is_over(self.ledger, stage) and idx > first:
                break
            timer.skip_the_first(idx)
            self.run_iter(idx, data_batch)
        else:
            with self._signals.tolerated(self.runner.logger):
                next(batches, None)  # some samplers tidy up after their last batch
        signal = self._charge_training(stage)
        whole = timer.whole(self.batches_done, len(self.dataloader))
        plan = self.budget.plan_again(self.plan, self._epoch + 1, stage, *whole, self.ledger)
        self._follow(plan)
        self._has_saved = saves_now(self.runner)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.batches_done = 0
        amount = self._charge('saving')
        if self._has_saved:
            self.budget.learn('saving', amount)
        if signal and self._epoch < self._max_epochs:
            self._leave(signal)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Trains an iteration."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        samples = count_samples(data_batch) * self.runner.world_size
        outputs = self._train(data_batch, self.stage)
        self.ledger.train(self.stage, samples, self.sizes.extra(self.plan, self._epoch))
        self.batches_done = idx + 1
        self._log_spent(idx)
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    @contextmanager
    def charging(self, name: str, share: float) -> Iterator[None]:
        """Charges the time within to something that is no training, and a cost.

        Args:
            name: Of what it is for.
            share: Of the cost of an epoch on all data; 0 if only the time is charged.
        """
        self._charge('setup')
        yield
        if share:
            self.ledger.charge(name, self.stage, share, self.sizes.extra(self.plan, self._epoch))
        self._charge(name)

    def _train(self, data_batch: Any, stage: int) -> dict[str, Tensor]:
        return self._step(data_batch, stage, self.parts[stage])

    def _fetch(self, batches: Iterator[Any]) -> Any:
        with self._signals.tolerated(self.runner.logger):
            if not self._signals.have_ended_workers:
                return next(batches)
        return None

    # What is spent.

    def _charge(self, name: str) -> float:
        return self._stopwatch.charge(self.ledger, name)

    def _charge_training(self, stage: int) -> int:
        """Charges what has passed; returns the signal that any process got, or 0."""
        if self._step.take_compiled():
            self._charge('compilation')
        else:
            self._stopwatch.train(self.ledger, stage)
        return self._agree.largest(self._signals.received)

    def _log_spent(self, idx: int) -> None:
        """Hands what is spent to mmengine's logger, when that is about to write."""
        loggers = [hook for hook in self.runner.hooks if isinstance(hook, LoggerHook)]
        if any(hook.every_n_inner_iters(idx, hook.interval) for hook in loggers):
            hub, ledger = self.runner.message_hub, self.ledger
            hub.update_scalar('train/spent', self.spent)
            hub.update_scalar('train/gflops_epochs', ledger.cost)
            hub.update_scalar('train/samples', sum(ledger.samples))
            hub.update_scalar('train/hours', ledger.elapsed / 3600)

    # What comes next.

    def _follow(self, plan: Plan) -> None:
        """Goes by a plan from now on."""
        if plan is self.plan:  # whose length somebody may have cut
            return
        self.plan = plan
        self._max_epochs = plan.total_epochs
        self._max_iters = self._max_epochs * len(self.dataloader)

    def _begin_at_the_pace(self) -> None:
        """Plans the whole run by the pace that was measured."""
        self._follow(self.budget.plan_measured(self.plan, self.ledger))
        if self.val_begin > self._max_epochs:
            self.budget.never_validates()
        self._schedule.rebuild(self.plan)
        self.runner.logger.info(
            f'The plan for {self.budget.text}, until the speed changes:\n'
            + plan_table(self.plan, self._stages)
        )

    def _is_time_to_validate(self) -> bool:
        if self.runner.val_loop is None or self._epoch < self.val_begin:
            return False
        if self._epoch == self._max_epochs:
            return True
        if not self.budget.has_time_to_validate(self.ledger):
            return False
        return self._epoch % self.val_interval == 0

    def _validate(self) -> None:
        """Validates if it is time to."""
        if not self._is_time_to_validate():
            return
        with self._signals.tolerated(self.runner.logger):
            self.runner.val_loop.run()
        self.budget.learn('validation', self._charge('validation'))
        if self._signals.have_ended_workers and self._epoch >= self._max_epochs:
            self._leave(self._signals.received)

    # How it ends.

    def _leave(self, signal: int) -> None:
        """Saves a checkpoint to resume from, and ends the process."""
        file = self._save(INTERRUPTED)
        self.runner.logger.warning(
            f'stopped by signal {signal} in epoch {self._epoch + 1} after {self.batches_done} of '
            f'{len(self.dataloader)} iterations; saved {file}, from which --resume goes on'
        )
        self._agree.wait()  # launchers end everyone when the first process is gone
        raise SystemExit(128 + signal)

    def _save(self, name: str) -> Path:
        """Saves a checkpoint of this moment; all processes call it."""
        self._state_hook.average_gradients(self.runner)
        return save_checkpoint(self.runner, name, self._epoch, self._iter)

    def _save_the_end(self) -> None:
        """Saves what the run ended with, where no hook has."""
        is_early = self._epoch < self.plan.total_epochs
        name = unsaved_end(self.runner, is_early, self._has_saved, self.budget.follows_pace)
        if name is not None:
            self._save(name)

    def _warn(self, warning: str | None) -> None:
        if warning:
            self.runner.logger.warning(warning)

    def _write(self, name: str, values: dict[str, Any]) -> None:
        """Writes plain numbers into ``work_dir``."""
        if is_main_process():
            write_whole(Path(self.runner.work_dir) / name, json.dumps(values, indent=2) + '\n')
