# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Before some epochs, selects the data that the next ones train on."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from ..loop import BudgetedTrainLoop
from ..mmengine_gaps import is_to_resume
from ..options import check_epochs
from ..plan import Charge
from ..registry import HOOKS
from ..run_hook import RunHook, recipes_of
from ..running.processes import shared_seed
from ..running.randomness import derived_seed
from ..wrapped import unwrapped
from .gradients import check_classifier, mini_batch_gradients, mini_batches
from .matching import gram_matrix, match
from .sampler import SubsetSampler, random_subset, samples_of
from .share import selection_charge

SELECTIONS = ('random', 'gradmatch')
KEY = 'bvit_mm_subset'  # of a checkpoint
OPTIONS = ('selection', 'interval', 'batch_size', 'ridge', 'features', 'width')


@HOOKS.register_module()
class SubsetHook(RunHook):
    """Selects anew, every ``interval`` epochs, what ``SubsetSampler`` reads.

    ``'random'`` draws the subset. ``'gradmatch'`` draws the first one; the others are mini-batches
    whose weighted gradients come near that of all data (GradMatch-PB of Killamsetty et al., 2021;
    Table 10), and weigh the losses of their samples: sum_i w_i l_i / sum_i w_i in each mini-batch
    of training, of all processes together. It runs with any epoch-based loop and any backbone. With
    ``BudgetedTrainLoop`` a selection is charged a third of an epoch on all data, and its seconds
    are told apart.

    Args:
        selection: ``'random'`` or ``'gradmatch'``.
        interval: Epochs from one selection to the next.
        batch_size: Samples of the mini-batches that are matched, of data that is shuffled once by
            the seed of the run. It need not be that of training.
        ridge: What is charged for the sum of the squared weights, in units of squared gradients.
        features: Whether gradients are by the last layer's weights and bias, or by the bias alone.
        width: The most numbers of a gradient; longer ones are sketched (``sketch_of``).
        count_selection: Whether selections count as a cost. The paper leaves them out.

    Raises:
        ValueError: If an option is wrong; before training, if the sampler is another, or the
            model is none whose losses can be weighed; if a resumed run had other options.
    """

    def __init__(
        self,
        selection: str,
        interval: int = 20,
        batch_size: int = 256,
        ridge: float = 0.5,
        features: bool = True,
        width: int = 4096,
        count_selection: bool = True,
    ) -> None:
        if selection not in SELECTIONS:
            raise ValueError(f'selection={selection!r} is not known; give one of {SELECTIONS}')
        check_epochs('interval', interval)
        for name, value in (('batch_size', batch_size), ('width', width)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f'{name}={value!r} of SubsetHook must be a whole number, at least 1'
                )
        if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not ridge >= 0:
            raise ValueError(f'ridge={ridge!r} of SubsetHook must be a number, at least 0')
        self.selection, self.interval, self.batch_size = selection, interval, batch_size
        self.ridge, self.features, self.width = float(ridge), features, width
        self.count_selection = count_selection
        self._selected_at = -1  # before which epoch
        self._in_order: Tensor | None = None  # weights as this epoch reads the samples
        self._weights: Tensor | None = None  # of the mini-batch that trains

    @property
    def weighs(self) -> bool:
        """Whether losses have weights."""
        return self.selection == 'gradmatch'

    def charges(self) -> list[Charge]:
        """What is charged for selections."""
        is_charged = self.weighs and self.count_selection
        return [selection_charge(self.interval)] if is_charged else []

    def check_run(self, loop: EpochBasedTrainLoop, model: nn.Module) -> None:
        """Raises ValueError if data cannot be selected for a ``BudgetedTrainLoop``."""
        self.check(loop.runner, model, loop.dataloader)
        if self.weighs and loop.parts.may_divide:
            raise ValueError(
                "selection='gradmatch' weighs the samples of whole mini-batches, but "
                'accumulative_counts of train_cfg divides them; leave it out, and accumulate '
                'mini-batches with optim_wrapper.accumulative_counts'
            )
        recipes = [recipe for hook in loop.runner.hooks for recipe in recipes_of(hook)]
        if self.weighs and any('loss' in recipe for recipe in recipes):
            raise ValueError(
                "selection='gradmatch' weighs the samples in one loss, but recipes of "
                "StageSwitchHook change it (loss); leave that out, or give selection='random'"
            )
        if self.weighs and any(recipe.get('batch_augments') for recipe in recipes):
            raise ValueError(
                "selection='gradmatch' weighs the losses of single samples, but recipes of "
                'StageSwitchHook mix them (batch_augments); leave that out, or give '
                "selection='random'"
            )
        if self.weighs and loop.budget.follows_pace:
            raise ValueError(
                "selection='gradmatch' takes time that a budget in hours does not plan; state "
                "epochs, or give selection='random'"
            )

    def check(self, runner: Runner, model: nn.Module, dataloader: DataLoader) -> None:
        """Raises ValueError if subsets cannot be selected, or not weighed."""
        sampler, batches = dataloader.sampler, dataloader.batch_sampler
        if not isinstance(sampler, SubsetSampler):
            raise ValueError(
                f'SubsetHook selects what a SubsetSampler reads, but train_dataloader.sampler is '
                f"{type(sampler).__name__}; give dict(type='bvit_mm.SubsetSampler', share=0.1)"
            )
        if not self.weighs:
            return
        if type(batches) is not BatchSampler:
            raise ValueError(
                f"selection='gradmatch' must know which samples are in a mini-batch, but "
                f'train_dataloader.batch_sampler is {type(batches).__name__}; leave it out'
            )
        if runner.cfg.get('compile', False):
            raise ValueError(
                "selection='gradmatch' gives each mini-batch weights of its own, which a compiled "
                'training step would not see; leave out compile'
            )
        check_classifier(unwrapped(model), self.features)

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(
                f'SubsetHook selects before epochs, but the train loop {type(loop).__name__} has '
                'none; give an EpochBasedTrainLoop or bvit_mm.BudgetedTrainLoop'
            )
        self.check(runner, runner.model, loop.dataloader)
        if self.weighs:
            module = unwrapped(runner.model).head.loss_module
            self._handle = module.register_forward_pre_hook(self._weigh, with_kwargs=True)

    def before_train_epoch(self, runner: Runner) -> None:
        sampler, epoch = runner.train_dataloader.sampler, runner.epoch
        if epoch % self.interval == 0 and self._selected_at != epoch:  # else resumed within it
            if self.weighs and epoch:
                with self._charging(runner.train_loop):
                    subset, weights = self._match(runner)
            else:
                seed = derived_seed(shared_seed(runner), epoch)
                subset = random_subset(sampler.total, sampler.size, seed)
                weights = torch.ones(sampler.size)
            sampler.select(subset, weights)
            self._selected_at = epoch
        self._in_order = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any | None = None
    ) -> None:
        if self.weighs:
            train = runner.train_dataloader
            if self._in_order is None:  # by now, the sampler knows its epoch
                self._in_order = train.sampler.weights()
            begin = batch_idx * train.batch_size
            self._weights = self._in_order[begin : begin + train.batch_size]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._weights = None

    def after_train(self, runner: Runner) -> None:
        if self.weighs:
            self._handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[KEY] = dict(
            options=self._options(),
            selected_at=self._selected_at,
            selected=runner.train_dataloader.sampler.selected,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_to_resume(runner):
            return
        saved = checkpoint.get(KEY, {})
        if saved.get('options') != self._options():
            raise ValueError(
                f'the checkpoint to resume is of a run with SubsetHook options '
                f'{saved.get("options")}, and this one has {self._options()}; resume with the '
                'same, or start from its weights with load_from and without resume'
            )
        self._selected_at = saved['selected_at']
        if saved['selected'] is not None:
            runner.train_dataloader.sampler.select(*saved['selected'])

    def _charging(self, loop: EpochBasedTrainLoop) -> AbstractContextManager[None]:
        """Charges a selection, in a loop that keeps a ledger."""
        if not isinstance(loop, BudgetedTrainLoop):
            return nullcontext()
        charge = selection_charge(self.interval)
        return loop.charging(charge.name, charge.share * self.count_selection)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OPTIONS}

    def _match(self, runner: Runner) -> tuple[Tensor, Tensor]:
        """The samples of mini-batches that stand for all, and their weights."""
        start, train = time.perf_counter(), runner.train_dataloader
        sampler = train.sampler
        seed = derived_seed(shared_seed(runner), runner.epoch)
        batches = mini_batches(sampler.total, self.batch_size, derived_seed(shared_seed(runner)))
        model = unwrapped(runner.model)
        gradients = mini_batch_gradients(model, train, batches, self.features, self.width, seed)
        results: list[Any] = [None]
        if is_main_process():  # others might round otherwise
            gram = gram_matrix(gradients)
            count = -(-sampler.size // self.batch_size)
            products, square = gram.sum(1), float(gram.sum())
            chosen, weights = match(gram, products, square, count, self.ridge)
            results = [(*samples_of(chosen, weights, batches, sampler.size, seed), len(chosen))]
        broadcast_object_list(results)
        subset, weights, n = results[0]
        runner.logger.info(
            f'epoch {runner.epoch + 1}: gradient matching chose {n} of {len(batches)} mini-batches '
            f'of {self.batch_size}, for {sampler.size} of {sampler.total} samples, with weights '
            f'from {weights.min():.3g} to {weights.max():.3g}, '
            f'in {time.perf_counter() - start:.1f} s'
        )
        return subset, weights

    def _weigh(
        self, module: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Gives the loss the weights of the mini-batch that trains."""
        if self._weights is None:  # of no mini-batch of training, as when memory is tried
            return None
        weights = self._weights.to(args[0].device)
        if len(weights) != len(args[0]):
            raise ValueError(
                f'the loss is of {len(args[0])} samples, but the mini-batch has {len(weights)}, so '
                "their weights are not known; train whole mini-batches, or give selection='random'"
            )
        # Processes average gradients; over the mean of their sums, weights count alike in all.
        total = weights.sum()
        all_reduce(total, 'mean')
        return args, {**kwargs, 'weight': weights, 'avg_factor': total}
