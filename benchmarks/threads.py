# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What waiting threads cost: training steps of the demo's network, alone and beside others.

    python benchmarks/threads.py --busy 0 3

Each setting has a process of its own, as threads are set before torch is imported. In each round
all take their steps in turn, in random order, while the others sleep, so that a machine that slows
down slows all of them. Of each setting and training stage it prints the median milliseconds of a
step, and the median over rounds of the ratio to torch's own setting in the same round.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

CONFIG = Path(__file__).parent.parent / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'
PLAIN = "torch's own"
STAGES = 3


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--busy', type=int, nargs='+', default=[0, 3], help='processes beside')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--steps', type=int, default=12, help='of a stage, in a round')
    parser.add_argument('--spins', type=int, nargs='*', default=[3_000, 10_000, 30_000, 100_000])
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(spins: list[int]) -> dict[str, dict[str, str]]:
    """The environment of each setting that is compared, by its name."""
    return {
        PLAIN: {},
        **{f'GOMP_SPINCOUNT={spin}': dict(GOMP_SPINCOUNT=str(spin)) for spin in spins},
        'OMP_WAIT_POLICY=PASSIVE': dict(OMP_WAIT_POLICY='PASSIVE'),
        'OMP_NUM_THREADS=1': dict(OMP_NUM_THREADS='1'),
    }


def training_step() -> Callable[[int], None]:
    """A function that makes one training step of the demo's network at a stage."""
    import torch
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope
    from mmpretrain.structures import DataSample

    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = cfg.train_dataloader.batch_size
    shape = (3, cfg.image_size, cfg.image_size)
    data = dict(
        inputs=[torch.randint(256, shape, dtype=torch.uint8) for _ in range(batch)],
        data_samples=[DataSample().set_gt_label(i % 10) for i in range(batch)],
    )

    def step(stage: int) -> None:
        model.backbone.set_training_stage(stage)
        model.train_step(data, optim_wrapper)

    return step


def work() -> None:
    """In a process of its own: for each line 'stage steps' times steps, and prints their median."""
    step = training_step()
    print('ready', flush=True)
    for line in sys.stdin:
        stage, steps = map(int, line.split())
        seconds = []
        for _ in range(steps + 2):
            begin = time.perf_counter()
            step(stage)
            seconds.append(time.perf_counter() - begin)
        print(statistics.median(seconds[2:]), flush=True)  # two wake up threads and caches


class Worker:
    """A process that makes training steps under a setting of its own."""

    def __init__(self, setting: dict[str, str], stack: ExitStack) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, '-W', 'ignore', __file__, '--worker'],
                env={**os.environ, **setting},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self.process.kill)
        while self._read() != 'ready\n':  # what libraries print at import
            pass

    def seconds(self, stage: int, steps: int) -> float:
        """Of a training step, the median."""
        print(stage, steps, file=self.process.stdin, flush=True)
        return float(self._read())

    def _read(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit('a process that makes training steps has ended')
        return line


def measure(args: argparse.Namespace, busy: int) -> dict[str, list[list[float]]]:
    """Seconds by setting, training stage and round, beside so many busy processes."""
    with ExitStack() as stack:
        workers = {name: Worker(setting, stack) for name, setting in settings(args.spins).items()}
        for _ in range(busy):
            endless = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
            stack.callback(endless.wait)
            stack.callback(endless.kill)
        found: dict[str, list[list[float]]] = {n: [[] for _ in range(STAGES)] for n in workers}
        for round_ in range(args.rounds):
            for stage in range(STAGES):
                for name in random.Random(f'{round_} {stage}').sample(list(workers), len(workers)):
                    found[name][stage].append(workers[name].seconds(stage, args.steps))
    return found


def table(found: dict[str, list[list[float]]]) -> str:
    """Milliseconds of each stage, and ratios, as a table in Markdown."""
    lines = ["| setting | ms at stages 1, 2, 3 | of torch's own |", '|---|---|---|']
    for name, stages in found.items():
        milliseconds = ', '.join(f'{statistics.median(s) * 1e3:.0f}' for s in stages)
        ratios = ', '.join(
            f'{statistics.median(a / b for a, b in zip(own, plain)):.2f}'
            for own, plain in zip(stages, found[PLAIN])
        )
        lines.append(f'| `{name}` | {milliseconds} | {ratios} |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    if args.worker:
        work()
        return
    chosen = {name for name in os.environ if name.startswith(('OMP_', 'GOMP_', 'MKL_', 'KMP_'))}
    if chosen:
        raise SystemExit(f'unset {", ".join(sorted(chosen))}: it would decide for every setting')
    for busy in args.busy:
        load = os.getloadavg()[0]
        found = measure(args, busy)
        print(f'\nbeside {busy} busy processes (load before: {load:.1f}):\n\n{table(found)}')
        print(json.dumps({n: [[round(x, 5) for x in s] for s in v] for n, v in found.items()}))


if __name__ == '__main__':
    main()
