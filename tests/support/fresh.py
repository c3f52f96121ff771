# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Scripts in processes of their own that have the libraries already: importing them takes 6 s.

A server, started once, imports them and is forked for each script (``multiprocessing``). What
packages print while they are imported is not heard; tests of that start real commands.
"""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from .garbage import leave_garbage_alone

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['bvit_mm'])


def start(command: list[str], cwd: Path, outputs: Path) -> BaseProcess:
    """Starts a Python script.

    Args:
        command: The script and its arguments.
        cwd: The folder that it runs in.
        outputs: A folder, for what it prints in the files ``stdout`` and ``stderr``.
    """
    files = [outputs / name for name in ('stdout', 'stderr')]
    process = FORKS.Process(target=_be_script, args=(command, cwd, dict(os.environ), files))
    process.start()
    return process


def run(command: list[str], cwd: Path, outputs: Path) -> tuple[int, str, str]:
    """As ``start``, to its end; its exit status, standard output and error.

    Raises:
        TimeoutError: After five minutes.
    """
    process = start(command, cwd, outputs)
    process.join(timeout=300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(' '.join(command))
    return process.exitcode, *((outputs / name).read_text() for name in ('stdout', 'stderr'))


def _be_script(command: list[str], cwd: Path, environment: dict[str, str], files: list[Path]):
    leave_garbage_alone()
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    sys.argv[:] = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name='__main__')
