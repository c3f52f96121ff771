# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import functools
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmengine.config.utils
import pytest
import torch

import bvit_mm.cost

pytest.register_assert_rewrite('tests.support', 'bvit_mm.testing')

from .support.garbage import leave_garbage_alone  # noqa: E402
from .support.scripts import TOOLS, load_script  # noqa: E402

# The networks are tiny: more threads only wait for each other, here and in what tests start.
# BVIT_TEST_THREADS=2 has sums run in the order of two threads, to see that no test depends on it.
THREADS = os.environ.get('BVIT_TEST_THREADS', '1')
torch.set_num_threads(int(THREADS))
os.environ['OMP_NUM_THREADS'] = THREADS

# A data loader that the garbage collector finds late waits this long for each of its workers.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.1
torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 0.1

# For each config that inherits one of mmpretrain's, mmengine reads its 85 files of metadata again.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)

# Files that take long, the longest first; of others the order does not matter.
LONG = (
    'processes', 'resume', 'laws', 'compare', 'rehearsal', 'jobs', 'tools', 'transfer', 'golden',
    'hours', 'spending', 'image_size', 'export', 'growth', 'transfer_configs', 'loop_and_hook',
    'subset_runs', 'stock_tools', 'configs',
)  # fmt: skip


# What `make laws` runs: what must hold whatever a run is made of. No run is trained.
LAWS = ('house', 'laws', 'plan', 'growth', 'training_stages', 'schedulers', 'closeness')


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers():
    """No more workers than this process may use CPUs: xdist counts those of the machine."""
    count = yield
    chosen = 'PYTEST_XDIST_AUTO_NUM_WORKERS' in os.environ
    return count if chosen else min(count, load_script(TOOLS / '_cpus.py').usable_cpus())


def pytest_configure(config):
    """pytest-xdist would begin with the files of many tests, and end with one that takes long."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Long files first, so that all processes end at about the same time; and marks the laws.

    Networks of full size, which have one image at once, are left out of these: they take most of
    the time.
    """
    for item in items:
        case = getattr(item, 'callspec', None) and item.callspec.params.get('case')
        if item.path.stem in {f'test_{name}' for name in LAWS} and getattr(case, 'batch', 2) > 1:
            item.add_marker('laws')
    place = {f'test_{name}': i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish():
    """What the libraries made when they were imported is no garbage."""
    gc.collect()
    leave_garbage_alone()


@pytest.fixture(scope='module')
def built():
    """Models by their config."""
    return {}


@pytest.fixture
def built_once(monkeypatch, built):
    """Models that are only counted are built once for all configs that have the same."""
    build = bvit_mm.cost.build_to_count

    def build_once(model):
        key = repr(model)
        if key not in built:
            built[key] = build(model).to('meta')  # without their weights
        return built[key]

    monkeypatch.setattr(bvit_mm.cost, 'build_to_count', build_once)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The digits of the demo, as an image folder."""
    folder = tmp_path_factory.mktemp('data') / 'digits'
    subprocess.run([sys.executable, TOOLS / 'make_digits.py', folder], check=True)
    return folder


@pytest.fixture(scope='module')
def lean_starts():
    """Commands that tests start from now on import no mmdet, which takes a third of a start."""
    folders = [str(Path(__file__).parent / 'data' / 'lean'), os.environ.get('PYTHONPATH')]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, folders)))
        yield


@pytest.fixture
def clock(monkeypatch):
    """The clock of ``support.clock.run``."""
    from .support.clock import patched_clock

    return patched_clock(monkeypatch)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder of a store whose addresses begin with s3://."""
    from .support.store import patched_store

    return patched_store(tmp_path, monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The work_dir of a run of three epochs that nothing stopped."""
    from .support.runs import build
    from .support.variants import SHORT

    work_dir = tmp_path_factory.mktemp('whole')
    build(work_dir, **SHORT).train()
    return work_dir


@pytest.fixture
def halfway(whole, tmp_path):
    """The work_dir of such a run that ended after the second epoch."""
    work_dir = tmp_path / 'halfway'
    work_dir.mkdir()
    for name in ('epoch_1.pth', 'epoch_2.pth', 'plan.json'):
        shutil.copy2(whole / name, work_dir)
    os.utime(work_dir / 'epoch_1.pth', (1, 1))  # a copy's times need not be apart
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    return work_dir
