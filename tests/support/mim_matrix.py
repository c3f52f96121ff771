# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Measures the table of docs/mim.md for the mim of the environment that runs this.

    SOME_VENV/bin/python tests/support/mim_matrix.py

The environment holds one fork's packages and its mim; this installs bvit_mm there in each way,
tries every command from an empty folder, and uninstalls it again.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent.parent.absolute()
MIM = Path(sys.executable).with_name('mim')
DEMO = 'deit-digits_bvit-b50.py'
LISTED = 'deit-small_bvit-b50_4xb256_in1k'


def call(*command, cwd):
    """Whether a command succeeds, and the last line it printed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PIP_RETRIES': '0'},  # mim names an index of mmcv, unused here
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode == 0, lines[-1] if lines else ''


def make_images(folder):
    """Two classes of four images."""
    for label in 'ab':
        (folder / label).mkdir(parents=True)
        for k in range(4):
            pixels = np.random.default_rng(k).integers(0, 256, (28, 28, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / label / f'{k}.png'), pixels)


def measure(install, cwd):
    """Installs with `mim install ...` and tries each command; a line each."""
    make_images(cwd / 'images')
    loaders = ('train', 'val', 'test')
    short = [
        '--cfg-options',
        'train_cfg.budget=None',
        'train_cfg.epochs=[1,1,1]',
        *(f'{name}_dataloader.dataset.data_root={cwd}/images' for name in loaders),
    ]
    last = 'work/epoch_3.pth'
    commands = {
        'install': ['install', *install],
        'search': ['search', 'bvit_mm', '--valid-config'],
        'train': ['train', 'bvit_mm', DEMO, '--work-dir', 'work', *short],
        'test': ['test', 'bvit_mm', DEMO, '--checkpoint', last, '--work-dir', 'work', *short],
        'download': ['download', 'bvit_mm', '--config', LISTED, '--dest', 'here'],
        'run': ['run', 'bvit_mm', 'plan', ROOT / f'configs/deit/{LISTED}.py'],
        'path': ['train', 'bvit_mm', ROOT / 'configs/demo' / DEMO, '--work-dir', 'a', *short],
        'stock': ['train', 'mmpretrain', ROOT / 'configs/demo' / DEMO, '--work-dir', 'b', *short],
    }
    written = {'train': last, 'download': f'here/{LISTED}.py'}
    for name, command in commands.items():
        fine, line = call(MIM, *command, cwd=cwd)
        if fine and not (cwd / written.get(name, '')).exists():
            fine, line = False, f'{written[name]} was not written'
        print(f'  {name:9} {"ok" if fine else "FAILS: " + line}', flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pip = [sys.executable, '-m', 'pip']
        call(*pip, 'wheel', '--no-deps', '-w', folder, ROOT, cwd=folder)
        (wheel,) = folder.glob('bvit_mm-*.whl')
        for name, install in (('wheel', [wheel]), ('checkout', [ROOT]), ('editable', ['-e', ROOT])):
            print(f'mim install {" ".join(map(str, install))}', flush=True)
            (folder / name).mkdir()
            try:
                measure(install, folder / name)
            finally:
                call(*pip, 'uninstall', '-y', 'bvit_mm', cwd=folder)


if __name__ == '__main__':
    main()
