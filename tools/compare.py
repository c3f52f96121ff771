# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Trains a config by several methods at the same costs, and compares what they reach.

    python tools/compare.py CONFIG --budgets 0.25 0.5 --methods bvit cosine --seeds 3 --out OUT

Each run is ``tools/train.py`` with a config of its own (``OUT/configs/``), in a folder of its own.
When it has ended, a line of ``OUT/runs.jsonl`` keeps what it spent and reached. Called again,
finished runs are kept and an interrupted one goes on. ``OUT/table.md`` and ``OUT/figure.png`` are
drawn after each run. Methods are those of tools/methods.py and tools/ablations.py; add yours in a
file.
"""

import argparse
import copy
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from _trainings import Comparison, Run, finished, visible_devices, write_report
from ablations import ABLATIONS
from methods import METHODS, Method
from mmengine.config import Config, DictAction
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from bvit_mm.config_types import builds, in_words
from bvit_mm.cost import plan_of_config

EQUAL = 0.01  # costs of one budget may differ by this share of it


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config of a budgeted run')
    parser.add_argument('--budgets', type=float, nargs='+', default=[0.25, 0.5, 0.75, 1.0])
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
    args = parser.parse_args()
    for package in ('matplotlib', 'scipy'):
        if find_spec(package) is None:
            parser.error(f"{package} draws the report; pip install 'bvit_mm[demo]'")
    for name in ('seeds', 'jobs', 'gpus'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)} must be at least 1')
    if args.gpus > len(visible_devices()) > 0:
        parser.error(f'--gpus {args.gpus}, but torch sees {len(visible_devices())}')
    if not args.report > 0:
        parser.error(f'--report {args.report} must be seconds, above 0')
    for budget in args.budgets:
        if not 0 < budget <= 1:
            parser.error(f'--budgets {budget} must be shares of the full cost, above 0, up to 1')
    if args.out is None:
        args.out = Path('work_dirs') / 'compare' / Path(args.config).stem
    try:
        args.base = base_of(args)
        args.runs = runs_of(args, known_methods(args.methods_of))
        args.done = finished(args)
    except (KeyError, ImportError) as error:  # of a type or a module that is not there
        parser.error(f'{type(error).__name__}: {error}')
    except (ValueError, TypeError, FileNotFoundError) as error:
        parser.error(str(error))
    return args


def known_methods(file: Path | None) -> dict[str, Method]:
    """The methods by name, those of a file included.

    Raises:
        ValueError: If the file has none, or is none.
    """
    methods = {**METHODS, **ABLATIONS}
    if file is not None:
        if not file.is_file():
            raise ValueError(f'--methods-of {file} is no file')
        try:
            more = runpy.run_path(str(file)).get('METHODS')
        except SyntaxError as error:
            raise ValueError(f'--methods-of {file} is no Python: {error}') from None
        if not isinstance(more, dict):
            raise ValueError(f'--methods-of {file} must set METHODS, as tools/methods.py does')
        for name, method in more.items():
            if not isinstance(method, dict) and not callable(method):
                raise ValueError(
                    f'{name} in METHODS of {file} is {method!r}; give a dict of changes, or a '
                    'function of the config and the budget that makes one'
                )
        methods.update(more)
    return methods


def runs_of(args: argparse.Namespace, methods: dict[str, Method]) -> list[Run]:
    """The runs that were asked for; all are planned before the first begins.

    Raises:
        ValueError: If there is no such method, or a method has no plan for a budget, or asks for
            what is not there.
    """
    full_cost = plan_of_config(args.base)[0].full_cost
    runs = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for budget in dict.fromkeys(args.budgets):
            for method in dict.fromkeys(args.methods):
                if method not in methods:
                    raise ValueError(f'--methods {method} is not known; give {", ".join(methods)}')
                folder = args.out / f'{method}-b{budget:g}-s{seed}'
                try:
                    cfg = config_of(args.base, methods[method], budget, full_cost, seed)
                    plan, _ = plan_of_config(cfg)
                except (ValueError, TypeError) as error:
                    raise ValueError(f'{method} at budget {budget}: {error}') from None
                except (KeyError, ImportError) as error:  # of a type or a module that is not there
                    raise ValueError(
                        f'{method} at budget {budget}: {type(error).__name__}: {error}'
                    ) from None
                if cfg.train_cfg.get('val_begin', 1) > plan.total_epochs:
                    raise ValueError(
                        f'{method} at budget {budget}: val_begin={cfg.train_cfg.val_begin} of '
                        f'train_cfg is after the last of {plan.total_epochs} epochs'
                    )
                runs.append(Run(folder, method, budget, seed, cfg, plan, full_cost))
    return runs


def base_of(args: argparse.Namespace) -> Config:
    """The config that methods change: the file's, with the options of the command line.

    Raises:
        ValueError: If it does not validate.
    """
    cfg = Config(Config.fromfile(args.config).to_dict())  # it is written down for the runs
    cfg.merge_from_dict(args.cfg_options or {})
    if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
        raise ValueError(f'{args.config} does not validate, so runs cannot be compared')
    if args.amp:
        if not torch.cuda.is_available():
            raise ValueError('--amp needs a GPU; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    hooks = cfg.setdefault('default_hooks', {})
    checkpoint = hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1)
    hooks['checkpoint'] = dict(checkpoint, max_keep_ckpts=2)
    for name in ('out_dir', 'filename_tmpl'):  # each run has a folder of its own
        hooks['checkpoint'].pop(name, None)
    logs = dict(type='LocalVisBackend')  # which mmengine takes if there is no visualizer
    backends = (cfg.get('visualizer') or dict(vis_backends=[logs])).get('vis_backends') or []
    if not any(builds(each, VISBACKENDS, LocalVisBackend) for each in backends):
        raise ValueError(
            "visualizer.vis_backends must have dict(type='LocalVisBackend'), whose log says what "
            'validation found'
        )
    cfg.compared_with_gpus = args.gpus  # so that going on with another number is refused
    return cfg


def config_of(base: Config, method: Method, budget: float, full_cost: float, seed: int) -> Config:
    """The config of a run."""
    cfg = copy.deepcopy(base)
    cost = f'{budget * full_cost!r} GFLOPs'  # a method may change what the whole network costs
    cfg.merge_from_dict({'train_cfg.budget': cost, 'randomness.seed': seed})
    cfg.train_cfg.pop('epochs', None)
    cfg.merge_from_dict(method(cfg, budget) if callable(method) else method)
    return Config(in_words(cfg.to_dict()))


def uneven(runs: list[Run]) -> list[str]:
    """Runs that cost another share than their budget, to tell of before they begin."""
    lines = []
    for run in runs:
        if abs(run.share / run.budget - 1) > EQUAL:
            lines.append(
                f'{run.folder.name} costs {run.share:.2%} of the full cost, not {run.budget:.0%}: '
                f'epochs {list(run.plan.epochs)} are whole; raise full_epochs to come nearer'
            )
    return lines


def main() -> None:
    """Runs the tool."""
    args = parse_args()
    todo = [run for run in args.runs if run.key not in args.done]
    for line in uneven(todo):
        print(f'warning: {line}', file=sys.stderr)
    cost = sum(run.plan.cost / run.full_cost for run in todo)
    print(
        f'{len(todo)} of {len(args.runs)} runs are left, {cost:.4g} times the full cost', flush=True
    )
    if args.dry_run:
        for run in todo:
            print(f'{run.folder.name}: epochs {list(run.plan.epochs)}, {run.plan.cost:.4g}')
        return
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f'--out {args.out} cannot be made: {error}') from None
    comparison = Comparison(args)
    comparison.run()
    write_report(args, comparison.done.values())
    print((args.out / 'table.md').read_text())


if __name__ == '__main__':
    main()
