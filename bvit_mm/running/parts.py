# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Into how many parts each training stage divides a batch."""

from collections.abc import Sequence
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from ..options import is_whole_number
from .memory import TrainInParts, find_parts
from .processes import Agreement


class Parts:
    """The parts of a batch in each training stage: stated, or as few as fit into memory.

    Args:
        counts: A number for each training stage; ``'auto'`` for the fewest that fit; None for one.
        stages: How many training stages there are.

    Raises:
        ValueError: If ``counts`` is none of these.
    """

    def __init__(self, counts: Sequence[int] | str | None, stages: int) -> None:
        self.stated = counts
        self.is_auto = counts == 'auto'
        self.counts = _check_counts(counts, stages)

    def __getitem__(self, stage: int) -> int:
        return self.counts[stage]

    @property
    def may_divide(self) -> bool:
        """Whether some batch may be divided."""
        return self.is_auto or max(self.counts) > 1

    def check_optimizers(self, runner: Runner) -> None:
        """Raises ValueError if there are several optimizers, for which no batch can be divided."""
        if self.stated and isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise ValueError(
                f'accumulative_counts={self.stated} of train_cfg divides batches for '
                'one optimizer, but there are several; leave it out'
            )

    def find(self, runner: Runner, train: TrainInParts, agree: Agreement) -> None:
        """Tries what fits into memory (``find_parts``)."""
        self.counts = find_parts(runner, train, self.counts, self.is_auto, agree)


def _check_counts(counts: Any, stages: int) -> tuple[int, ...]:
    if counts is None or counts == 'auto':
        return (1,) * stages
    if (
        isinstance(counts, str)
        or not isinstance(counts, Sequence)
        or len(counts) != stages
        or any(not is_whole_number(n) or n < 1 for n in counts)
    ):
        raise ValueError(
            f"accumulative_counts={counts!r} of train_cfg must be 'auto', or a list of {stages} "
            'whole numbers, at least 1, one for each training stage (the optimizer has one of its '
            'own, optim_wrapper.accumulative_counts)'
        )
    return tuple(counts)
