# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What budgeted training adds to a run: booking, seeding, the hook, switches, the rehearsal.

    python benchmarks/overhead.py --epochs 3 6 9

It trains the digits' demo (`make demo` has made the data) and times the functions themselves,
because two runs differ by more than they take. Prints JSON: seconds and share of the run by name.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config
from mmengine.runner import Runner

from bvit_mm import BudgetedTrainLoop, StageSwitchHook

CONFIG = Path(__file__).parent.parent / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'
TIMED = {
    'seeding': (BudgetedTrainLoop, ['_seed_epoch', '_seed_iteration']),
    'ledger': (BudgetedTrainLoop, ['_book_and_agree', '_log_spent']),
    'switches': (StageSwitchHook, ['_switch']),
    'hook': (StageSwitchHook, ['before_train_iter', 'after_train_iter', 'before_save_checkpoint']),
    'stage checkpoints': (StageSwitchHook, ['after_train_epoch']),
    'rehearsal': (BudgetedTrainLoop, ['rehearse']),
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, nargs=3, default=[3, 6, 9])
    parser.add_argument('--data', type=Path, default=Path('data/digits'))
    args = parser.parse_args()

    seconds: dict[str, float] = defaultdict(float)

    def timed(function, name):
        def run(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[name] += time.perf_counter() - start
            return result

        return run

    for name, (owner, functions) in TIMED.items():
        for function in functions:
            setattr(owner, function, timed(getattr(owner, function), name))
    cfg = Config.fromfile(CONFIG)
    cfg.train_cfg.update(budget=None, epochs=args.epochs)
    cfg.train_dataloader.dataset.data_root = str(args.data / 'train')
    cfg.val_dataloader.dataset.data_root = str(args.data / 'val')
    with TemporaryDirectory() as work_dir:
        cfg.work_dir = work_dir
        runner = Runner.from_cfg(cfg)
        start = time.perf_counter()
        runner.train()
        total = time.perf_counter() - start
    seconds['hook'] -= seconds['switches']  # before_train_iter switches
    found = {
        name: dict(seconds=round(value, 4), share=f'{value / total:.3%}')
        for name, value in seconds.items()
    }
    kept = sum(value for name, value in seconds.items() if name != 'rehearsal')
    found['all but the rehearsal'] = dict(seconds=round(kept, 4), share=f'{kept / total:.3%}')
    iterations = runner.iter
    print(json.dumps(dict(total=round(total, 1), iterations=iterations, **found), indent=1))


if __name__ == '__main__':
    main()
