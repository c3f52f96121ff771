# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""At each epoch, asks which training stage it is; when it changes, the weights grow."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import Tensor

from .elastic import ElasticBackbone, find_backbone, images_of_training
from .growth import check_growth, check_moments, correct_bias_, drawn_anew, grow_
from .mmengine_gaps import has_loaded, has_train_loop, is_to_resume, load_from, run_forward
from .plan import Plan
from .recipes import Recipes
from .registry import HOOKS
from .run_hook import RunHook
from .running.class_count_hook import ClassCountHook
from .running.optimizer_probe import OptimizerTraits, forget_, probe_optimizer
from .running.processes import shared_seed
from .running.randomness import kept_random_state
from .running.snapshot import lasting_iterators, unchanged
from .slim.phases import PENALTY, begin_search_, cut_
from .training_stages import AXES
from .widths import count
from .wrapped import optimizers, unwrapped


@HOOKS.register_module()
class StageSwitchHook(RunHook):
    """Switches training stages as ``BudgetedTrainLoop`` planned them.

    The network that trains, its exponential moving average (any of mmengine's ``EMAHook``s) and
    the optimizer's moments grow together, in place, just before the first iteration of a
    stage; the log says what grew, what is spent, and the loss of that iteration's batch before
    and after. The recipe of a stage comes before its first epoch, so that all its batches are
    made by it, and both losses are by it.

    Args:
        init: What new weights start from: ``'copy'``, ``'random'``, ``'half'`` or ``'noise'``;
            see ``growth.grow_``.
        moments: What their optimizer moments start from: ``'drop'``, ``'copy'``,
            ``'drop_all'`` or ``'corrected'``.
        recipes: How each training stage is trained, as changes of the config (``recipes``).

    Raises:
        ValueError: If an option is not known; and, before training, if there is no
            ``BudgetedTrainLoop`` or growth cannot serve the optimizer.
    """

    priority = 'HIGH'  # other hooks find the stage set

    def __init__(
        self,
        init: str = 'copy',
        moments: str = 'drop',
        recipes: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        check_growth(init, moments)
        self.recipes: Recipes = Recipes(recipes)
        self.init = init
        self.moments = moments
        self._traits: dict[torch.optim.Optimizer, OptimizerTraits] = {}

    def before_run(self, runner: Runner) -> None:
        self._let_classes_be_checked(runner)
        if has_train_loop(runner):
            self.recipes.read(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._let_classes_be_checked(runner)  # FlexibleRunner loads before it calls before_run

    def _let_classes_be_checked(self, runner: Runner) -> None:
        if not any(isinstance(hook, ClassCountHook) for hook in runner.hooks):
            runner.register_hook(ClassCountHook(), priority=self.priority)

    def before_train(self, runner: Runner) -> None:
        plan = _plan(runner)
        self._backbone = backbone = find_backbone(runner.model)
        self.check_optimizers(runner)
        if self.moments == 'corrected':
            for optimizer in optimizers(runner):
                optimizer.register_step_post_hook(lambda opt, *_: correct_bias_(opt))
        # Loading has made the backbone the stage of its checkpoint; a new run starts at its first.
        resumed = is_to_resume(runner) and has_loaded(runner)
        stage = plan.stage_at(0)
        if resumed:
            saved = runner.train_loop.resumed_stage
            stage = backbone.training_stage if saved is None else saved
        if load_from(runner) and not resumed and stage < backbone.training_stage:
            runner.logger.warning(
                f'load_from={load_from(runner)} has weights of training stage '
                f'{backbone.training_stage + 1}, but training begins at stage {stage + 1}: growth '
                'will overwrite the others; give epochs=[0, ..., n] to train all from the start'
            )
        for each in (backbone, *_twins(runner)):
            each.training_stages = backbone.training_stages  # loaded ones know what was cut
            each.set_training_stage(stage)

    def check_optimizers(self, runner: Runner) -> None:
        """Raises ValueError if growth cannot serve an optimizer of the runner."""
        for optimizer in optimizers(runner):
            check_moments(optimizer, self.moments)
            if optimizer not in self._traits:
                self._traits[optimizer] = probe_optimizer(optimizer)

    def before_train_epoch(self, runner: Runner) -> None:
        # Before the data workers start, which copy the pipeline; the network follows with a batch.
        if self.recipes.apply(runner, _plan(runner).stage_at(runner.epoch)):
            runner.train_loop.seeds.new_data(runner.epoch)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any | None = None
    ) -> None:
        stage = _plan(runner).stage_at(runner.epoch)
        if stage != self._backbone.training_stage:
            self._switch(runner, stage, data_batch)

    def before_test(self, runner: Runner) -> None:
        backbone = find_backbone(runner.model)
        if backbone.training_stage < backbone.whole_stage:
            k = backbone.training_stage
            runner.logger.warning(
                f'the checkpoint is of an unfinished run: this is the network of training stage '
                f'{k + 1} of {backbone.num_training_stages} ({backbone.training_stages[k]})'
            )

    def _switch(self, runner: Runner, stage: int, data_batch: Any) -> None:
        plan, backbone = _plan(runner), self._backbone
        old = backbone.training_stage
        model = unwrapped(runner.model)
        seed = shared_seed(runner) + stage
        states: dict[Tensor, dict[str, Any]] = {}
        averages: dict[Tensor, frozenset[str]] = {}
        for optimizer, traits in self._traits.items():
            states.update(optimizer.state)
            averages.update(dict.fromkeys(optimizer.state, traits.averages))
        before = _loss(runner, data_batch)
        loop, twins = runner.train_loop, list(_twins(runner))
        grow_(
            backbone,
            min(stage, backbone.whole_stage),
            init=self.init,
            moments=self.moments,
            states=states,
            averages=averages,
            twins=twins,
            fresh=lambda: find_backbone(drawn_anew(model, seed)),
            seed=seed,
        )
        if self.moments == 'drop_all':
            for optimizer, traits in self._traits.items():
                forget_(optimizer, traits.counters)
        if stage > backbone.whole_stage:
            cut_(backbone, loop.slimmer.units_to_keep(backbone), states, twins)
        elif backbone.has_phases and stage == backbone.whole_stage:
            begin_search_(backbone, states, twins)
        after = _loss(runner, data_batch)
        runner.logger.info(
            f'training stage {stage + 1} of {backbone.num_training_stages} begins: '
            f'{_what_changed(backbone, self.recipes, old, stage)}, '
            f'GFLOPs {plan.gflops[old]:.4g} -> {plan.gflops[stage]:.4g}; '
            f'spent {loop.ledger.cost:.4g} GFLOPs x epochs, {loop.spent:.1%} of '
            f'{loop.budget.size_text(plan)}; '
            + (f'loss of one batch {before:.4f} -> {after:.4f}' if before is not None else '')
        )


def find_switch_hook(runner: Runner) -> StageSwitchHook:
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


def _plan(runner: Runner) -> Plan:
    plan = getattr(runner.train_loop, 'plan', None)
    if plan is None:
        raise ValueError(
            'StageSwitchHook switches the stages of a plan, but the train loop '
            f'{type(runner.train_loop).__name__} has none; give '
            "train_cfg=dict(_delete_=True, type='bvit_mm.BudgetedTrainLoop', budget=...)"
        )
    return plan


def _twins(runner: Runner) -> Iterator[ElasticBackbone]:
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            yield find_backbone(hook.ema_model.module)


@torch.no_grad()
def _loss(runner: Runner, data_batch: Any) -> float | None:
    """The loss of a batch as the next iteration will preprocess it, mixed images included.

    Without drop-out or drop-path. Preprocessing writes into the samples, and losses may draw
    numbers or count; nothing of that remains. None of a model that cannot be put back.
    """
    model = unwrapped(runner.model)
    if lasting_iterators(model):
        return None
    with kept_random_state(), unchanged(model, runner.message_hub, runner.train_loop.sizes.seen):
        data = model.data_preprocessor(copy.deepcopy(data_batch), True)
        model.eval()
        with images_of_training(model):
            losses = run_forward(model, data)
            losses.pop(PENALTY, None)  # which is none of the batch
            loss, _ = model.parse_losses(losses)
        return loss.item()


def _what_changed(backbone: ElasticBackbone, recipes: Recipes, old: int, new: int) -> str:
    before, now = backbone.training_stages[old], backbone.training_stages[new]
    if new > backbone.whole_stage:
        totals = backbone.totals()
        cut = (
            f'{axis} {sum(map(count, totals[axis]))} -> {sum(map(count, widths))} in all'
            for axis, widths in now.widths
        )
        return ', '.join(cut)
    if backbone.has_phases and new == backbone.whole_stage:
        return 'gates learn'
    pairs = ((key, getattr(before, key), getattr(now, key)) for key in now.keys)
    grew = [f'{key} {a} -> {b}' for key, a, b in pairs if AXES[key].text(a) != AXES[key].text(b)]
    return ', '.join([*grew, *(f'another {name}' for name in recipes.changed(old, new))])
