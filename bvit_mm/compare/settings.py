# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a comparison was asked for, and the config that its methods change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from ..config_types import builds
from .amounts import Amount
from .methods import Method


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for.

    Attributes:
        base: The config that methods change, as ``base_config`` makes it.
        known: All methods by name.
        methods: Names of those to compare, in the order of the table.
        budgets: Shares of the full cost, or times (``read_amounts``).
        seeds: Seeds of weights, data order and augmentation.
        out: A folder for runs, records, table and figure.
        train: The script that trains a config, ``tools/train.py``.
        cpus: How many CPUs all runs together may keep busy.
        jobs: How many runs train at a time.
        gpus: How many GPUs a run has; processes, if there are none.
        report: Seconds between lines of progress.
        keep: Whether checkpoints of finished runs are kept.
    """

    base: Config
    known: Mapping[str, Method]
    methods: Sequence[str]
    budgets: Sequence[Amount]
    seeds: Sequence[int]
    out: Path
    train: Path
    cpus: int
    jobs: int
    gpus: int
    report: float
    keep: bool


def base_config(
    file: str, options: Mapping[str, Any] | None = None, gpus: int = 1, amp: bool = False
) -> Config:
    """The config that methods change: the file's, with options as of ``--cfg-options``.

    Args:
        file: A config of a budgeted run.
        options: Changes of it.
        gpus: GPUs of a run.
        amp: Whether runs train with mixed precision.

    Raises:
        ValueError: If it does not validate, or does not log what validation found.
    """
    cfg = Config(Config.fromfile(file).to_dict())  # it is written down for the runs
    cfg.merge_from_dict(dict(options or {}))
    if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
        raise ValueError(f'{file} does not validate, so runs cannot be compared')
    if amp:
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
    cfg.compared_with_gpus = gpus  # so that going on with another number is refused
    return cfg
