# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 8: stopped and resumed = never stopped, bit for bit, in one process and through NCCL."""

import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.runner import Runner
from torch import distributed

from benchmarks.step_time import in_view
from tests.support import cases, runs
from tests.support.files import differences, forget_times, last_file
from tests.support.variants import EMA, EVERY_ITERATION, SWITCH

from .sizes import VIEWS, Size

ONE_PROCESS = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')


def resuming(device: str, size: Size, deterministic: bool) -> Iterator[dict[str, Any]]:
    """A row for each small network, view and stop: where the resumed run differs.

    Without deterministic algorithms a row only says what was found; nobody promises the same
    bits twice there.
    """
    if deterministic:
        _ask_for_determinism()
    for family in size.trained:
        for view in VIEWS:
            changes = {**_changes(family, view), 'randomness.deterministic': deterministic}
            for row in _stops(changes, size.stops):
                found = dict(family=family, view=view, **row)
                if not deterministic:
                    found['same'] = found.pop('ok')
                yield found


def one_process_of_nccl(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A row for each stop of a run with a launcher and one process."""
    _ask_for_determinism()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        os.environ.update(ONE_PROCESS, MASTER_PORT=str(free.getsockname()[1]))
    changes = {
        **_changes(size.trained[0], 'crop'),
        'randomness.deterministic': True,
        'launcher': 'pytorch',
        'env_cfg.dist_cfg': dict(backend='nccl'),
    }
    if device == 'cpu':  # mmengine would look for a GPU
        distributed.init_process_group('gloo')
        changes['model_wrapper_cfg'] = dict(type='MMDistributedDataParallel', device_ids=None)
    for row in _stops(changes, size.stops):
        yield dict(backend=distributed.get_backend(), **row)
    distributed.destroy_process_group()


def _changes(family: str, view: str) -> dict[str, Any]:
    """Of the config of a small run: the family in a view, with an average of the weights."""
    case = cases.FAMILIES[family]
    return {
        **case.run_changes(),
        'model.backbone.training_stages': in_view(case.build(), view),
        'custom_hooks': [SWITCH, EMA],
        **EVERY_ITERATION,
    }


def _stops(changes: dict[str, Any], stops: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Trains once without a stop, and goes on from what a kill after some iterations leaves."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            runner = _train(folder / 'whole', changes)
        except RuntimeError as error:  # of an operation that has no deterministic way
            yield dict(after=None, ok=False, error=str(error)[:300])
            return
        wrapper = type(runner.model).__name__
        for after in stops:
            file = folder / 'whole' / f'iter_{after}.pth'
            _train(folder / str(after), {**changes, 'resume': True, 'load_from': str(file)})
            found = [last_file(folder / each) for each in ('whole', str(after))]
            for each in found:
                forget_times(each)
            different = differences(*found)
            yield dict(
                after=after,
                ok=not different,
                model=wrapper,
                differences=len(different),
                first_differences=different[:3],
            )


def _train(work_dir: Path, changes: dict[str, Any]) -> Runner:
    runner = runs.build(work_dir, **changes)
    runner.train()
    return runner


def _ask_for_determinism() -> None:
    """Before anything is multiplied: cuBLAS reads it once."""
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


resuming_deterministic = partial(resuming, deterministic=True)
resuming_as_ever = partial(resuming, deterministic=False)
