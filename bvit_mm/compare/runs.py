# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The runs of a comparison: how each is planned, how far it is, what it spent and reached."""

import copy
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config

from ..config_types import in_words
from ..cost import plan_of_config
from ..hours import duration
from ..ledger import LEDGER_FILE, Ledger
from ..plan import Plan
from ..reading.safe_files import UnsafeFileError
from ..running.last_checkpoint import last_whole_checkpoint
from ..running.old_records import ledger_of_today
from .amounts import Amount, is_time, size_of
from .methods import Method
from .records import Record, read_metric
from .settings import Settings

EQUAL = 0.01  # costs of one budget may differ by this share of it
EARLY = 0.1  # the share of a time that no run leaves but one that was stopped (docs/running.md)


class Run(NamedTuple):
    """A run to make.

    Attributes:
        folder: Its ``work_dir``.
        method: The name of its method.
        budget: The share of the full cost that it may spend, or the time.
        seed: The seed of weights, data order and augmentation.
        cfg: Its config.
        plan: Its plan; of a time, the epochs that the full cost pays, until the run has begun.
        full_cost: The cost of the config's own network for all epochs.
    """

    folder: Path
    method: str
    budget: Amount
    seed: int
    cfg: Config
    plan: Plan
    full_cost: float

    @property
    def config(self) -> Path:
        """Its file; mmengine writes a copy into the folder of the run, in a form of its own."""
        return self.folder.parent / 'configs' / f'{self.folder.name}.py'

    @property
    def share(self) -> float:
        """What it will cost, of the full cost of the config's own network."""
        return self.plan.cost / self.full_cost

    @property
    def size(self) -> float:
        """What it is to spend: a share of the full cost; seconds of a time."""
        return size_of(self.budget) if is_time(self.budget) else self.share

    @property
    def key(self) -> tuple[str, Amount, int]:
        """What tells it from other runs of a folder."""
        return self.method, self.budget, self.seed


def plan_runs(settings: Settings) -> list[Run]:
    """The runs that were asked for; all are planned before the first begins.

    Raises:
        ValueError: If a method has no plan for a budget, or asks for what is not there.
    """
    full_cost = plan_of_config(settings.base)[0].full_cost
    return [
        _planned(settings, method, budget, seed, full_cost)
        for seed in settings.seeds
        for budget in dict.fromkeys(settings.budgets)
        for method in dict.fromkeys(settings.methods)
    ]


def _planned(settings: Settings, method: str, budget: Amount, seed: int, full_cost: float) -> Run:
    name = budget if isinstance(budget, str) else f'{budget:g}'
    folder = settings.out / f'{method}-b{name}-s{seed}'
    if is_time(budget) and not settings.known[method].takes_time:
        raise ValueError(
            f'{method} at budget {budget}: it must know which share of the full cost it may spend, '
            'which a time does not tell; leave it out, or give --budgets as shares'
        )
    try:
        cfg = run_config(settings.base, settings.known[method], budget, full_cost, seed)
        plan, _ = plan_of_config(cfg)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{method} at budget {budget}: {error}') from None
    except (KeyError, ImportError) as error:  # of a type or a module that is not there
        raise ValueError(f'{method} at budget {budget}: {type(error).__name__}: {error}') from None
    if not is_time(budget) and cfg.train_cfg.get('val_begin', 1) > plan.total_epochs:
        raise ValueError(
            f'{method} at budget {budget}: val_begin={cfg.train_cfg.val_begin} of '
            f'train_cfg is after the last of {plan.total_epochs} epochs'
        )
    return Run(folder, method, budget, seed, cfg, plan, full_cost)


def run_config(base: Config, method: Method, budget: Amount, full_cost: float, seed: int) -> Config:
    """The config of a run.

    Args:
        base: The config that methods change.
        method: The method.
        budget: The share of the full cost that the run may spend, or the time.
        full_cost: The cost of the base's own network for all epochs.
        seed: The seed of weights, data order and augmentation.
    """
    cfg = copy.deepcopy(base)
    share = None if isinstance(budget, str) else budget
    # A method may change what the whole network costs.
    amount = budget if share is None else f'{share * full_cost!r} GFLOPs'
    cfg.merge_from_dict({'train_cfg.budget': amount, 'randomness.seed': seed})
    cfg.train_cfg.pop('epochs', None)
    cfg.merge_from_dict(method(cfg, share))
    return Config(in_words(cfg.to_dict()))


def uneven(runs: Iterable[Run]) -> list[str]:
    """Runs that cost another share than their budget, to tell of before they begin."""
    lines = []
    for run in runs:
        share = run.budget
        if not isinstance(share, str) and abs(run.share / share - 1) > EQUAL:
            lines.append(
                f'{run.folder.name} costs {run.share:.2%} of the full cost, not {share:.0%}: '
                f'epochs {list(run.plan.epochs)} are whole; raise full_epochs to come nearer'
            )
    return lines


def goes_on(run: Run) -> bool:
    """Whether a run has a whole checkpoint to go on from; if a kill left none, it begins anew."""
    try:
        return last_whole_checkpoint(run.folder) is not None
    except UnsafeFileError:
        return True  # train.py refuses it, and says why
    except ValueError:
        print(f'{run.folder.name} begins anew, for it has no whole checkpoint', flush=True)
        return False


def spent(run: Run) -> float:
    """The share of its budget that a run has spent, by its log."""
    logs = sorted(run.folder.glob('*/vis_data/scalars.json'))
    lines = logs[-1].read_text().split('\n')[:-1] if logs else []  # the last is being written
    return min(1.0, max((json.loads(line).get('spent', 0.0) for line in lines), default=0.0))


def last_error(run: Run) -> str:
    """Of what a run printed, the line that tells why it failed."""
    file = run.folder / 'output.txt'
    lines = file.read_text().splitlines()
    # torchrun says at length that a process failed, after the process has said why.
    errors = [
        line for line in lines if re.match(r'(\[rank\d+\]: )?[\w.]*(Error|Exception)\b', line)
    ]
    own = [line for line in errors if 'ChildFailedError' not in line] or lines or ['']
    return f'{own[-1]} (all that it printed: {file})'


def _unspent(run: Run, ledger: Ledger) -> str:
    """How far a run came that has left much of its budget; empty if it has not."""
    if is_time(run.budget):
        is_early = ledger.elapsed < (1 - EARLY) * run.size
        return f'{duration(ledger.elapsed)} of {run.budget}' if is_early else ''
    trained, planned = sum(ledger.epochs), run.plan.total_epochs
    return f'{trained:.4g} of the {planned} epochs of its plan' if trained < planned else ''


def record_of(run: Run) -> Record:
    """What a finished run spent and reached."""
    ledger = Ledger.from_dict(ledger_of_today(json.loads((run.folder / LEDGER_FILE).read_text())))
    if unspent := _unspent(run, ledger):
        raise ValueError(
            f'{run.folder} was stopped after {unspent}, so it has not spent its budget; leave out '
            'what stops it (EarlyStoppingHook), remove the folder, and it is run again'
        )
    metric, history = read_metric(run.folder)
    trained, planned, last = ledger.epochs, run.plan.total_epochs, max(history)
    if not is_time(run.budget) and last != planned:
        raise ValueError(
            f'{run.folder} has trained {planned} epochs, but its log ends with a '
            f'validation after {last}; remove it, and it is run again'
        )
    return Record(
        method=run.method,
        budget=run.budget,
        seed=run.seed,
        cost=ledger.cost / run.full_cost,
        seconds=dict(training=sum(ledger.seconds), **ledger.other),
        epochs=[round(n, 4) for n in trained] if is_time(run.budget) else list(run.plan.epochs),
        metric=metric,
        value=round(history[last], 4),  # what single precision has
        history=[[epoch, round(value, 4)] for epoch, value in sorted(history.items())],
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
    )
