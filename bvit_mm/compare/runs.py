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
from ..ledger import LEDGER_FILE, Ledger
from ..plan import Plan
from ..reading.safe_files import UnsafeFileError
from ..running.last_checkpoint import last_whole_checkpoint
from ..running.old_records import ledger_of_today
from .methods import Method
from .records import Record, read_metric
from .settings import Settings

EQUAL = 0.01  # costs of one budget may differ by this share of it


class Run(NamedTuple):
    """A run to make.

    Attributes:
        folder: Its ``work_dir``.
        method: The name of its method.
        budget: The share of the full cost that it may spend.
        seed: The seed of weights, data order and augmentation.
        cfg: Its config.
        plan: Its plan.
        full_cost: The cost of the config's own network for all epochs.
    """

    folder: Path
    method: str
    budget: float
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
    def key(self) -> tuple[str, float, int]:
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


def _planned(settings: Settings, method: str, budget: float, seed: int, full_cost: float) -> Run:
    folder = settings.out / f'{method}-b{budget:g}-s{seed}'
    try:
        cfg = run_config(settings.base, settings.known[method], budget, full_cost, seed)
        plan, _ = plan_of_config(cfg)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{method} at budget {budget}: {error}') from None
    except (KeyError, ImportError) as error:  # of a type or a module that is not there
        raise ValueError(f'{method} at budget {budget}: {type(error).__name__}: {error}') from None
    if cfg.train_cfg.get('val_begin', 1) > plan.total_epochs:
        raise ValueError(
            f'{method} at budget {budget}: val_begin={cfg.train_cfg.val_begin} of '
            f'train_cfg is after the last of {plan.total_epochs} epochs'
        )
    return Run(folder, method, budget, seed, cfg, plan, full_cost)


def run_config(base: Config, method: Method, budget: float, full_cost: float, seed: int) -> Config:
    """The config of a run.

    Args:
        base: The config that methods change.
        method: The method.
        budget: The share of the full cost that the run may spend.
        full_cost: The cost of the base's own network for all epochs.
        seed: The seed of weights, data order and augmentation.
    """
    cfg = copy.deepcopy(base)
    cost = f'{budget * full_cost!r} GFLOPs'  # a method may change what the whole network costs
    cfg.merge_from_dict({'train_cfg.budget': cost, 'randomness.seed': seed})
    cfg.train_cfg.pop('epochs', None)
    cfg.merge_from_dict(method(cfg, budget))
    return Config(in_words(cfg.to_dict()))


def uneven(runs: Iterable[Run]) -> list[str]:
    """Runs that cost another share than their budget, to tell of before they begin."""
    lines = []
    for run in runs:
        if abs(run.share / run.budget - 1) > EQUAL:
            lines.append(
                f'{run.folder.name} costs {run.share:.2%} of the full cost, not {run.budget:.0%}: '
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


def record_of(run: Run) -> Record:
    """What a finished run spent and reached."""
    ledger = Ledger.from_dict(ledger_of_today(json.loads((run.folder / LEDGER_FILE).read_text())))
    trained, planned = sum(ledger.epochs), run.plan.total_epochs
    if trained < planned:
        raise ValueError(
            f'{run.folder} was stopped after {trained:.4g} of the {planned} epochs of its plan, so '
            'it has not spent its budget; leave out what stops it (EarlyStoppingHook), remove the '
            'folder, and it is run again'
        )
    metric, history = read_metric(run.folder)
    if max(history) != planned:
        raise ValueError(
            f'{run.folder} has trained {planned} epochs, but its log ends with a '
            f'validation after {max(history)}; remove it, and it is run again'
        )
    return Record(
        method=run.method,
        budget=run.budget,
        seed=run.seed,
        cost=ledger.cost / run.full_cost,
        seconds=dict(training=sum(ledger.seconds), **ledger.other),
        epochs=list(run.plan.epochs),
        metric=metric,
        value=round(history[max(history)], 4),  # what single precision has
        history=[[epoch, round(value, 4)] for epoch, value in sorted(history.items())],
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
    )
