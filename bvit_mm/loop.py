# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The order of a run: the plan sets its length, and the ledger says what of it is spent."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .budget import MeteredBudget, record_of
from .building import model_of
from .cost import budget_for
from .elastic import ElasticBackbone, find_backbone
from .hours import Measurement
from .ledger import LEDGER_FILE, Ledger
from .mmengine_gaps import put_after, replace_or_register
from .plan import Plan
from .registry import LOOPS
from .report import ledger_table, plan_table
from .running.budget_scheduler_hook import Schedule
from .running.checks import check_data, check_processes, check_runner
from .running.class_count_hook import check_evaluated
from .running.ending import early_end, never_validated, warn
from .running.image_size import SizeLedger, watched
from .running.last_checkpoint import INTERRUPTED
from .running.old_records import ledger_of_today
from .running.parts import Parts
from .running.processes import Agreement
from .running.randomness import Seeds, has_stated_seed
from .running.rehearsal import time_stages
from .running.resumption import PLAN_FILE, Resumption
from .running.run_state_hook import RunStateHook
from .running.saving import saves_now, write_numbers
from .running.signals import StopSignals
from .running.spending_log_hook import SpendingLogHook
from .running.stopwatch import EpochTimer, Stopwatch
from .running.train_in_parts import count_samples
from .running.training_step import TrainingStep
from .slim.run import Slimmer
from .stage_switch_hook import find_switch_hook


@LOOPS.register_module()
class BudgetedTrainLoop(EpochBasedTrainLoop):
    """Trains for as long as a budget lasts, in training stages.

    The runner builds the train loop before optimizers and schedulers, whose ``end`` defaults to
    ``max_epochs``. So the length is planned here; ``StageSwitchHook`` switches the stages.

    Before the first iteration the last stage is tried, so that a run does not die of memory when
    it gets there. With a budget in hours all stages are timed as well; after each epoch what is
    left is planned anew. Every iteration is seeded by its number, so that a resumed run equals an
    uninterrupted one. SIGTERM and SIGINT save a checkpoint and end the process.

    Args:
        runner, dataloader, val_begin, val_interval, dynamic_intervals: As of mmengine's
            ``EpochBasedTrainLoop``.
        schedule: Whether schedulers without an ``end`` go by ``'epochs'``, or by the share of the
            ``'budget'`` that is spent (``BudgetSchedulerHook``), the default for hours.
        accumulative_counts: Parts of a batch in each training stage, to save memory, such as
            ``[1, 1, 4]``; or ``'auto'``, the fewest that fit. The optimizer's is over batches.
        **plan: What ``make_plan`` takes: ``budget`` with ``full_epochs``, ``max_epochs``, and
            ``shares`` or ``alpha``, ``seed`` (not of training) and ``family``; or ``epochs``;
            and ``slim``, a dict of what ``slim.phases.Slimming`` has.

    Raises:
        ValueError: Before any data is read, if there is no such plan, the model, hooks, strategy
            or schedulers do not fit it, or ``work_dir`` or the checkpoint to resume holds a run
            with another plan; later, if data, images or hours do not fit it.
        MemoryError, SystemExit: If the last stage does not fit; after a signal.
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
        check_processes(runner)
        self._agree = Agreement()
        self._stopwatch = Stopwatch(self._agree)
        self._signals = StopSignals()
        switch = find_switch_hook(runner)
        model = model_of(runner)
        self.budget, self.plan = budget_for(model, dataloader, runner.hooks, **plan)
        self._stages = find_backbone(model).training_stages
        self.slimmer = Slimmer(runner, plan.get('slim'))
        self._stopwatch.use(self.budget.meter)
        self.parts = Parts(accumulative_counts, len(self._stages))
        self._schedule = Schedule(runner, schedule, self.plan, self.budget)
        resumption = Resumption(runner, self.plan, self.budget, self._schedule.name)
        check_runner(runner, self.budget, val_begin, val_interval)
        if model is runner.model:  # the runner would build them just after the loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            switch.check_optimizers(runner)
            self.parts.check_optimizers(runner)

        epochs = self.plan.total_epochs
        super().__init__(runner, dataloader, epochs, val_begin, val_interval, dynamic_intervals)
        check_data(self, model)
        batch = (self.dataloader.batch_size or 0) * runner.world_size
        self.ledger = Ledger.of_run(self.plan, len(self.dataloader), batch)
        resumption.check_length(self.ledger)
        self.resumed_stage: int | None = None
        self.batches_done = 0  # of this epoch
        self._has_saved = False  # what the last epoch ended with
        self._step = TrainingStep(runner)
        self.seeds = Seeds(runner, self.dataloader, has_stated_seed(dataloader))
        self._state_hook = RunStateHook()
        put_after(runner, switch, self._state_hook)
        replace_or_register(runner, SpendingLogHook())
        self._schedule.attach()
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
            plan=record_of(self.plan, self.budget),
            batches_done=self.batches_done if epoch == self._epoch else 0,
            ledger=self.ledger.as_dict(),
            pace=self.budget.state(),
            schedule=self._schedule.name,
            stage=self.stage,
        )

    def load_state(self, saved: dict[str, Any]) -> None:
        """Resumes from what ``state`` returned."""
        self.batches_done = saved['batches_done']
        self.resumed_stage = saved.get('stage')
        self.ledger = Ledger.from_dict(ledger_of_today(saved['ledger']))
        self.budget.load_state(saved['pace'])
        self._follow(self.budget.resume_plan(self.plan, saved['plan']))

    def run(self) -> nn.Module:
        """Trains the plan; a run that had ended already is only validated.

        ``work_dir`` gets ``plan.json`` when training begins and ``ledger.json`` when it ends.
        """
        check_evaluated(self.runner.val_loop, 'the validation data', self.dataloader.dataset)
        with self._signals:
            if self._epoch < self._max_epochs:
                with self._signals.tolerated(self.runner.logger):
                    self.rehearse()
                warn(self.runner, never_validated(self.runner, self.val_begin, self._max_epochs))
            write_numbers(self.runner, PLAN_FILE, record_of(self.plan, self.budget))
            self.runner.call_hook('before_train')
            self._pass_time('setup')
            if self._epoch >= self._max_epochs:  # what ended it may have come before it validated
                self._validate()
            with watched(self._backbone, self.sizes.seen):
                while self._epoch < self._max_epochs and not self.stop_training:
                    self.run_epoch()
                    self._decide_current_val_interval()
                    self._validate()
            is_early = self._epoch < self.plan.total_epochs
            self._state_hook.save_the_end(self.runner, is_early, self._has_saved)
            self.runner.call_hook('after_train')
        self._pass_time('saving')
        write_numbers(self.runner, LEDGER_FILE, self.ledger.as_dict())
        table = ledger_table(self.plan, self.ledger, self.budget)
        self.runner.logger.info('Planned and spent:\n' + table)
        warn(self.runner, early_end(self.runner))
        return self.runner.model

    def rehearse(self) -> list[Measurement]:
        """Tries the last stage; times all of them where the plan follows their pace."""
        self._pass_time('setup')
        with watched(self._backbone) as images:
            self.parts.find(self.runner, self._step.eagerly, self._agree)
        self.sizes.check(self.plan, self.budget, images, is_new=self._iter == 0)
        measurements: list[Measurement] = []
        if unpaced := self.budget.unpaced:
            measurements = time_stages(
                self.runner, self._train, unpaced, self.val_interval, self._agree
            )
        self._step.forget_compiled()
        self._pass_time('rehearsal')
        if unpaced:
            self._begin_at_the_pace(unpaced)
        if self.budget.follows_pace:  # nobody knows which iteration will be the last to accumulate
            self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, -1)
        return measurements

    def run_epoch(self) -> None:
        """Trains one epoch, or what is left of the one that a checkpoint was taken in."""
        self.seeds.epoch(self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        logger = self.runner.logger
        stage, first = self.plan.stage_at(self._epoch), self.batches_done
        batches = iter(self.dataloader)
        for _ in range(first):
            self._signals.next_of(batches, logger)
        timer = EpochTimer(self._stopwatch, first, started=self._pass_time('setup'))
        for idx in range(first, len(self.dataloader)):
            self.seeds.iteration(self._epoch, idx)
            data_batch = self._stopwatch.await_data(self._signals.next_of, batches, logger)
            if signal := self._train_time(stage):
                self._leave(signal)
            if self.budget.is_over(self.ledger, stage) and idx > first:
                break
            timer.skip_the_first(idx)
            self.run_iter(idx, data_batch)
        else:
            with self._signals.tolerated(logger):
                next(batches, None)  # some samplers tidy up after their last batch
        signal = self._train_time(stage)
        whole = timer.whole(self.batches_done, len(self.dataloader))
        done = self._epoch + 1
        self._follow(self.budget.plan_again(self.plan, done, stage, *whole, self.ledger))
        self._has_saved = saves_now(self.runner)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.batches_done = 0
        amount = self._pass_time('saving')
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
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    @contextmanager
    def charging(self, name: str, share: float) -> Iterator[None]:
        """Enters the time within, and charges a cost, for something that is no training.

        Args:
            name: Of what it is for.
            share: Of the cost of an epoch on all data; 0 if only time passes.
        """
        self._pass_time('setup')
        yield
        if share:
            self.ledger.charge(name, self.stage, share, self.sizes.extra(self.plan, self._epoch))
        self._pass_time(name)

    def _train(self, data_batch: Any, stage: int) -> dict[str, Tensor]:
        return self._step(data_batch, stage, self.parts[stage])

    def _pass_time(self, name: str) -> float:
        return self._stopwatch.pass_time(self.ledger, name)

    def _train_time(self, stage: int) -> int:
        """Enters what has passed; returns the signal that any process got, or 0."""
        if self._step.take_compiled():
            self._pass_time('compilation')
        else:
            self._stopwatch.train(self.ledger, stage)
        return self._agree.largest(self._signals.received)

    def _follow(self, plan: Plan) -> None:
        """Goes by a plan from now on."""
        if plan is self.plan:  # whose length somebody may have cut
            return
        self.plan = plan
        self._max_epochs = plan.total_epochs
        self._max_iters = self._max_epochs * len(self.dataloader)

    def _begin_at_the_pace(self, budget: MeteredBudget) -> None:
        """Plans the whole run by the pace that was measured."""
        self._follow(budget.plan_measured(self.plan, self.ledger))
        if self.val_begin > self._max_epochs:
            budget.never_validates()
        self._schedule.rebuild(self.plan)
        self.runner.logger.info(
            f'The plan for {budget.text}, until the speed changes:\n'
            + plan_table(self.plan, self._stages)
        )

    def _validate(self) -> None:
        """Validates if it is time to."""
        done, has_time = self._epoch, self.budget.has_time_to_validate(self.ledger)
        is_due = done == self._max_epochs or (has_time and done % self.val_interval == 0)
        if self.runner.val_loop is None or done < self.val_begin or not is_due:
            return
        with self._signals.tolerated(self.runner.logger):
            self.runner.val_loop.run()
        self.budget.learn('validation', self._pass_time('validation'))
        if self._signals.have_ended_workers and self._epoch >= self._max_epochs:
            self._leave(self._signals.received)

    def _leave(self, signal: int) -> None:
        """Saves a checkpoint to resume from, and ends the process."""
        file = self._state_hook.save(self.runner, INTERRUPTED)
        self.runner.logger.warning(
            f'stopped by signal {signal} in epoch {self._epoch + 1} after {self.batches_done} of '
            f'{len(self.dataloader)} iterations; saved {file}, from which --resume goes on'
        )
        self._agree.wait()  # launchers end everyone when the first process is gone
        raise SystemExit(128 + signal)
