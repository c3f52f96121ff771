# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _cpus import usable_cpus

TOOLS = Path(__file__).parent.parent / 'tools'

# The networks are tiny: more threads only wait for each other, here and in what tests start. torch
# reads this when it is imported, which no test module has done yet.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers():
    """No more workers than this process may use CPUs: xdist counts those of the machine."""
    count = yield
    chosen = 'PYTEST_XDIST_AUTO_NUM_WORKERS' in os.environ
    return count if chosen else min(count, usable_cpus())


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The digits of the demo, as an image folder."""
    folder = tmp_path_factory.mktemp('data') / 'digits'
    subprocess.run([sys.executable, TOOLS / 'make_digits.py', folder], check=True)
    return folder
