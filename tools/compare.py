# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Trains a config by several methods at the same costs or times, and compares what they reach.

    python tools/compare.py CONFIG --budgets 0.25 0.5 --methods bvit cosine --seeds 3 --out OUT
    python tools/compare.py CONFIG --budgets 20min 40min --methods bvit rex --out OUT

Each run is ``tools/train.py`` with a config of its own (``OUT/configs/``), in a folder of its own.
When it has ended, a line of ``OUT/runs.jsonl`` keeps what it spent and reached. Called again,
finished runs are kept and an interrupted one goes on. ``OUT/table.md`` and ``OUT/figure.png`` are
drawn after each run. Methods are those of ``bvit_mm.compare``; add yours in a file.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from _cpus import usable_cpus
from _refusals import refusing
from mmengine.config import DictAction

from bvit_mm.compare import ABLATIONS, METHODS, Method
from bvit_mm.compare.amounts import is_time, read_amounts
from bvit_mm.compare.methods import methods_of
from bvit_mm.compare.runner import (
    Comparison,
    ComparisonError,
    finished,
    visible_devices,
    write_report,
)
from bvit_mm.compare.runs import Run, plan_runs, uneven
from bvit_mm.compare.settings import Settings, base_config
from bvit_mm.hours import duration

TRAIN = Path(__file__).with_name('train.py')


def argument_parser() -> argparse.ArgumentParser:
    """The flags of the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config of a budgeted run')
    parser.add_argument(
        '--budgets',
        nargs='+',
        default=[0.25, 0.5, 0.75, 1.0],
        help='shares of the full cost, or times such as 20min',
    )
    parser.add_argument('--methods', nargs='+', default=['bvit', 'linear', 'rex', 'cosine'])
    parser.add_argument(
        '--methods-of', type=Path, metavar='FILE', help='a Python file with METHODS of your own'
    )
    parser.add_argument('--seeds', type=int, default=3, help='how many')
    parser.add_argument('--first-seed', type=int, default=0)
    parser.add_argument('--out', type=Path, help='default: work_dirs/compare/<name of config>')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument(
        '--gpus', type=int, default=1, help='of a run; processes, if there are none'
    )
    parser.add_argument(
        '--report', type=float, default=600, metavar='SECONDS', help='between lines of progress'
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision, on GPUs')
    parser.add_argument(
        '--keep', action='store_true', help='keep checkpoints of finished runs; else removed'
    )
    parser.add_argument('--dry-run', action='store_true', help='only say what would be run')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='change the config, as in train.py'
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Reads the budgets, and raises ValueError if nothing can be compared so."""
    for package in ('matplotlib', 'scipy'):
        if find_spec(package) is None:
            raise ValueError(f"{package} draws the report; pip install 'bvit_mm[demo]'")
    for name in ('seeds', 'jobs', 'gpus'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name} {getattr(args, name)} must be at least 1')
    if not 0 <= args.first_seed <= 2**32 - args.seeds:
        raise ValueError(
            f'--first-seed {args.first_seed} must be at least 0, and its last seed below 2^32'
        )
    if args.gpus > len(visible_devices()) > 0:
        raise ValueError(f'--gpus {args.gpus}, but torch sees {len(visible_devices())}')
    if not args.report > 0:
        raise ValueError(f'--report {args.report} must be seconds, above 0')
    args.budgets = read_amounts(args.budgets)
    needed = args.jobs * args.gpus
    if is_time(args.budgets[0]) and args.jobs > 1 and needed > len(visible_devices()):
        raise ValueError(
            f'--jobs {args.jobs} with times: runs that share a machine slow each other down; leave '
            f'it out, or give each run GPUs of its own ({needed} are needed, torch sees '
            f'{len(visible_devices())})'
        )
    if args.amp and not torch.cuda.is_available():
        raise ValueError('--amp needs a GPU; leave it out')


def settings_of(args: argparse.Namespace) -> Settings:
    """What the command line asks for.

    Raises:
        ValueError: If the config cannot be compared, or a method is not known.
    """
    base = base_config(args.config, args.cfg_options, args.gpus, args.amp)
    known = {**METHODS, **ABLATIONS, **(read_methods(args.methods_of) if args.methods_of else {})}
    for method in args.methods:
        if method not in known:
            raise ValueError(f'--methods {method} is not known; give {", ".join(known)}')
    return Settings(
        base=base,
        known=known,
        methods=args.methods,
        budgets=args.budgets,
        seeds=range(args.first_seed, args.first_seed + args.seeds),
        out=args.out or Path('work_dirs') / 'compare' / Path(args.config).stem,
        train=TRAIN,
        cpus=usable_cpus(),
        jobs=args.jobs,
        gpus=args.gpus,
        report=args.report,
        keep=args.keep,
    )


def read_methods(file: Path) -> dict[str, Method]:
    """The methods of a file.

    Raises:
        ValueError: If the file has none, or is none.
    """
    if not file.is_file():
        raise ValueError(f'--methods-of {file} is no file')
    try:
        methods = runpy.run_path(str(file)).get('METHODS')
    except SyntaxError as error:
        raise ValueError(f'--methods-of {file} is no Python: {error}') from None
    if not isinstance(methods, dict):
        raise ValueError(f'--methods-of {file} must set METHODS, as bvit_mm.compare does')
    for name, method in methods.items():
        if not isinstance(method, dict) and not callable(method):
            raise ValueError(
                f'{name} in METHODS of {file} is {method!r}; give a dict of changes, or a '
                'function of the config and the budget that makes one'
            )
    return methods_of(methods)


def announce(todo: Sequence[Run], wanted: int, each: bool) -> None:
    """Prints which runs are left and what they cost, and warns about uneven costs.

    Args:
        todo: The runs that are left.
        wanted: How many were asked for.
        each: Whether to print a line for each run.
    """
    for line in uneven(todo):
        print(f'warning: {line}', file=sys.stderr)
    size, in_time = sum(run.size for run in todo), any(is_time(run.budget) for run in todo)
    text = duration(size) if in_time else f'{size:.4g} times the full cost'
    print(f'{len(todo)} of {wanted} runs are left{f", {text}" if todo else ""}', flush=True)
    for run in todo if each else ():
        plan = f'epochs {list(run.plan.epochs)}, {run.plan.cost:.4g}'
        print(f'{run.folder.name}: {"as many epochs as fit" if in_time else plan}')


def compare(settings: Settings, runs: Sequence[Run]) -> None:
    """Makes the runs that are left, and prints the table.

    Raises:
        SystemExit: If the folder cannot be used, a run failed, or a signal stopped the runs.
    """
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f'--out {settings.out} cannot be made: {error}') from None
    try:
        comparison = Comparison(settings, runs)
        comparison.run()
    except ComparisonError as error:
        raise SystemExit(str(error)) from None
    write_report(settings, comparison.done.values())
    print((settings.out / 'table.md').read_text())


def main() -> None:
    """Runs the tool."""
    parser = argument_parser()
    args = parser.parse_args()
    with refusing(parser.error):
        check(args)
        settings = settings_of(args)
        runs = plan_runs(settings)
        done = finished(settings, runs)
    announce([run for run in runs if run.key not in done], len(runs), each=args.dry_run)
    if not args.dry_run:
        compare(settings, runs)


if __name__ == '__main__':
    main()
