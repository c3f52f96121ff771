# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Prints the plan of a config: what a budget buys, stage by stage. It trains nothing.

A budget in hours depends on the machine: a few iterations of each training stage are timed, with
the real data, optimizer and processes, and forgotten. Pass --amp and --launcher as to train.py.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import _threads  # noqa: F401  before torch
import numpy as np
from _processes import connect_cpu_processes
from _stock import stock_tool
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.runner import Runner

with contextlib.redirect_stdout(sys.stderr):  # some packages talk while they are imported
    from bvit_mm.compare import read_metric
    from bvit_mm.cost import plan_of_config
    from bvit_mm.hours import duration
    from bvit_mm.loop import BudgetedTrainLoop
    from bvit_mm.plan import Plan
    from bvit_mm.registry import LOOPS
    from bvit_mm.rehearsal import Measurement
    from bvit_mm.report import measurement_table, plan_table
    from bvit_mm.training_stages import TrainingStage

PANELS = 2  # active shares and cost; a third for accuracy with --run


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a training config')
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        '--budget',
        help="share of the full cost such as 0.5, a cost such as '691.2 GFLOPs', or a time "
        "such as '90min'",
    )
    length.add_argument('--hours', type=float, help='the budget in hours on this machine')
    length.add_argument('--epochs', help='state the schedule instead, for example 55,55,193')
    parser.add_argument('--alpha', type=float, help='above 0 later stages are longer')
    parser.add_argument('--seed', type=int, help='draws the plan')
    parser.add_argument('--amp', action='store_true', help='time with mixed precision')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='of jobs'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('--plot', metavar='FILE', type=Path, help='draw the plan into a picture')
    parser.add_argument(
        '--run', metavar='WORK_DIR', type=Path, help='with --plot: add the accuracy of a run'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='change the config, as in train.py'
    )
    args = parser.parse_args()
    if args.run and not args.plot:
        parser.error('--run is drawn into a picture; give --plot FILE too')
    if args.plot and args.plot.is_dir():
        parser.error(f'--plot {args.plot} is a folder; give a file in it, such as plan.png')
    if args.hours is not None:
        if not 0 < args.hours < np.inf:
            parser.error(f'--hours {args.hours} must be above 0 and finite; give 8, or 0.5')
        args.budget = f'{np.format_float_positional(args.hours * 3600, trim="-")}s'
    try:
        args.plan, args.stages, args.measured = _plan(args)
    except (KeyError, ImportError) as error:  # of a type or a module that is not there
        parser.error(f'{type(error).__name__}: {error}')
    except (ValueError, TypeError, FileNotFoundError, MemoryError, AssertionError) as error:
        parser.error(str(error))  # mmengine asserts that a device can mix precision
    return args


def _plan(
    args: argparse.Namespace,
) -> tuple[Plan, tuple[TrainingStage, ...], tuple[list[Measurement], int, float] | None]:
    """The plan and its stages; for hours also what was timed, an epoch's length, what that took."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    changes = {name: getattr(args, name) for name in ('alpha', 'seed')}
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.budget is not None:
        changes.update(budget=args.budget, epochs=None)
    if args.epochs is not None:
        try:
            epochs = [int(n) for n in args.epochs.split(',')]
        except ValueError:
            raise ValueError(
                f'--epochs {args.epochs} must be whole numbers, like 55,55,193'
            ) from None
        changes.update(epochs=epochs, budget=None)
    plan, backbone = plan_of_config(cfg, **changes)
    if plan.seconds is None:
        return plan, backbone.training_stages, None
    loop = _timed(args, changes)
    took = loop.ledger.other['rehearsal']
    return loop.plan, backbone.training_stages, (loop.measurements, len(loop.dataloader), took)


@LOOPS.register_module(force=True)  # a notebook may run the tool again
class RehearsalLoop(BudgetedTrainLoop):
    """Times the training stages, and trains nothing."""

    def run(self) -> None:
        self._charge('setup')
        self.measurements = self.rehearse()


def _timed(args: argparse.Namespace, changes: dict) -> RehearsalLoop:
    """The loop that ``tools/train.py`` would train with, after it has timed the stages."""
    cfg = Config.fromfile(args.config)
    if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
        stock = stock_tool('train')
        flags = ['--amp'] * args.amp + ['--launcher', args.launcher]
        with mock.patch.object(sys, 'argv', ['train.py', args.config, *flags]):
            train_args = stock.parse_args()
        train_args.cfg_options = args.cfg_options
        cfg = stock.merge_args(cfg, train_args)
    else:  # the tools of mmdet and mmseg leave data loaders as they are
        cfg.merge_from_dict(args.cfg_options or {})
        cfg.launcher = args.launcher
        if args.amp:
            cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    cfg.train_cfg.update(changes)
    cfg.train_cfg.type = 'bvit_mm.RehearsalLoop'
    cfg.load_from, cfg.resume = None, False
    connect_cpu_processes(cfg, args.launcher)
    # What mmengine logs is no answer, so it goes where errors go.
    with tempfile.TemporaryDirectory() as work_dir, contextlib.redirect_stdout(sys.stderr):
        cfg.work_dir = work_dir
        cfg.experiment_name = Path(work_dir).name  # no other's log is gone on with
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{error}; a budget in hours is timed with the training data: say where it is, '
                'with --cfg-options train_dataloader.dataset.data_root=..., or give another budget'
            ) from None
        return runner.train_loop


def _as_json(args: argparse.Namespace) -> dict:
    plan = args.plan.as_dict()
    if args.measured is not None:
        measurements, length, _ = args.measured
        for stage, m in zip(plan['stages'], measurements):
            stage.update(
                hours=stage['epochs'] * length * m.seconds / 3600,
                images_per_second=m.samples / m.seconds,
                peak_memory=m.memory,
                bound_by='data' if m.data_bound else 'compute',
            )
    return plan


def draw(plan: Plan, stages: tuple[TrainingStage, ...], file: Path, run: Path | None) -> None:
    """Draws the active share and the cost over epochs (Fig. 1b), and the accuracy of a run."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    panels = PANELS + (run is not None)
    figure, axes = plt.subplots(
        panels, 1, sharex=True, figsize=(7, 1 + 2 * panels), layout='constrained'
    )
    edges = [sum(plan.epochs[:k]) for k in range(len(plan.epochs) + 1)]
    whole = stages[-1]
    shares = dict(
        heads=[np.sum(s.heads) / np.sum(whole.heads) for s in stages],
        hidden=[np.sum(s.hidden) / np.sum(whole.hidden) for s in stages],
        tokens=[np.prod(s.grid) / np.prod(whole.grid) for s in stages],
        FLOPs=[g / plan.gflops[-1] for g in plan.gflops],
    )
    styles = dict(heads='-', hidden='--', tokens=':', FLOPs='-')
    for i, (name, share) in enumerate(shares.items()):
        width, color = (4, '0.75') if name == 'FLOPs' else (2, f'C{i}')
        axes[0].stairs(
            share,
            edges,
            baseline=None,
            label=name,
            ls=styles[name],
            lw=width,
            color=color,
            zorder=1 if name == 'FLOPs' else 2,
        )
    axes[0].set(ylabel='active share', ylim=(0, 1.05))
    axes[0].legend(ncol=4, loc='lower right')

    epochs = range(plan.total_epochs + 1)
    axes[1].plot(epochs, [plan.spent(n) for n in epochs], color='tab:blue', label='spent')
    if plan.budget is not None:
        axes[1].axhline(plan.budget, color='tab:red', ls='--', label='budget')
    axes[1].set(ylabel='GFLOPs x epochs', ylim=(0, None))
    axes[1].legend(loc='lower right', frameon=False)

    if run is not None:
        name, values = read_metric(run)
        axes[2].plot(list(values), list(values.values()), color='tab:green', marker='.')
        last = max(values)
        axes[2].annotate(
            f'{values[last]:.1f} after epoch {last}',
            (last, values[last]),
            (-6, -18),
            textcoords='offset points',
            ha='right',
        )
        axes[2].set(ylabel=name, ylim=(0, 100))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_xlim(0, plan.total_epochs)
        for edge in edges[1:-1]:
            axis.axvline(edge, color='0.4', lw=0.8, ls=(0, (2, 4)))
    axes[-1].set_xlabel('epoch')
    share = f'{plan.cost / plan.full_cost:.1%}'
    figure.suptitle(f'epochs {list(plan.epochs)}: {share} of the full training cost')
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Runs the tool."""
    args = parse_args()
    if not is_main_process():
        return
    if args.json:
        print(json.dumps(_as_json(args)))
    else:
        print(plan_table(args.plan, args.stages))
        if args.measured is not None:
            measurements, length, took = args.measured
            print(measurement_table(args.plan, measurements, length))
            share = took / args.plan.seconds
            print(f'timing the stages took {duration(took)}, {share:.2%} of the budget')
    if args.plot:
        try:
            draw(args.plan, args.stages, args.plot, args.run)
        except (
            OSError,
            ValueError,
        ) as error:  # a folder that cannot be, a format that is not known
            raise SystemExit(f'--plot {args.plot} cannot be drawn: {error}') from None
        if not args.json:
            print(f'drawn into {args.plot}')


if __name__ == '__main__':
    main()
