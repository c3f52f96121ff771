# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs from the start to the end that a test asks for."""

import gc
from pathlib import Path

import pytest

from .files import content, last_file
from .hooks import RecordHook, Stop
from .runs import build
from .variants import AT_THE_END, RECORD, SWITCH


def run(tmp_path, **changes):
    changes.setdefault('custom_hooks', [SWITCH, RECORD])
    runner = build(tmp_path, **changes)
    runner.train()
    record = next((h for h in runner.hooks if isinstance(h, RecordHook)), None)
    return runner, record


def log_of(runner):
    return '\n'.join(p.read_text() for p in sorted(Path(runner.work_dir).glob('*/*.log')))


def stop_and_resume(work_dir, at, changes):
    stopping = {**changes, 'custom_hooks': [*changes['custom_hooks'], dict(type='StopHook', at=at)]}
    with pytest.raises(Stop):
        build(work_dir, **stopping).train()
    gc.collect()  # its data workers, which would else be waited for later
    build(work_dir, **changes, resume=True).train()
    return last_file(work_dir)


def resume(work_dir, whole, at, changes):
    """Goes on from what a kill in iteration ``at`` leaves of a whole run; saves at the end only."""
    last = whole / f'iter_{at - 1}.pth'
    changes = {**changes, **AT_THE_END}
    build(work_dir, **changes, resume=True, load_from=str(last)).train()
    return last_file(work_dir)


def refused(work_dir, message, kind=ValueError, **changes):
    """A run is refused with a message, and leaves the folder as it was."""
    before = content(work_dir)
    runner = build(work_dir, **changes)
    with pytest.raises(kind, match=message):
        runner.train()
    assert content(work_dir) == before
