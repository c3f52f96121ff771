# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs with a budget in minutes on a machine that changes its speed in the middle.

    python benchmarks/hours.py --runs 10 --budget 3min --out hours.jsonl

Each run trains the digits' demo (`make demo` has made the data). Iterations of a random part of
it take up to 43 % longer than they did, which is 30 % less throughput. A line of JSON a run tells
what of the budget was used, by the process's own clock from outside the package.
"""

import argparse
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from bvit_mm.hours import parse_duration

CONFIG = Path(__file__).parent.parent / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'


@HOOKS.register_module()
class SlowDownHook(Hook):
    """Makes iterations longer in a part of the run.

    Args:
        begin: Share of the budget after which it begins.
        end: Share of the budget after which it ends.
        longer: What it adds to an iteration, as a share of it.
        seconds: The budget.
    """

    priority = 'VERY_HIGH'

    def __init__(self, begin: float, end: float, longer: float, seconds: float) -> None:
        self.start = time.perf_counter()
        self.begin, self.end, self.longer, self.seconds = begin, end, longer, seconds

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.iteration = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        now = time.perf_counter()
        if self.begin <= (now - self.start) / self.seconds < self.end:
            time.sleep(self.longer * (now - self.iteration))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--runs', type=int, default=10)
    parser.add_argument('--first', type=int, default=0, help='number of the first run')
    parser.add_argument('--budget', default='3min')
    parser.add_argument('--data', type=Path, default=Path('data/digits'))
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    seconds = parse_duration(args.budget)
    for i in range(args.first, args.first + args.runs):
        draw = random.Random(i)
        begin = draw.uniform(0.2, 0.5)
        slow = dict(begin=begin, end=begin + draw.uniform(0.2, 0.6), longer=draw.uniform(0.2, 0.43))
        cfg = Config.fromfile(CONFIG)
        cfg.train_cfg.budget = args.budget
        cfg.experiment_name = f'hours{i}'
        cfg.train_dataloader.dataset.data_root = str(args.data / 'train')
        cfg.val_dataloader.dataset.data_root = str(args.data / 'val')
        cfg.custom_hooks.append(dict(type='SlowDownHook', **slow, seconds=seconds))
        with TemporaryDirectory() as work_dir:
            cfg.work_dir = work_dir
            runner = Runner.from_cfg(cfg)
            start = time.perf_counter()
            runner.train()
            took = time.perf_counter() - start
        loop = runner.train_loop
        result = dict(
            run=i,
            **{name: round(value, 3) for name, value in slow.items()},
            used=round(took / seconds, 4),
            booked=round(loop.ledger.elapsed / seconds, 4),
            epochs=[round(n, 2) for n in loop.ledger.epochs],
            last_stage=loop.stage == len(loop.plan.gflops) - 1,
            schedule=round(loop.spent, 4),
            lr=runner.optim_wrapper.get_lr()['lr'][0],
            rehearsal=round(loop.ledger.other['rehearsal'], 2),
        )
        with args.out.open('a') as out:
            out.write(json.dumps(result) + '\n')
        print(json.dumps(result), flush=True)


if __name__ == '__main__':
    main()
