# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The runner of mmpretrain's own tests goes on after a failure, and counts."""

import subprocess
import sys
from pathlib import Path

from .support.upstream import FOLDER

PASSING = """
from mmpretrain.models.backbones import VisionTransformer


def test_class():
    assert VisionTransformer(arch='deit-tiny', img_size=32).embed_dims == 192
"""
FAILING = """
from mmpretrain.models.backbones import SwinTransformer


def test_passes():
    assert SwinTransformer.__name__ != 'PVT'


def test_fails():
    assert SwinTransformer is None
"""


def run(checkout, **files):
    folder = checkout / FOLDER
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f'{name}.py').write_text(text)
    return subprocess.run(
        [sys.executable, '-m', 'tests.support.upstream', checkout],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )


def test_failures_are_counted_and_the_rest_runs(tmp_path):
    """A file without a test has not passed; the next one has a test that fails."""
    done = run(tmp_path, test_vision_transformer='', test_swin_transformer=FAILING)
    rows = [line.split() for line in done.stdout.splitlines()[-4:]]
    assert rows == [
        ['test_vision_transformer.py', 'whole', '0', '1'],
        ['test_vision_transformer.py', 'in', 'stages', '0', '1'],
        ['test_swin_transformer.py', 'whole', '1', '1'],
        ['test_swin_transformer.py', 'in', 'stages', '1', '1'],
    ]
    assert done.returncode == 1


def test_all_passed(tmp_path):
    done = run(tmp_path, test_vision_transformer=PASSING)
    assert done.stdout.splitlines()[-1].split()[-2:] == ['1', '0']
    assert done.returncode == 0
