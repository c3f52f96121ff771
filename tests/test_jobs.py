# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Jobs as queues and launchers run them: several processes, signals to all of them, scripts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .support.files import last_file
from .support.tools import DEIT_S, DEMO, ROOT, call, tool


@pytest.fixture
def options(digits, lean_starts):
    """The demo on eight batches an epoch."""
    return [
        '--cfg-options',
        'train_cfg.budget=None',
        'train_cfg.epochs=[1,6,1]',
        'train_dataloader.num_batch_per_epoch=8',
        'train_dataloader.num_workers=2',
        'train_dataloader.persistent_workers=True',
        f'train_dataloader.dataset.data_root={digits}/train',
        'val_dataloader.num_batch_per_epoch=8',
        f'val_dataloader.dataset.data_root={digits}/val',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
    ]


def wait_for(log, text, process, seconds=120):
    """Until a process has logged a text."""
    for _ in range(10 * seconds):
        if text in log.read_text() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert text in log.read_text(), log.read_text()[-3000:]


@pytest.mark.parametrize('processes, moment', [(1, '8/8'), (2, '4/8')])
def test_terminated_with_data_workers_and_resumed(options, tmp_path, processes, moment):
    """SIGTERM to all processes of a job, as queues send it, workers of the data loader included.

    With two it is dist_train.sh, and one process goes on from it: the global batch is the same.
    """
    work_dir, log = tmp_path / 'run', tmp_path / 'log'
    command = {
        1: [sys.executable, ROOT / 'tools' / 'train.py', DEMO],
        2: ['bash', ROOT / 'tools' / 'dist_train.sh', DEMO, '2'],
    }[processes]
    each = f'train_dataloader.batch_size={32 // processes}'
    environment = {**os.environ, 'PORT': '29641'}
    environment['PATH'] = f'{Path(sys.executable).parent}:{environment["PATH"]}'
    with log.open('w') as out:
        process = subprocess.Popen(
            list(map(str, [*command, '--work-dir', work_dir, *options, each])),
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    wait_for(log, f'Epoch(train) [3][{moment}]', process)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    if processes == 1:
        assert process.returncode == 128 + signal.SIGTERM
    assert 'stopped by signal 15 in epoch' in log.read_text()
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'interrupted.pth')
    whole = 'train_dataloader.batch_size=32'
    train = ['train', DEMO, '--work-dir', work_dir]
    stdout = tool(*train, '--resume', *options, whole, cwd=tmp_path)
    assert 'Epoch(train) [8][8/8]' in stdout
    ledger = last_file(work_dir)['meta']['bvit_mm']['ledger']
    assert ledger['iterations'] == [8, 48, 8] and ledger['samples'] == [256, 1536, 256]


def test_processes_without_a_launcher_are_refused(options, tmp_path):
    """torchrun without --launcher would train two runs into one folder."""
    run = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '29642']
    train = [ROOT / 'tools' / 'train.py', DEMO, '--work-dir', tmp_path / 'a', *options]
    error = call(sys.executable, *run, *train, cwd=tmp_path, fails=True)
    assert "launcher='none', but this is one of 2 processes: each would train by itself" in error
    assert not list(tmp_path.glob('a/*.pth'))


@pytest.mark.parametrize('script, usage', [('dist', 'CONFIG PROCESSES'), ('slurm', 'PARTITION')])
def test_scripts_tell_their_usage(tmp_path, script, usage):
    error = call('bash', ROOT / 'tools' / f'{script}_train.sh', 'x', cwd=tmp_path, fails=True)
    assert f'_train.sh {usage}' in error


@pytest.mark.parametrize('processes', ['two', '0', '-1', '1.5'])
def test_number_of_processes(tmp_path, processes):
    script = ROOT / 'tools' / 'dist_train.sh'
    error = call('bash', script, DEMO, processes, cwd=tmp_path, fails=True)
    assert error.startswith(f'usage: {script} CONFIG PROCESSES')


def test_slurm_script_asks_for_a_signal_before_the_end(tmp_path):
    """Without Slurm here, srun only prints what it is called with."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'GPUS': '4'}
    command = ['bash', ROOT / 'tools' / 'slurm_train.sh', 'gpu', 'job', DEIT_S, 'out', '--amp']
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '--signal TERM@300 --ntasks 4 --ntasks-per-node 4 --gres gpu:4' in done.stdout
    assert done.stdout.endswith(f'{DEIT_S} --work-dir out --launcher slurm --amp\n')
