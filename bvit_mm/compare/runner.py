# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Makes the runs of a comparison, some at a time, and records what each spent and reached."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import torch

from ..files import write_whole
from ..hours import duration
from ..reading.saved_config import read_config
from .amounts import Amount, is_time
from .records import Record, read_records
from .runs import Run, goes_on, last_error, record_of, spent
from .settings import Settings
from .tables import markdown_tables


class ComparisonError(RuntimeError):
    """A comparison cannot begin, was stopped, or has runs that failed."""


def visible_devices() -> list[str]:
    """The GPUs that runs may have, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return named.split(',')[:count] if named else [str(i) for i in range(count)]


def group(devices: list[str], size: int, slot: int) -> list[str]:
    """The devices of a slot, when they are dealt out in groups of a size, in turn."""
    first = slot % (len(devices) // size) * size
    return devices[first : first + size]


def finished(settings: Settings, runs: Iterable[Run]) -> dict[tuple[str, Amount, int], Record]:
    """Records of runs that have ended.

    Args:
        settings: What was asked for.
        runs: The runs that were asked for.

    Raises:
        ValueError: If the folder has runs of another config, or of times where these are of
            shares of the cost, or the other way round.
    """
    out = settings.out
    runs = list(runs)
    records = {(r.method, r.budget, r.seed): r for r in read_records(out / 'runs.jsonl')}
    budgets = [each.budget for each in records.values()] + [run.budget for run in runs]
    if len(set(map(is_time, budgets))) > 1:
        raise ValueError(
            f'{out} has runs of the other kind of --budgets, which are shares of the full cost, or '
            f'times; give another --out, or remove {out}'
        )
    written = {out / 'config.py': settings.base, **{run.config: run.cfg for run in runs}}
    for file, cfg in written.items():
        if file.is_file() and read_config(file.read_text(), file).to_dict() != cfg.to_dict():
            raise ValueError(
                f'{file} is another config, or another --gpus; give another --out, or remove {out}'
            )
    return records


def command_of(settings: Settings, run: Run) -> list[str]:
    """The command that trains a run, or goes on with it."""
    command = [settings.train, run.config, '--work-dir', run.folder]
    if settings.gpus > 1:  # standalone: at a port that is free
        several = ['torch.distributed.run', '--standalone', '--nproc-per-node', settings.gpus]
        command = ['-m', *several, *command, '--launcher', 'pytorch']
    if goes_on(run):  # else load_from of the config counts
        command.append('--resume')
    return [sys.executable, *map(str, command)]


def environment_of(settings: Settings, slot: int) -> dict[str, str]:
    """The environment of a run: its part of the CPUs, and the GPUs of its slot."""
    environment = dict(os.environ)
    at_once = settings.jobs * settings.gpus
    environment.setdefault('OMP_NUM_THREADS', str(max(1, settings.cpus // at_once)))
    # How long torchrun lets processes save after a signal; it would be half a minute.
    environment.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '600')
    if devices := visible_devices():
        environment['CUDA_VISIBLE_DEVICES'] = ','.join(group(devices, settings.gpus, slot))
    return environment


class Comparison:
    """Runs trainings, some at a time, and records those that end.

    Args:
        settings: What was asked for; its folder is there.
        runs: The runs that were asked for.

    Raises:
        ComparisonError: If another one works in the same folder, or has left behind a run that
            does.
    """

    def __init__(self, settings: Settings, runs: Sequence[Run]) -> None:
        self.settings, self.runs = settings, runs
        # The runs hold it too, as long as they live; of several processes, what started them.
        self.lock = (settings.out / 'lock').open('w')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ComparisonError(
                f'{settings.out} is in use by another compare.py, or by a run that a killed one '
                'has left behind; let it end, or give another --out'
            ) from None
        self.done = finished(settings, runs)  # again, now that nobody else adds to them
        self.left = [run for run in runs if run.key not in self.done]
        # With its slot, when it began, and what it had spent then.
        self.running: dict[subprocess.Popen, tuple[Run, int, float, float]] = {}
        self.reported = time.monotonic()
        self.failed: list[str] = []
        self.stopped_by = 0
        # Seconds for a cost of 1, or for a second of a time.
        self.pace = [record.took / record.size for record in self.done.values()]

    def run(self) -> None:
        """Makes all runs that are left; a signal lets those that train save and end.

        Raises:
            ComparisonError: After a signal, or if a run failed; the others are made all the same.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        write_whole(self.settings.out / 'config.py', self.settings.base.dump())
        slots = list(range(self.settings.jobs))
        try:
            while (self.left or self.running) and not self.stopped_by:
                while self.left and slots:
                    run, slot = self.left.pop(0), slots.pop(0)
                    before = spent(run)
                    self.running[self._start(run, slot)] = run, slot, time.monotonic(), before
                time.sleep(0.2)
                for process in [p for p in self.running if p.poll() is not None]:
                    run, slot, *_ = self.running.pop(process)
                    slots.append(slot)
                    self._end(run, process.returncode)
                if time.monotonic() > self.reported + self.settings.report:
                    self._report()
        finally:
            self._end_all()
        if self.stopped_by:
            raise ComparisonError(f'stopped by signal {self.stopped_by}; the same command goes on')
        if self.failed:
            raise ComparisonError('\n'.join(['these runs failed:', *self.failed]))

    def _start(self, run: Run, slot: int) -> subprocess.Popen:
        run.config.parent.mkdir(parents=True, exist_ok=True)
        run.folder.mkdir(exist_ok=True)
        write_whole(run.config, run.cfg.dump())
        with (run.folder / 'output.txt').open('a') as out:
            return subprocess.Popen(
                command_of(self.settings, run),
                stdout=out,
                stderr=out,
                env=environment_of(self.settings, slot),
                pass_fds=[self.lock.fileno()],
                start_new_session=True,
            )

    def _end(self, run: Run, code: int) -> None:
        try:
            if code:
                raise ValueError(f'{run.folder} ended with {code}: {last_error(run)}')
            record = record_of(run)
        except (ValueError, OSError) as error:
            self.failed.append(str(error))
            print(self.failed[-1], flush=True)
            return
        self.done[run.key] = record
        lines = [json.dumps(each._asdict()) + '\n' for each in self.done.values()]
        write_whole(self.settings.out / 'runs.jsonl', ''.join(lines))
        if not self.settings.keep:
            for file in (*run.folder.glob('*.pth'), run.folder / 'last_checkpoint'):
                file.unlink(missing_ok=True)
        write_report(self.settings, self.done.values())
        self.pace.append(record.took / record.size)
        wanted = [self.done[run.key] for run in self.runs if run.key in self.done]
        print(
            f'[{len(wanted)}/{len(self.runs)}] {run.folder.name}: {record.metric} '
            f'{record.value:.2f}, {record.cost:.1%} of the full cost, {duration(record.took)}'
            + self._time_left(),
            flush=True,
        )
        self.reported = time.monotonic()

    def _report(self) -> None:
        """Tells how far those are that train."""
        running = [f'{run.folder.name} {spent(run):.0%}' for run, *_ in self.running.values()]
        print(f'training: {", ".join(running)}{self._time_left()}', flush=True)
        self.reported = time.monotonic()

    def _time_left(self) -> str:
        """How long the other runs will take, as those did that ended, or else as these do."""
        now, left, pace = time.monotonic(), 0.0, []
        for run, _, began, before in self.running.values():
            share = spent(run)
            left += run.size * (1 - share)
            if share > before:
                pace.append((now - began) / (run.size * (share - before)))
        pace = self.pace or pace
        size = left + sum(run.size for run in self.left)
        if not pace or not size:
            return ''
        at_once = min(self.settings.jobs, len(self.left) + len(self.running))
        return f'; about {duration(size * sum(pace) / len(pace) / at_once)} left'

    def _stop(self, number: int, frame: object) -> None:
        self.stopped_by = number

    def _end_all(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            process.wait()


def write_report(settings: Settings, records: Iterable[Record]) -> None:
    """Writes the table and the figure of what has been run, methods in the order asked for.

    Args:
        settings: What was asked for.
        records: All finished runs of the folder.
    """
    from .figure import draw  # only here is matplotlib needed

    records = list(records)
    order = list(dict.fromkeys([*settings.methods, *(record.method for record in records)]))
    records.sort(key=lambda record: order.index(record.method))
    write_whole(settings.out / 'table.md', markdown_tables(records))
    draw(records, settings.out / 'figure.png', settings.known)
