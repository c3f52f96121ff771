# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Whether a training stage fits into memory, and into how many parts a batch must be divided.

It is tried before a run starts, so that a run does not die of memory when it gets to its last and
largest stage.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from ..elastic import find_backbone
from ..mmengine_gaps import update_each_time
from ..run_hook import recipes_in
from ..wrapped import optim_wrappers, unwrapped
from .processes import Agreement
from .rehearsal import irreversible, rehearsal
from .train_in_parts import count_samples

TrainInParts = Callable[[nn.Module, Any, int], Any]

NEVER = 1 << 30  # parts of a batch that fits into no memory
STEPS = 3  # to have moments and then train with them; mixed precision may skip the first update
NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    'CUDA error: out of memory',
    'CUBLAS_STATUS_ALLOC_FAILED',
)


def find_parts(
    runner: Runner,
    train: TrainInParts,
    parts: Sequence[int],
    may_change: bool,
    agree: Agreement,
) -> tuple[int, ...]:
    """Into how many parts each training stage divides a batch so that it fits.

    Args:
        runner: The runner; it is left as it was.
        train: Trains a model with a batch in a number of parts.
        parts: The fewest allowed, of each training stage.
        may_change: Whether to look for more parts. If not, only the last stage is tried.
        agree: So that all processes find the same.

    Raises:
        MemoryError: If a batch fits in no number of parts, or not in those given and they may
            not change; it says which would do.
    """
    places = irreversible(runner)
    if places:
        runner.logger.warning(
            f'whether the last training stage fits into memory is not tried: {", ".join(places)} '
            'cannot be turned back after it, being an iterator that has begun'
        )
        return tuple(parts)
    divides = not isinstance(runner.optim_wrapper, OptimWrapperDict)
    last = find_backbone(runner.model).whole_stage  # the largest
    batch = _batch(runner, last)
    size = count_samples(batch)

    def fewest(stage: int, batch: Any) -> int:
        n = parts[stage]
        while True:
            failed = not fits(runner, train, batch, stage, n)
            if not agree.largest(failed):  # in any process
                return n
            if n >= size or not divides:
                return NEVER
            n = min(2 * n, size)

    needed = fewest(last, batch)
    if needed == parts[last] and not may_change:
        return tuple(parts)
    others = {k: fewest(k, _batch(runner, k)) for k in range(len(parts)) if k != last}
    fitting = tuple({**others, last: needed}[k] for k in range(len(parts)))
    if needed == NEVER or not may_change:
        raise MemoryError(
            f'training stage {last + 1} of {len(parts)} does not fit into memory with a batch '
            f'of {size} images in {parts[last]} parts: {_advice(fitting, divides)}'
        )
    if max(fitting) > 1:
        runner.logger.info(
            f'to fit into memory, batches of {size} images are divided into {list(fitting)} '
            'parts in the training stages'
        )
    return fitting


def _batch(runner: Runner, stage: int) -> Any:
    """A batch as a training stage gets it; the runner is left as it was."""
    with rehearsal(runner), recipes_in(runner).during(runner, stage):
        return next(iter(runner.train_dataloader))


def _advice(fitting: Sequence[int], divides: bool) -> str:
    """What to give where a batch does not fit, by the parts in which each stage's would."""
    if max(fitting) == NEVER and not divides:
        return 'give a smaller train_dataloader.batch_size'
    if max(fitting) == NEVER:
        return 'not even one of them does; give a smaller model or image'
    return (
        f'train_cfg.accumulative_counts={list(fitting)} divides the batches and fits, '
        "at the same global batch; give that, 'auto', or a smaller "
        'train_dataloader.batch_size'
    )


def fits(runner: Runner, train: TrainInParts, batch: Any, stage: int, parts: int) -> bool:
    """Whether a training stage can train a batch in a number of parts without running out.

    Args:
        runner: The runner; it is left as it was.
        train: Trains a model with a batch in a number of parts.
        batch: As the data loader gives it.
        stage: The training stage.
        parts: The number of parts.
    """
    wrappers = optim_wrappers(runner)
    # Each process tries it alone: one that ran out of memory would let the others wait.
    model = unwrapped(runner.model)
    try:
        with rehearsal(runner), recipes_in(runner).during(runner, stage):
            find_backbone(model).set_training_stage(stage)
            model.train()
            for each in wrappers:
                update_each_time(each)
            for _ in range(STEPS):  # moments are there from the first update on, and count too
                has_moments = any(each.optimizer.state for each in wrappers)
                train(model, copy.deepcopy(batch), parts)
                if has_moments:
                    break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch's or Python's way to say that memory is used up."""
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in NO_MEMORY)
