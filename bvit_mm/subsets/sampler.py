# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training data of which an epoch reads a subset."""

from collections.abc import Iterator, Sequence, Sized

import torch
from mmengine.dataset import DefaultSampler
from torch import Tensor

from ..options import at_least
from ..registry import DATA_SAMPLERS
from ..running.randomness import derived_seed
from .share import check_share


def random_subset(total: int, size: int, seed: int) -> Tensor:
    """``size`` different numbers out of 0..total - 1, ascending."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:size].sort().values


def samples_of(
    chosen: Tensor, weights: Tensor, batches: Sequence[Sequence[int]], size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The samples of chosen mini-batches, each with the weight of its mini-batch.

    The last one chosen is cut short if there are too many. If there are too few, others are drawn
    at random, with weight 1: that of a mini-batch that stands for itself alone.

    Args:
        chosen: Numbers of mini-batches, in the order they were chosen.
        weights: Of these mini-batches.
        batches: The samples of each mini-batch; together, all of the data.
        size: Samples that are wanted.
        seed: Draws those that are missing.

    Returns:
        ``size`` different samples by their numbers, and their weights in single precision.
    """
    lengths = torch.tensor([len(batches[j]) for j in chosen], dtype=torch.long)
    found = [torch.tensor(batches[j], dtype=torch.long) for j in chosen]
    subset = torch.cat([torch.zeros(0, dtype=torch.long), *found])[:size]
    weights = weights.float().repeat_interleave(lengths)[:size]
    total = sum(map(len, batches))
    is_free = torch.ones(total, dtype=torch.bool)
    is_free[subset] = False
    free = is_free.nonzero().squeeze(1)
    drawn = free[random_subset(len(free), size - len(subset), seed)]
    return torch.cat([subset, drawn]), torch.cat([weights, torch.ones(len(drawn))])


@DATA_SAMPLERS.register_module()
class SubsetSampler(DefaultSampler):
    """Each epoch, all samples of a subset in a new random order, divided among the processes.

    The subset is drawn at random from the seed, and stays, unless ``SubsetHook`` selects another.
    ``BudgetedTrainLoop`` and ``tools/plan.py`` charge an epoch the share of its cost.

    Args:
        dataset: The training data.
        share: Of the data, in (0, 1]; rounded down to whole samples, so never above.
        seed: As of mmengine's ``DefaultSampler``; ``BudgetedTrainLoop`` sets its own if None.

    Raises:
        ValueError: If ``share`` is none, or less than one sample.
    """

    def __init__(self, dataset: Sized, share: float, seed: int | None = None) -> None:
        self.share = check_share(share)
        self.total = len(dataset)
        size = int(share * self.total * (1 + 1e-12))  # 0.29 * 100 is below 29
        if not self.total:
            raise ValueError('the training data has no sample; give data')
        if not size:
            raise ValueError(
                f'share={share} of train_dataloader.sampler is no sample of {self.total}; '
                f'give at least {at_least(1 / self.total)}'
            )
        super().__init__(range(size), shuffle=True, seed=seed)
        self.selected: tuple[Tensor, Tensor] | None = None  # samples and weights

    @staticmethod
    def epoch_share(sampler: 'SubsetSampler | dict') -> float:
        """What an epoch costs, as a share of one on all data.

        Args:
            sampler: A sampler of this class, or the config of one.

        Raises:
            ValueError: If the config states no share of the data.
        """
        return check_share(sampler.get('share') if isinstance(sampler, dict) else sampler.share)

    @property
    def size(self) -> int:
        """Samples of the subset, in all processes together."""
        return len(self.dataset)

    @property
    def subset(self) -> Tensor:
        """The samples of the subset, by their numbers in the data."""
        if self.selected is None:
            return random_subset(self.total, self.size, derived_seed(self.seed))
        return self.selected[0]

    def select(self, subset: Tensor, weights: Tensor) -> None:
        """From the next epoch on, reads these samples, whose losses have these weights."""
        if len(subset) != self.size:
            raise ValueError(
                f'{len(subset)} samples are selected, but share={self.share} of {self.total} is '
                f'{self.size}; give the share and the data of that selection'
            )
        self.selected = subset, weights

    def weights(self) -> Tensor | None:
        """Weights of the samples, in the order in which this process reads them in the epoch."""
        return None if self.selected is None else self.selected[1][self._positions()]

    def __iter__(self) -> Iterator[int]:
        return iter(self.subset[self._positions()].tolist())

    def _positions(self) -> Sequence[int]:
        """Places in the subset, in the order in which this process reads them in the epoch."""
        return list(super().__iter__())
