# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# The networks are tiny: more threads only wait for each other, here and in what tests start.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The digits of the demo, as an image folder."""
    folder = tmp_path_factory.mktemp('data') / 'digits'
    tool = Path(__file__).parent.parent / 'tools' / 'make_digits.py'
    subprocess.run([sys.executable, tool, folder], check=True)
    return folder
