# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the package says when the OpenMMLab packages are missing, or there twice."""

import subprocess
import sys

import pytest


def import_with(tmp_path, hidden=(), extra=()):
    """Imports bvit_mm in a process where packages are hidden, or distributions added."""
    for name in extra:
        info = tmp_path / f'{name.replace("-", "_")}-1.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path)!r})
found = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n in {hidden!r} else found(n, p)
import bvit_mm
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1] if done.stderr else ''


@pytest.mark.parametrize('hidden', [('mmengine', 'mmcv', 'mmpretrain'), ('mmpretrain',)])
def test_missing_packages_are_named(tmp_path, hidden):
    status, error = import_with(tmp_path, hidden=hidden)
    assert status and f'bvit_mm needs {" and ".join(hidden)}, not installed here' in error
    assert "pip install 'bvit_mm[onedl]'" in error


def test_two_forks_are_refused(tmp_path):
    from importlib import metadata

    installed = {d.metadata['Name'] for d in metadata.distributions()}
    other = 'mmengine' if 'onedl-mmengine' in installed else 'onedl-mmengine'
    status, error = import_with(tmp_path, extra=[other])
    assert status and 'are both installed and own the same package mmengine' in error
    assert other in error


def test_one_fork_is_fine(tmp_path):
    assert import_with(tmp_path)[0] == 0
