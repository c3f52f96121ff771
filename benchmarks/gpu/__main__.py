# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs all parts, or some, and writes what they have found.

    python -m benchmarks.gpu results/gpu.json
    python -m benchmarks.gpu /tmp/some.json --parts laws memory

Without a GPU it says so, writes nothing, and exits with 0: nothing has failed. With one it exits
with 1 if a part failed; the others' figures are written all the same, after each part.
"""

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from .compiling import compilation
from .files import training_from_files
from .laws import laws
from .machine import machine
from .memory import memory_trial
from .parts import Part, run_part
from .resuming import one_process_of_nccl, resuming_as_ever, resuming_deterministic
from .sizes import FULL, Size
from .steps import step_times

ALL = 510  # seconds; starting takes some too
MACHINE = Part('the machine', machine, 60)
PARTS = {
    'laws': Part('laws of backbones to rounding, in float32 and float64', laws, 110),
    'memory': Part('a last stage that does not fit into memory', memory_trial, 60),
    'nccl': Part('one process of a launcher, stopped and resumed', one_process_of_nccl, 45),
    'resume': Part(
        'stopped and resumed, with deterministic algorithms', resuming_deterministic, 80
    ),
    'steps': Part('time of a training step by stage', step_times, 150),
    'files': Part('training from JPEGs', training_from_files, 100),
    'compile': Part('torch.compile', compilation, 100),
    'resume_as_ever': Part('stopped and resumed, without them', resuming_as_ever, 60),
}
NO_GPU = (
    'There is no GPU that torch can use here, so nothing was measured and nothing was written. '
    'make gpu needs one NVIDIA GPU, and a torch that was built for CUDA.'
)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('record', type=Path, help='a JSON file to write')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--logs', type=Path, default=Path('work_dirs/gpu'), help='a folder')
    return parser.parse_args()


def measure(record: Path, names: list[str], device: str, size: Size, logs: Path) -> dict[str, Any]:
    """Runs parts one after another; the record is written after each.

    Args:
        record: The file.
        names: Of the parts.
        device: ``'cuda'`` or ``'cpu'``.
        size: How much is measured.
        logs: A folder for what the parts print.

    Returns:
        What is in the record; nothing where there is no such device.
    """
    begin = time.monotonic()
    logs.mkdir(parents=True, exist_ok=True)
    found = run_part(MACHINE, device, size, MACHINE.limit, logs / 'machine.txt')
    if found['error']:
        raise RuntimeError(f'the machine cannot be asked: {found["error"]}')
    if device == 'cuda' and found['rows'][0]['gpu'] is None:
        return {}
    results: dict[str, Any] = dict(date=str(date.today()), machine=found['rows'][0], parts={})
    for name in names:
        part, left = PARTS[name], begin + ALL - time.monotonic()
        result = run_part(part, device, size, max(1.0, min(part.limit, left)), logs / f'{name}.txt')
        results['parts'][name] = result
        print(
            f'{name}: {"ok" if result["ok"] else "FAILED"}, {result["seconds"]:.0f} s', flush=True
        )
        results['seconds'] = round(time.monotonic() - begin, 1)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(results, indent=1) + '\n')
    return results


def main() -> None:
    """Runs the parts."""
    args = parse_args()
    results = measure(args.record, args.parts, 'cuda', FULL, args.logs)
    if not results:
        print(NO_GPU)
        return
    failed = [name for name, part in results['parts'].items() if not part['ok']]
    if failed:
        sys.exit(f'failed: {", ".join(failed)}; see {args.record} and {args.logs}')


if __name__ == '__main__':
    main()
