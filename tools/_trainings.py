# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Makes the runs of a comparison, some at a time, and records what each spent and reached."""

import argparse
import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from _comparison import draw, tables
from _cpus import usable_cpus
from _runs import Record, read_metric, read_records
from mmengine.config import Config

from bvit_mm.hours import duration
from bvit_mm.ledger import Ledger
from bvit_mm.plan import Plan
from bvit_mm.resumable import last_whole_checkpoint
from bvit_mm.safe_files import UnsafeFileError
from bvit_mm.saved_config import read_config

TRAIN = Path(__file__).with_name('train.py')


class Run(NamedTuple):
    """A run to make: where, of what, with which config and plan, beside which full cost."""

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
        return self.method, self.budget, self.seed


def visible_devices() -> list[str]:
    """The GPUs that runs may have, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return named.split(',')[:count] if named else [str(i) for i in range(count)]


def group(devices: list[str], size: int, slot: int) -> list[str]:
    """The devices of a slot, when they are dealt out in groups of a size, in turn."""
    first = slot % (len(devices) // size) * size
    return devices[first : first + size]


def finished(args: argparse.Namespace) -> dict[tuple[str, float, int], Record]:
    """Records of runs that have ended.

    Raises:
        ValueError: If the folder has runs of another config.
    """
    records = {(r.method, r.budget, r.seed): r for r in read_records(args.out / 'runs.jsonl')}
    written = {args.out / 'config.py': args.base, **{run.config: run.cfg for run in args.runs}}
    for file, cfg in written.items():
        if file.is_file() and read_config(file.read_text(), file).to_dict() != cfg.to_dict():
            raise ValueError(
                f'{file} is another config, or another --gpus; give another --out, or remove '
                f'{args.out}'
            )
    return records


class Comparison:
    """Runs trainings, some at a time, and records those that end.

    Args:
        args: As of ``parse_args``.

    Raises:
        SystemExit: If another one works in the same folder, or has left behind a run that does.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        # The runs hold it too, as long as they live; of several processes, what started them.
        self.lock = (args.out / 'lock').open('w')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f'{args.out} is in use by another compare.py, or by a run that a killed one has '
                'left behind; let it end, or give another --out'
            ) from None
        self.done = finished(args)  # again, now that nobody else adds to them
        self.left = [run for run in args.runs if run.key not in self.done]
        # With its slot, when it began, and what it had spent then.
        self.running: dict[subprocess.Popen, tuple[Run, int, float, float]] = {}
        self.reported = time.monotonic()
        self.failed: list[str] = []
        self.stopped_by = 0
        # Seconds for a cost of 1.
        self.pace = [sum(r.seconds.values()) / r.cost for r in self.done.values()]

    def run(self) -> None:
        """Makes all runs that are left; a signal lets those that train save and end.

        Raises:
            SystemExit: After a signal, or if a run failed; the others are made all the same.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        write(self.args.out / 'config.py', self.args.base.dump())
        slots = list(range(self.args.jobs))
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
                if time.monotonic() > self.reported + self.args.report:
                    self._report()
        finally:
            self._end_all()
        if self.stopped_by:
            raise SystemExit(f'stopped by signal {self.stopped_by}; the same command goes on')
        if self.failed:
            raise SystemExit('\n'.join(['these runs failed:', *self.failed]))

    def _start(self, run: Run, slot: int) -> subprocess.Popen:
        run.config.parent.mkdir(parents=True, exist_ok=True)
        run.folder.mkdir(exist_ok=True)
        write(run.config, run.cfg.dump())
        command = [TRAIN, run.config, '--work-dir', run.folder]
        if self.args.gpus > 1:  # standalone: at a port that is free
            several = ['torch.distributed.run', '--standalone', '--nproc-per-node', self.args.gpus]
            command = ['-m', *several, *command, '--launcher', 'pytorch']
        if goes_on(run):  # else load_from of the config counts
            command.append('--resume')
        environment = dict(os.environ)
        at_once = self.args.jobs * self.args.gpus
        environment.setdefault('OMP_NUM_THREADS', str(max(1, usable_cpus() // at_once)))
        # How long torchrun lets processes save after a signal; it would be half a minute.
        environment.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '600')
        if devices := visible_devices():
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(group(devices, self.args.gpus, slot))
        with (run.folder / 'output.txt').open('a') as out:
            return subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=out,
                stderr=out,
                env=environment,
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
        write(self.args.out / 'runs.jsonl', ''.join(lines))
        if not self.args.keep:
            for file in (*run.folder.glob('*.pth'), run.folder / 'last_checkpoint'):
                file.unlink(missing_ok=True)
        write_report(self.args, self.done.values())
        took = sum(record.seconds.values())
        self.pace.append(took / record.cost)
        wanted = [self.done[run.key] for run in self.args.runs if run.key in self.done]
        print(
            f'[{len(wanted)}/{len(self.args.runs)}] {run.folder.name}: {record.metric} '
            f'{record.value:.2f}, {record.cost:.1%} of the full cost, {duration(took)}'
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
            left += run.share * (1 - share)
            if share > before:
                pace.append((now - began) / (run.share * (share - before)))
        pace = self.pace or pace
        cost = left + sum(run.share for run in self.left)
        if not pace or not cost:
            return ''
        at_once = min(self.args.jobs, len(self.left) + len(self.running))
        return f'; about {duration(cost * sum(pace) / len(pace) / at_once)} left'

    def _stop(self, number: int, frame: object) -> None:
        self.stopped_by = number

    def _end_all(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            process.wait()


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
    ledger = Ledger.from_dict(json.loads((run.folder / 'ledger.json').read_text()))
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


def write(file: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    partial = file.with_name(f'{file.name}.partial')
    partial.write_text(text)
    partial.replace(file)


def write_report(args: argparse.Namespace, records: Iterable[Record]) -> None:
    """Writes the table and the figure of what has been run, in the order of ``--methods``."""
    records = list(records)
    order = list(dict.fromkeys([*args.methods, *(record.method for record in records)]))
    records.sort(key=lambda record: order.index(record.method))
    write(args.out / 'table.md', tables(records))
    draw(records, args.out / 'figure.png')
