# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The plan sets the length of the run; the ledger says what of it is spent."""

import copy
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from .checks import (
    PLAN_FILE,
    check_launcher,
    check_length,
    check_parts,
    check_resumed,
    check_runner_for_hours,
    check_sampler,
    check_schedule,
    check_schedulers,
    check_strategy,
    check_subset_hooks,
    check_validation,
    check_work_dir,
    find_hook,
    keep_two_checkpoints,
)
from .classes import check_classes, check_evaluated
from .cost import build_to_count, find_backbone, plan_for, subset_of
from .elastic import ElasticBackbone
from .ending import early_end
from .hours import Pace, TimeBudget, check_enough
from .image_size import Size, check_image_size, differs, extra_gflops, watched
from .ledger import Ledger
from .memory import find_parts
from .micro_batches import count_samples, train_in_parts
from .processes import Agreement, shared_seed
from .randomness import generators_of, kept_random_state, seed_epoch, seed_iteration
from .registry import LOOPS
from .rehearsal import (
    Measurement,
    check_reversible,
    measure,
    measure_validation,
    rehearsal,
)
from .report import ledger_table, plan_table
from .resumable import INTERRUPTED, check_savers, write_last
from .schedule import rebuild_schedulers, replace_scheduler_hook
from .signals import StopSignals

LEDGER_FILE = 'ledger.json'
# Share of a budget in hours that timing the stages may take, validation as well: 1.5 % in all.
REHEARSED = 0.01


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
        _, self._mark = self._agree(0, time.perf_counter())
        self._hook = find_hook(runner)
        check_strategy(runner)
        model = runner.model
        if isinstance(model, dict):  # FlexibleRunner builds the loop before the model
            model = build_to_count(model)
        self._stages = find_backbone(model).training_stages
        subset = subset_of(dataloader, runner.hooks)
        self.plan = plan_for(model, subset, **plan)
        self.hours: TimeBudget | None = None
        if self.plan.seconds is not None:
            self.hours = TimeBudget(plan['budget'], self.plan.weights)
        check_validation(val_begin, val_interval)
        self._schedule = check_schedule(schedule, self.hours is not None)
        self.parts = check_parts(accumulative_counts, len(self._stages))
        self.finds_parts = accumulative_counts == 'auto'
        self._scheduler_configs = copy.deepcopy(runner.param_schedulers)
        check_schedulers(runner, self._scheduler_configs, self.plan)
        check_work_dir(runner.work_dir, self.plan)
        check_savers(runner.hooks, runner.work_dir)
        saved = check_resumed(runner, self.plan, self._schedule)
        keep_two_checkpoints(runner)
        if self.hours is not None:
            check_runner_for_hours(runner)
        if isinstance(runner.model, nn.Module):  # the runner would build it just after the loop
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            self._hook.check_optimizers(runner)
            if accumulative_counts and isinstance(runner.optim_wrapper, OptimWrapperDict):
                raise ValueError(
                    f'accumulative_counts={accumulative_counts} of train_cfg divides batches for '
                    'one optimizer, but there are several; leave it out'
                )

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
        check_subset_hooks(runner, model, self)
        batch = (self.dataloader.batch_size or 0) * runner.world_size
        self.ledger = Ledger(
            self.plan.gflops, len(self.dataloader), batch, data_share=self.plan.data_share
        )
        check_length(saved, self.ledger, runner)
        self.batches_done = 0  # of this epoch
        self._has_saved = False  # what the last epoch ended with
        self._has_warned_of_size = False
        self._signals = StopSignals()
        self._workers_ended = False
        self._is_warm = False
        self._compiles = True  # if asked to, until it fails
        self._compiled_stage: int | None = None
        self._has_compiled = False  # since the last booking
        if self._schedule == 'budget':
            replace_scheduler_hook(runner, self._scheduler_configs)
        sampler = self.dataloader.sampler
        stated = isinstance(dataloader, dict) and 'seed' in dataloader.get('sampler', {})
        self._sampler_follows_seed = hasattr(sampler, 'seed') and not stated
        if self.hours is None:
            runner.logger.info('The plan:\n' + plan_table(self.plan, self._stages))

    @cached_property
    def _backbone(self) -> ElasticBackbone:
        return find_backbone(self.runner.model)

    @cached_property
    def _generators(self) -> list[Any]:
        return generators_of(self.dataloader)

    @property
    def stage(self) -> int:
        """The training stage that the model is at."""
        return self._backbone.training_stage

    @property
    def spent(self) -> float:
        """The share of the budget that is spent; above 1 if images cost more than planned."""
        return self.progress if self.hours else self.ledger.cost / self.plan.cost

    @property
    def progress(self) -> float:
        """How far the plan is, as a share of its cost or hours; schedulers end where it is 1."""
        if self.hours is None:
            return min(1.0, self.ledger.planned_cost / self.plan.cost)
        return min(1.0, self.ledger.elapsed / self.hours.end)

    def state(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint of an epoch must keep for ``load_state``, in plain numbers."""
        return dict(
            plan=self.plan.as_dict(),
            batches_done=self.batches_done if epoch == self._epoch else 0,
            ledger=self.ledger.as_dict(),
            pace=asdict(self.hours.pace) if self.hours and self.hours.pace else None,
            schedule=self._schedule,
        )

    def load_state(self, saved: dict[str, Any]) -> None:
        """Goes on from what ``state`` returned."""
        self.batches_done = saved['batches_done']
        self.ledger = Ledger.from_dict(saved['ledger'])
        pace = saved['pace']
        if pace is not None:  # else a signal came before the stages were timed
            self.hours.pace = Pace(**{**pace, 'train': tuple(pace['train'])})
            self._set_lengths([stage['epochs'] for stage in saved['plan']['stages']])

    def run(self) -> nn.Module:
        """Trains the plan.

        ``work_dir`` gets ``plan.json``, the plan when training began, and ``ledger.json``, what
        was spent when it has ended. A run that had ended already is only validated.
        """
        check_evaluated(self.runner.val_loop, 'the validation data', self.dataloader.dataset)
        with self._signals:
            self._charge('setup')
            if self._epoch < self._max_epochs:
                with self._unless_workers_ended():
                    self.rehearse()
                self._warn_unless_validated()
            self._write(PLAN_FILE, self.plan.as_dict())
            self.runner.call_hook('before_train')
            self._charge('setup')
            if self._epoch >= self._max_epochs:  # what ended it may have come before it validated
                self._validate()
            with watched(self._backbone) as self.images:
                while self._epoch < self._max_epochs and not self.stop_training:
                    self.run_epoch()
                    self._decide_current_val_interval()
                    self._validate()
            self._save_the_end()
            self.runner.call_hook('after_train')
        self._charge('saving')
        self._write(LEDGER_FILE, self.ledger.as_dict())
        self.runner.logger.info('Planned and spent:\n' + ledger_table(self.plan, self.ledger))
        self._tell_early_end()
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains one epoch, or what is left of the one that a checkpoint was taken in."""
        self._seed_epoch()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        stage, first = self.plan.stage_at(self._epoch), self.batches_done
        batches = iter(self.dataloader)
        for _ in range(first):
            self._fetch(batches)
        started = self._charge('setup')
        timed_from, before = first, self.ledger.seconds[stage]
        for idx in range(first, len(self.dataloader)):
            self._seed_iteration(idx)
            data_batch = self._fetch(batches)
            signal = self._book_and_agree(stage)
            if signal:
                self._leave(signal)
            if self._is_over(stage) and idx > first:
                break
            if idx == first + 1 and not self._is_warm:  # a session's first iteration is slow
                timed_from, before = idx, self.ledger.seconds[stage]
                self._is_warm = True
            self.run_iter(idx, data_batch)
        else:
            with self._unless_workers_ended():
                next(batches, None)  # some samplers tidy up after their last batch
        signal = self._book_and_agree(stage)
        if self.hours:
            iterations = self.batches_done - timed_from
            self._plan_anew(stage, self.ledger.seconds[stage] - before, iterations, started)
        self._has_saved = saves = self._saves_now()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.batches_done = 0
        seconds = self._charge('saving')
        if saves:
            self._learn('saving', seconds)
        if signal and self._epoch < self._max_epochs:
            self._leave(signal)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Trains an iteration."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        samples = count_samples(data_batch) * self.runner.world_size
        outputs = self._train_step(data_batch)
        self.ledger.train(self.stage, samples, self._extra_gflops())
        self.batches_done = idx + 1
        self._log_spent(idx)
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    @contextmanager
    def selecting(self, is_charged: bool) -> Iterator[None]:
        """Books the seconds within as those of selecting data, and its cost if it is charged."""
        self._charge('setup')
        yield
        if is_charged:
            self.ledger.select(self.stage, self._extra_gflops())
        self._charge('selection')

    def _warn_unless_validated(self) -> None:
        if self.runner.val_loop is not None and self.val_begin > self._max_epochs:
            self.runner.logger.warning(
                f'val_begin={self.val_begin} of train_cfg is beyond the {self._max_epochs} epochs '
                'of the plan, so it is never validated; give a smaller one'
            )

    def _validate(self) -> None:
        """Validates if it is time to."""
        if not self._is_time_to_validate():
            return
        with self._unless_workers_ended():
            self.runner.val_loop.run()
        self._learn('validation', self._charge('validation'))
        if self._workers_ended and self._epoch >= self._max_epochs:
            self._leave(self._signals.received)

    def rehearse(self) -> list[Measurement]:
        """Tries the last stage; times all of them at the beginning of a budget in hours."""
        measurements = []
        times = self.hours is not None and self.hours.pace is None
        with watched(self._backbone) as images:
            self.parts = find_parts(
                self.runner, self._train_eagerly, self.parts, self.finds_parts, self._agree
            )
        self._check_image_size(images.size)
        if times:
            check_reversible(self.runner)
            with rehearsal(self.runner):
                measurements = self._measure()
        self._compiled_stage, self._has_compiled = None, False
        self._charge('rehearsal')
        if times:
            check_enough(self.hours, self.ledger.elapsed)
            self._set_lengths(self.hours.lengths([0] * len(self._stages), self.ledger.elapsed))
            if self.val_begin > self._max_epochs:  # it never validates, so keeps no time for it
                self.hours.pace = replace(self.hours.pace, validation=0.0)
            check_schedulers(self.runner, self._scheduler_configs, self.plan)
            rebuild_schedulers(self.runner, self._scheduler_configs)
            self.runner.logger.info(
                f'The plan for {self.hours.text}, until the speed changes:\n'
                + plan_table(self.plan, self._stages)
            )
        if self.hours:  # nobody knows which iteration will be the last to accumulate
            self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, -1)
        return measurements

    # What is spent.

    def _charge(self, name: str) -> float:
        """Books the seconds since the last booking, in which nothing was trained."""
        _, now = self._agree(0, time.perf_counter())
        seconds, self._mark = now - self._mark, now
        self.ledger.charge(name, seconds)
        return seconds

    def _book_and_agree(self, stage: int) -> int:
        """Books the seconds since the last booking; the signal that any process got, or 0."""
        stop, now = self._agree(self._signals.received, time.perf_counter())
        if self._has_compiled:
            self.ledger.charge('compilation', now - self._mark)
        else:
            self.ledger.seconds[stage] += now - self._mark
        self._has_compiled = False
        self._mark = now
        return stop

    def _check_image_size(self, size: Size) -> None:
        """Looks at the images of the batch that was tried."""
        sizes = all_gather_object(size)
        warning = check_image_size(self._backbone, self.plan, sizes, is_new=self._iter == 0)
        if warning:
            self.runner.logger.warning(warning)
            self._has_warned_of_size = True

    def _extra_gflops(self) -> float:
        """What the last images cost beyond the plan's, each; the mean over the processes.

        Warns of the first ones.
        """
        size = self.images.size
        extra = extra_gflops(self._backbone, self.stage, size)
        if extra and not self._has_warned_of_size:
            problem = differs(self._backbone, self.plan, self.stage, [size])
            if problem:
                self.runner.logger.warning(
                    f'in epoch {self._epoch + 1}, {problem}. The ledger books what is trained'
                )
                self._has_warned_of_size = True
        return self._agree.mean(extra)

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

    def _set_lengths(self, epochs: Sequence[int]) -> None:
        self.plan = replace(self.plan, epochs=tuple(epochs))
        self._max_epochs = self.plan.total_epochs
        self._max_iters = self._max_epochs * len(self.dataloader)

    def _is_over(self, stage: int) -> bool:
        return self.hours is not None and self.ledger.elapsed >= self.hours.deadline(stage)

    def _plan_anew(self, stage: int, seconds: float, iterations: int, started: float) -> None:
        """Plans what is left of the hours, after an epoch whose iterations took ``seconds``.

        Its data workers took ``started`` to start, unless it was resumed.
        """
        done = self.plan.done(self._epoch + 1)
        if iterations and seconds > 0:
            share = iterations / len(self.dataloader)
            whole = seconds / share + (started if iterations == self.batches_done else 0.0)
            self.hours.pace = self.hours.pace.drifted(stage, whole, share)
        if not self._is_over(stage):
            saved = self.ledger.elapsed + self.hours.pace.saving
            self._set_lengths(self.hours.lengths(done, saved))
        else:
            later = [min(1, n) for n in self.plan.epochs[stage + 1 :]]
            self._set_lengths([*done[: stage + 1], *later])

    def _learn(self, name: str, seconds: float) -> None:
        """Keeps how long something took, to plan the hours by."""
        if self.hours:
            self.hours.learn(name, seconds)

    def _saves_now(self) -> bool:
        """Whether a checkpoint follows this epoch."""
        return any(
            hook.every_n_epochs(self.runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_epoch(self.runner))
            for hook in self._savers
        )

    @property
    def _savers(self) -> list[CheckpointHook]:
        """The hooks that save after epochs."""
        hooks = [hook for hook in self.runner.hooks if isinstance(hook, CheckpointHook)]
        return [hook for hook in hooks if hook.by_epoch]

    def _is_time_to_validate(self) -> bool:
        if self.runner.val_loop is None or self._epoch < self.val_begin:
            return False
        if self._epoch == self._max_epochs:
            return True
        if self.hours and not self.hours.has_time_to_validate(self.ledger.elapsed):
            return False
        return self._epoch % self.val_interval == 0

    # Training.

    def _seed_epoch(self) -> None:
        seed = shared_seed(self.runner)
        seed_epoch(self.dataloader, self._generators, seed, self._epoch, self._diff_rank_seed)
        if self._sampler_follows_seed:  # a resumed run has the seed of its checkpoint
            self.dataloader.sampler.seed = seed

    def _seed_iteration(self, idx: int) -> None:
        seed_iteration(shared_seed(self.runner), self._epoch, idx, self._diff_rank_seed)

    @property
    def _diff_rank_seed(self) -> bool:
        return self.runner._randomness_cfg.get('diff_rank_seed', False)

    def _fetch(self, batches: Iterator[Any]) -> Any:
        data_batch = None
        with self._unless_workers_ended():
            if not self._workers_ended:
                data_batch = next(batches)
        return data_batch

    @contextmanager
    def _unless_workers_ended(self) -> Iterator[None]:
        """Lets data workers end that got the signal too; the run is about to leave."""
        try:
            yield
        except Exception:  # of many kinds
            if not self._signals.received:
                raise
            self._workers_ended = True
            self.runner.logger.warning(
                f'signal {self._signals.received} has ended the data workers as well; '
                'what they were read for is broken off'
            )

    def _train_step(self, data_batch: Any) -> dict[str, torch.Tensor]:
        """Trains a batch; compiles first if that was asked for and the stage is new."""
        parts = self.parts[self.stage]
        if parts > 1 or not self._compiles or 'train_step' not in vars(self.runner.model):
            return self._train_eagerly(self.runner.model, data_batch, parts)
        if self._compiled_stage == self.stage:
            return self.runner.model.train_step(data_batch, self.runner.optim_wrapper)
        torch.compiler.reset()  # sizes of another stage are not to be guessed at as dynamic ones
        self._compiled_stage, self._has_compiled = self.stage, True
        unused = copy.deepcopy(data_batch)  # preprocessing writes into samples
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        count = wrapper._inner_count
        pending = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        from torch._dynamo.exc import TorchDynamoException  # takes seconds, and few need it

        try:
            with kept_random_state():
                return model.train_step(data_batch, wrapper)
        except TorchDynamoException as error:
            reason = ' '.join(str(error).split())[:200]
            self.runner.logger.warning(
                f'torch.compile failed in training stage {self.stage + 1} '
                f'({type(error).__name__}: {reason}); going on without it'
            )
        self._compiles = False
        wrapper._inner_count = count
        for param, gradient in zip(model.parameters(), pending):
            param.grad = gradient
        return self._train_eagerly(model, unused, parts)

    def _train_eagerly(
        self, model: nn.Module, data_batch: Any, parts: int
    ) -> dict[str, torch.Tensor]:
        wrapper = self.runner.optim_wrapper
        if parts == 1:
            return type(model).train_step(model, data_batch, wrapper)
        return train_in_parts(model, data_batch, wrapper, parts)

    def _leave(self, signal: int) -> None:
        """Saves a checkpoint to resume from, and ends the process."""
        file = self._save(INTERRUPTED)
        self.runner.logger.warning(
            f'stopped by signal {signal} in epoch {self._epoch + 1} after {self.batches_done} of '
            f'{len(self.dataloader)} iterations; saved {file}, from which --resume goes on'
        )
        self._agree.wait()  # launchers end everyone when the first process is gone
        raise SystemExit(128 + signal)

    def _save_the_end(self) -> None:
        """Saves what an early end, or hours, ended with, where no hook has.

        A hook that saves by iterations counted on more of them than hours had.
        """
        hooks = [hook for hook in self.runner.hooks if isinstance(hook, CheckpointHook)]
        names = [(hook.out_dir, hook.filename_tmpl.format(self._iter)) for hook in hooks]
        is_saved = any(Path(*name).exists() for name in names)
        if self._epoch < self.plan.total_epochs and not (is_saved or self._has_saved):
            self._save(INTERRUPTED)
        elif self.hours and hooks and not (is_saved or self._savers):
            self._save(Path(names[0][1]).name)

    def _tell_early_end(self) -> None:
        """Warns of a run that ended before its plan did, such as by early stopping."""
        warning = early_end(
            self.plan, self._backbone, self.ledger, self._epoch, self.runner.work_dir
        )
        if warning:
            self.runner.logger.warning(warning)

    def _save(self, name: str) -> Path:
        """Saves a checkpoint of this moment, and notes it as the last; all processes call it."""
        self._hook.average_gradients(self.runner)
        file = Path(self.runner.work_dir) / name
        partial = f'{name}.partial'
        self.runner.save_checkpoint(
            self.runner.work_dir,
            partial,
            meta=dict(epoch=self._epoch, iter=self._iter),
            by_epoch=False,
        )
        if is_main_process():
            file.with_name(partial).replace(file)
            write_last(self.runner.work_dir, file)
        return file

    # Before training.

    def _measure(self) -> list[Measurement]:
        """Times all stages, and what follows an epoch."""
        allowed = REHEARSED * self.hours.seconds
        stages = range(len(self._stages))
        measurements = [
            measure(
                self.runner,
                self._train_step,
                stage,
                allowed / len(stages),
                self._agree,
            )
            for stage in stages
        ]
        self.hours.pace = Pace(
            train=tuple(m.seconds * len(self.dataloader) for m in measurements),
            validation=measure_validation(self.runner, allowed / 2, self._agree),
            val_interval=self.val_interval,
            save_interval=min([max(1, hook.interval) for hook in self._savers], default=1),
        )
        return measurements

    def _write(self, name: str, values: dict[str, Any]) -> None:
        """Writes plain numbers into ``work_dir``."""
        if is_main_process():
            file = Path(self.runner.work_dir) / name
            partial = file.with_suffix('.partial')  # a kill must not leave half a file
            partial.write_text(json.dumps(values, indent=2) + '\n')
            partial.replace(file)
