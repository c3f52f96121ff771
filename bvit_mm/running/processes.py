# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What several processes of one run must see alike."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.runner import Runner
from torch import distributed, nn

from ..mmengine_gaps import has_seeds_by_rank


def shared_seed(runner: Runner) -> int:
    """The seed of the run, without the rank that mmengine adds with ``diff_rank_seed``."""
    return runner.seed - get_rank() * has_seeds_by_rank(runner)


class Agreement:
    """What all processes of a run go by: the first one's clock, any one's signal, the mean.

    Processes that looked at clocks and signals of their own would stop at different iterations,
    or train with different learning rates. A group of its own on the CPUs, so that nobody waits
    for an accelerator.
    """

    def __init__(self) -> None:
        several = get_world_size() > 1
        self.group = distributed.new_group(backend='gloo') if several else None

    def first(self, *values: float) -> tuple[float, ...]:
        """The values of the first process."""
        ours = values if get_rank() == 0 else [0.0] * len(values)
        return self._reduced(ours, distributed.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        return int(self._reduced([value], distributed.ReduceOp.MAX)[0])

    def mean(self, value: float) -> float:
        """The mean of the processes' values, bit for bit the same in all of them."""
        return self._reduced([value], distributed.ReduceOp.SUM)[0] / get_world_size()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.group is not None:
            distributed.barrier(self.group)

    def _reduced(self, ours: Sequence[float], how: Any) -> tuple[float, ...]:
        if self.group is None:
            return tuple(ours)
        numbers = torch.tensor(ours, dtype=torch.float64)
        distributed.all_reduce(numbers, how, group=self.group)
        return tuple(numbers.tolist())


def average_gradients_(model: nn.Module) -> None:
    """Gives all processes the mean of the gradients that each is accumulating by itself.

    What they sum up to is the same, and a checkpoint can keep one of them for all.
    """
    params = list(model.parameters())
    used = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
    all_reduce(used, 'max')  # a parameter may have served in one process only
    for param, is_used in zip(params, used.tolist()):
        if is_used:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            all_reduce(param.grad, 'mean')
