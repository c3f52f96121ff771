# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Compiles mmcv's operators, which detectors need, into a wheel, and says how far it is.

    python tools/compile_ops.py FOLDER -c constraints.txt

The environment has torch, ninja, psutil, wheel and setuptools. As many compilers run at a time as
there are CPUs for this process, each with up to 2.5 GB of memory; MAX_JOBS sets another number.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from _cpus import usable_cpus

PIP_WHEEL = ['-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir']


def progress(
    lines: Iterable[str], every: float, now: Callable[[], float] = time.monotonic
) -> Iterator[str]:
    """How far ninja is, by the lines '[12/78] c++ ...' of what it prints.

    Args:
        lines: Of its output, as they come.
        every: Seconds between two reports at least; the last step is always reported.
        now: A clock.
    """
    begin = reported = now()
    for line in lines:
        if step := re.match(r' *\[(\d+)/(\d+)\] ', line):
            done, total, moment = *map(int, step.groups()), now()
            if done == total or moment - reported >= every:
                reported = moment
                yield f'{done} of {total} steps after {(moment - begin) / 60:.0f} min'


def compile_with(command: list[str], log: Path, every: float = 30) -> None:
    """Runs a command that compiles, and reports how far it is; all that it prints is in ``log``.

    Raises:
        SystemExit: If it fails; with the end of what it printed.
    """
    with (
        log.open('w', buffering=1) as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
        ) as process,
    ):

        def kept() -> Iterator[str]:
            for line in process.stdout:
                file.write(line)
                yield line

        for report in progress(kept(), every):
            print(report, flush=True)
    if process.returncode:
        end = ''.join(log.read_text().splitlines(keepends=True)[-30:])
        raise SystemExit(f'{end}\ncompiling failed; all that was printed is in {log}')


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='gets the wheel, and beside it FOLDER.log')
    parser.add_argument('-c', dest='constraints', required=True, help='versions, as pip reads them')
    args = parser.parse_args()
    jobs = os.environ.setdefault('MAX_JOBS', str(usable_cpus()))
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    print(
        f'compiling the operators of mmcv, {jobs} files at a time (MAX_JOBS): 11 to 30 minutes '
        'on two cores, longer beside other work',
        flush=True,
    )
    command = [sys.executable, *PIP_WHEEL, '-c', args.constraints, '-w', str(args.folder)]
    command.append('onedl-mmcv')
    compile_with(command, args.folder.with_name(f'{args.folder.name}.log'))


if __name__ == '__main__':
    main()
