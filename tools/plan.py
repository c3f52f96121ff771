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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import _threads  # noqa: F401  before torch
import numpy as np
from _processes import connect_cpu_processes
from _refusals import refusing
from _stock import train_config
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.runner import Runner

with contextlib.redirect_stdout(sys.stderr):  # some packages talk while they are imported
    from bvit_mm.budget import LENGTHS, Budget, record_of
    from bvit_mm.compare import read_metric
    from bvit_mm.cost import budget_of_config
    from bvit_mm.hours import Measurement, duration
    from bvit_mm.loop import BudgetedTrainLoop
    from bvit_mm.plan import Plan
    from bvit_mm.report import measurement_table, plan_table, waiting_line
    from bvit_mm.running.loading import loading_of
    from bvit_mm.training_stages import AXES, TrainingStage
    from bvit_mm.waiting import Loading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 2  # active shares and cost; a third for accuracy with --run
LINES = ('-', '--', ':', '-.')


class Planned(NamedTuple):
    """What the flags ask for: a budget, its plan, and what is active in each training stage."""

    budget: Budget
    plan: Plan
    stages: tuple[TrainingStage, ...]


class Timed(NamedTuple):
    """What timing the stages found.

    Attributes:
        measurements: Of each training stage.
        iterations: The length of an epoch.
        took: Seconds that the timing took.
        loading: How the data came.
    """

    measurements: Sequence[Measurement]
    iterations: int
    took: float
    loading: Loading


def argument_parser() -> argparse.ArgumentParser:
    """The flags of the tool."""
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
    parser.add_argument(
        '--shares', help='of the budget, of each training stage, for example .2,.4,.4'
    )
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
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises ValueError if flags do not go together, or a value is no time or no file."""
    if args.run and not args.plot:
        raise ValueError('--run is drawn into a picture; give --plot FILE too')
    if args.run and not args.run.is_dir():
        raise ValueError(f'--run {args.run} is no folder; give that of a run')
    if args.plot and args.plot.is_dir():
        raise ValueError(f'--plot {args.plot} is a folder; give a file in it, such as plan.png')
    if args.hours is not None and not 0 < args.hours < np.inf:
        raise ValueError(f'--hours {args.hours} must be above 0 and finite; give 8, or 0.5')


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of ``train_cfg``.

    Raises:
        ValueError: If epochs are no whole numbers, or shares no numbers.
    """
    changes = {name: getattr(args, name) for name in ('alpha', 'seed')}
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.shares is not None:
        try:
            shares = [float(share) for share in args.shares.split(',')]
        except ValueError:
            raise ValueError(f'--shares {args.shares} must be numbers, like .2,.4,.4') from None
        changes = {**dict.fromkeys(LENGTHS), **changes, 'shares': shares}
    elif changes or args.epochs is not None:  # instead of the config's shares
        changes.update(shares=None)
    if args.budget is not None:
        changes.update(budget=args.budget, epochs=None)
    if args.hours is not None:
        seconds = np.format_float_positional(args.hours * 3600, trim='-')
        changes.update(budget=f'{seconds}s', epochs=None)
    if args.epochs is not None:
        try:
            epochs = [int(n) for n in args.epochs.split(',')]
        except ValueError:
            raise ValueError(
                f'--epochs {args.epochs} must be whole numbers, like 55,55,193'
            ) from None
        changes.update(epochs=epochs, budget=None)
    return changes


def planned(args: argparse.Namespace) -> tuple[Planned, Timed | None]:
    """What the flags ask for; for a budget in hours also what was timed."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    changes = changes_of(args)
    budget, plan, backbone = budget_of_config(cfg, **changes)
    if not budget.needs_pace:
        return Planned(budget, plan, backbone.training_stages), None
    loop, measurements = rehearsed(_config_to_time(args, changes), args.launcher)
    length, took = len(loop.dataloader), loop.ledger.other['rehearsal']
    timed = Timed(measurements, length, took, loading_of(loop.dataloader))
    return Planned(loop.budget, loop.plan, backbone.training_stages), timed


def _config_to_time(args: argparse.Namespace, changes: dict[str, Any]) -> Config:
    """The config that ``tools/train.py`` would train with."""
    cfg = Config.fromfile(args.config)
    if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
        cfg = train_config(args.config, ['--amp'] * args.amp + ['--launcher', args.launcher])
        cfg.merge_from_dict(args.cfg_options or {})  # last, as there
    else:  # the tools of mmdet and mmseg leave data loaders as they are
        cfg.merge_from_dict(args.cfg_options or {})
        cfg.launcher = args.launcher
        if args.amp:
            cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    cfg.train_cfg.update(changes)
    cfg.load_from, cfg.resume = None, False
    return cfg


def rehearsed(cfg: Config, launcher: str) -> tuple[BudgetedTrainLoop, list[Measurement]]:
    """The train loop of a config, after it has timed the stages and trained nothing.

    Raises:
        FileNotFoundError: If the training data is not there.
    """
    connect_cpu_processes(cfg, launcher)
    # What mmengine logs is no answer, so it goes where errors go.
    with tempfile.TemporaryDirectory() as work_dir, contextlib.redirect_stdout(sys.stderr):
        cfg.work_dir = work_dir
        cfg.experiment_name = Path(work_dir).name  # no other's log is gone on with
        runner = Runner.from_cfg(cfg)
        measurements: list[Measurement] = []
        try:
            loop = runner.train_loop
            loop.run = lambda: measurements.extend(loop.rehearse())
            runner.train()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{error}; a budget in hours is timed with the training data: say where it is, '
                'with --cfg-options train_dataloader.dataset.data_root=..., or give another budget'
            ) from None
        return loop, measurements


def as_json(asked: Planned, timed: Timed | None) -> dict[str, Any]:
    """The plan and its budget, and what was timed, as JSON has them."""
    found = record_of(asked.plan, asked.budget)
    for stage, m in zip(found['stages'], timed.measurements) if timed else ():
        stage.update(
            hours=stage['epochs'] * timed.iterations * m.seconds / 3600,
            images_per_second=m.samples / m.seconds,
            peak_memory=m.memory,
            bound_by='data' if m.data_bound else 'compute',
        )
    return found


def as_text(asked: Planned, timed: Timed | None) -> str:
    """The tables of the plan and of what was timed."""
    lines = [plan_table(asked.plan, asked.stages)]
    if timed is not None:
        table = measurement_table(asked.plan, asked.budget, timed.measurements, timed.iterations)
        share = timed.took / asked.budget.amount
        took = f'timing the stages took {duration(timed.took)}, {share:.2%} of the budget'
        waits = waiting_line(asked.plan, timed.measurements, timed.iterations, timed.loading)
        lines += [table, waits, took]
    return '\n'.join(lines)


def draw(plan: Plan, stages: Sequence[TrainingStage], file: Path, run: Path | None) -> None:
    """Draws the active shares and the cost over epochs (Fig. 1b), and the accuracy of a run.

    Args:
        plan: The plan.
        stages: Its training stages.
        file: The picture.
        run: The ``work_dir`` of a run, if its accuracy is drawn too.
    """
    from matplotlib.figure import Figure  # only drawing needs it

    panels = PANELS + (run is not None)
    figure = Figure(figsize=(7, 1 + 2 * panels), layout='constrained')
    axes = figure.subplots(panels, 1, sharex=True)
    edges = [sum(plan.epochs[:k]) for k in range(len(plan.epochs) + 1)]
    draw_shares(axes[0], plan, stages, edges)
    draw_cost(axes[1], plan)
    if run is not None:
        draw_accuracy(axes[2], run)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_xlim(0, plan.total_epochs)
        for edge in edges[1:-1]:
            axis.axvline(edge, color='0.4', lw=0.8, ls=(0, (2, 4)))
    axes[-1].set_xlabel('epoch')
    share = f'{plan.cost / plan.full_cost:.1%}'
    title = f'epochs {list(plan.epochs)}: {share} of the full training cost'
    figure.suptitle(title, wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def active_shares(stages: Sequence[TrainingStage]) -> dict[str, list[float]]:
    """By what a stage sets: how much of the whole network's it has, in each stage."""
    grown = [stage for stage in stages if 'widths' not in stage.keys] or stages
    sizes = {
        axis.label: [np.sum(axis.cell(getattr(stage, key))) for stage in grown]
        for key, axis in ((key, AXES[key]) for key in grown[-1].keys)
        if axis.grows
    }
    shares = {label: [size / each[-1] for size in each] for label, each in sizes.items()}
    for stage in stages[len(grown) :]:  # slimmed: no module has what another has
        cut = [AXES['heads' if axis == 'dims' else axis].label for axis, _ in stage.widths]
        for label, each in shares.items():
            each.append(np.nan if label in cut else 1.0)
    return shares


def draw_shares(
    axis: 'Axes', plan: Plan, stages: Sequence[TrainingStage], edges: Sequence[int]
) -> None:
    """Draws what is active in each stage, and its FLOPs behind."""
    for i, (name, shares) in enumerate(active_shares(stages).items()):
        ls = LINES[i % len(LINES)]
        axis.stairs(shares, edges, baseline=None, label=name, ls=ls, lw=2, color=f'C{i}', zorder=2)
    flops = [g / max(plan.gflops) for g in plan.gflops]
    axis.stairs(flops, edges, baseline=None, label='FLOPs', lw=4, color='0.75', zorder=1)
    axis.set(ylabel='active share', ylim=(0, 1.05))
    # Above, where no line is: with many stages they are everywhere.
    axis.legend(ncol=5, loc='lower left', bbox_to_anchor=(0, 1), frameon=False)


def draw_cost(axis: 'Axes', plan: Plan) -> None:
    """Draws what is spent after each epoch, and the budget."""
    epochs = range(plan.total_epochs + 1)
    axis.plot(epochs, [plan.spent(n) for n in epochs], color='tab:blue', label='spent')
    if plan.budget is not None:
        axis.axhline(plan.budget, color='tab:red', ls='--', label='budget')
    axis.set(ylabel='GFLOPs x epochs', ylim=(0, None))
    axis.legend(loc='lower right', frameon=False)


def draw_accuracy(axis: 'Axes', run: Path) -> None:
    """Draws what validation found in a run."""
    name, values = read_metric(run)
    axis.plot(list(values), list(values.values()), color='tab:green', marker='.')
    last = max(values)
    axis.annotate(
        f'{values[last]:.1f} after epoch {last}',
        (last, values[last]),
        (-6, -18),
        textcoords='offset points',
        ha='right',
    )
    axis.set(ylabel=name, ylim=(0, 100))


def main() -> None:
    """Runs the tool."""
    parser = argument_parser()
    args = parser.parse_args()
    with refusing(parser.error):
        check(args)
        asked, timed = planned(args)
    if not is_main_process():
        return
    print(json.dumps(as_json(asked, timed)) if args.json else as_text(asked, timed))
    if args.plot:
        try:
            draw(asked.plan, asked.stages, args.plot, args.run)
        except (OSError, ValueError) as error:  # no such folder, an unknown format
            raise SystemExit(f'--plot {args.plot} cannot be drawn: {error}') from None
        if not args.json:
            print(f'drawn into {args.plot}')


if __name__ == '__main__':
    main()
