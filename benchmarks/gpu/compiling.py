# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""torch.compile: one compilation a stage, and the time of a step with and without it."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch._dynamo import lookup_backend, register_backend

from benchmarks.step_time import wait_for
from bvit_mm.cost import find_backbone

from .runs import drawn_images, short_run
from .sizes import Size

# Until then the loss learns the number of classes, and torch that the learning rate varies.
FIRST_STEPS = 2
# mmpretrain's CutMix is compiled anew for each number that it draws, with or without bvit_mm.
UNMIXED = {'model.train_cfg': None}
Step = tuple[int, float, int]  # stage, seconds, graphs that were compiled until then


class StepTimes(Hook):
    """Seconds of each step, with its stage and how many graphs were compiled until then.

    Args:
        device: Where the network is.
        compiled: Grows with each graph.
    """

    priority = 'LOWEST'

    def __init__(self, device: str, compiled: list[int]) -> None:
        self._device, self._compiled = torch.device(device), compiled
        self.steps: list[Step] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Starts the clock."""
        wait_for(self._device)
        self._begin = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stops it."""
        wait_for(self._device)
        seconds = time.perf_counter() - self._begin
        stage = find_backbone(runner.model).training_stage
        self.steps.append((stage, seconds, len(self._compiled)))


def counting(backend: str, compiled: list[int]) -> Callable[..., Any]:
    """A backend of torch.compile that also counts graphs."""
    compile_with = lookup_backend(backend)

    def compile_graph(module: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return compile_with(module, inputs)

    return compile_graph


def compilation(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A row for each stage; see ``Size.compiled``."""
    compiled: list[int] = []
    register_backend(counting(size.compiler, compiled), name='counted')
    eager = _steps(device, size, compiled)
    steps = _steps(device, size, compiled, compile=dict(backend='counted'))
    before = 0
    for k in sorted({stage for stage, *_ in steps}):
        begin, rest = split(steps, k)
        graphs, later = begin[-1][2] - before, rest[-1][2] - begin[-1][2]
        seconds = statistics.median(took for _, took, _ in rest)
        plain = statistics.median(took for _, took, _ in split(eager, k)[1])
        yield dict(
            stage=k + 1,
            batch=size.batch,
            ok=graphs > 0 and not later,
            graphs=graphs,
            graphs_later=later,
            compiling_seconds=sum(took for _, took, _ in begin),
            milliseconds=1e3 * seconds,
            of_eager=seconds / plain,
        )
        before = rest[-1][2]


def split(steps: Sequence[Step], stage: int) -> tuple[list[Step], list[Step]]:
    """The first steps of a stage, in which it is compiled, and those that follow."""
    own = [step for step in steps if step[0] == stage]
    return own[:FIRST_STEPS], own[FIRST_STEPS:]


def _steps(device: str, size: Size, compiled: list[int], **changes: Any) -> list[Step]:
    family = size.compiled
    epochs = max(2, size.iterations // 2)
    loader = drawn_images(family.read(), size.batch, 2 * size.batch)
    hook = StepTimes(device, compiled)
    with TemporaryDirectory() as folder:
        changes |= UNMIXED
        runner = short_run(device, family, Path(folder), loader, epochs=epochs, **changes)
        runner.register_hook(hook)
        runner.train()
    return hook.steps
