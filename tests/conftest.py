# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# The networks are tiny: more threads only wait for each other, here and in what tests start.
# BVIT_TEST_THREADS=2 has sums run in the order of two threads, to see that no test depends on it.
THREADS = os.environ.get('BVIT_TEST_THREADS', '1')
torch.set_num_threads(int(THREADS))
os.environ['OMP_NUM_THREADS'] = THREADS


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The digits of the demo, as an image folder."""
    folder = tmp_path_factory.mktemp('data') / 'digits'
    tool = Path(__file__).parent.parent / 'tools' / 'make_digits.py'
    subprocess.run([sys.executable, tool, folder], check=True)
    return folder
