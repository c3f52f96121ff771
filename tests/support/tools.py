# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Command-line tools and scripts, each in a process of its own."""

import subprocess
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from . import fresh

ROOT = Path(__file__).parent.parent.parent
DEMO = ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'


DEIT_S = ROOT / 'configs' / 'deit' / 'deit-small_bvit-b50_4xb256_in1k.py'
STOCK = Path(find_spec('mmpretrain').origin).parent / '.mim' / 'tools'


def call(*command, cwd, fails=False):
    """Runs a command; its standard output, or its standard error if it should fail."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stderr if fails else done.stdout


def script(*command, cwd, fails=False):
    """As ``call``, of a Python script."""
    command = list(map(str, command))
    with TemporaryDirectory() as outputs:
        status, stdout, stderr = fresh.run(command, cwd, Path(outputs))
    assert (status != 0) == fails, stdout[-3000:] + stderr[-3000:]
    return stderr if fails else stdout


def tool(name, *args, **kwargs):
    """As ``call``, of a tool of ours."""
    return script(ROOT / 'tools' / f'{name}.py', *args, **kwargs)
