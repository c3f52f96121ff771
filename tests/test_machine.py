# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Busy machines and containers: threads, how long they spin, quotas, progress of compiling."""

import ast
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from bvit_mm.compare import runner

from .support.scripts import load_script
from .support.tools import ROOT

cpus = load_script(ROOT / 'tools' / '_cpus.py')
threads = load_script(ROOT / 'tools' / '_threads.py')
compiling = load_script(ROOT / 'tools' / 'compile_ops.py')
SPIN = threads.SPIN
OPENCV = {threads.OPENCV_NAME: '1'}
SPIN_ONLY = {'GOMP_SPINCOUNT': str(SPIN), **OPENCV}


@pytest.mark.parametrize(
    'chosen, visible, quota, expected',
    [
        ({}, 2, math.inf, SPIN_ONLY),
        ({}, 2, 2.0, SPIN_ONLY),
        ({}, 64, 2.0, {**SPIN_ONLY, 'OMP_NUM_THREADS': '2'}),
        ({}, 8, 1.5, {**SPIN_ONLY, 'OMP_NUM_THREADS': '2'}),
        ({}, 8, 0.1, {**SPIN_ONLY, 'OMP_NUM_THREADS': '1'}),
        ({'OMP_NUM_THREADS': '4'}, 8, 1.0, SPIN_ONLY),
        ({'MKL_NUM_THREADS': '4'}, 8, 1.0, SPIN_ONLY),
        ({'GOMP_SPINCOUNT': '7'}, 8, 1.0, {**OPENCV, 'OMP_NUM_THREADS': '1'}),
        ({'OMP_WAIT_POLICY': 'ACTIVE'}, 8, 8.0, OPENCV),
        ({threads.OPENCV_NAME: '3', 'OMP_WAIT_POLICY': 'ACTIVE'}, 8, 8.0, {}),
        ({'KMP_BLOCKTIME': '0', 'OMP_NUM_THREADS': '3'}, 8, 1.0, OPENCV),
        ({'PATH': '/bin'}, 1, math.inf, SPIN_ONLY),
    ],
)
def test_only_what_the_user_has_not_chosen_is_set(chosen, visible, quota, expected):
    assert threads.thread_settings(chosen, visible, quota) == expected


V1 = '4:memory:/a\n3:cpu,cpuacct:{}\n1:name=systemd:/b\n'
V2 = '0::{}\n'


@pytest.mark.parametrize(
    'own, files, expected',
    [
        (None, {}, math.inf),  # not Linux
        (V2, {}, math.inf),
        (V2, {'cpu.max': 'max 100000'}, math.inf),
        (V2, {'cpu.max': '150000 100000'}, 1.5),  # a container that sees its group as the topmost
        (V2, {'job/run/cpu.max': '50000 100000'}, 0.5),
        (V2, {'job/cpu.max': '300000 100000', 'job/run/cpu.max': 'max 100000'}, 3.0),
        (V2, {'job/cpu.max': '200000 100000', 'job/run/cpu.max': '400000 100000'}, 2.0),
        (V2, {'other/cpu.max': '50000 100000'}, math.inf),
        (V1, {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, math.inf),
        (V1, {'cpu/cpu.cfs_quota_us': '250000', 'cpu/cpu.cfs_period_us': '100000'}, 2.5),
        (V1, {'cpu/job/cpu.cfs_quota_us': '10000', 'cpu/job/cpu.cfs_period_us': '20000'}, 0.5),
        (V1 + V2, {'cpu/cpu.cfs_quota_us': '1000', 'cpu/cpu.cfs_period_us': '1000'}, 1.0),
    ],
)
def test_quota_of_control_groups(tmp_path, own, files, expected):
    if own:
        (tmp_path / 'own').write_text(own.replace('{}', '/job/run'))
    for name, text in files.items():
        file = tmp_path / 'mounted' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + '\n')
    assert cpus.cpu_quota(tmp_path / 'own', tmp_path / 'mounted') == expected


@pytest.mark.parametrize(
    'visible, quota, expected', [(4, math.inf, 4), (4, 1.2, 2), (4, 0.3, 1), (2, 3.5, 2)]
)
def test_usable_cpus(monkeypatch, visible, quota, expected):
    monkeypatch.setattr(cpus, 'visible_cpus', lambda: visible)
    monkeypatch.setattr(cpus, 'cpu_quota', lambda: quota)
    assert cpus.usable_cpus() == expected


def test_affinity_is_seen():
    code = 'import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n'
    code += 'from _cpus import visible_cpus; print(visible_cpus())'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT / 'tools', capture_output=True, text=True
    )
    assert done.stdout == '1\n', done.stderr
    assert cpus.visible_cpus() == len(os.sched_getaffinity(0))


def display(**chosen):
    """What OpenMP says that it has read, in a process that imports what a tool does."""
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
    environment = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        [sys.executable, '-c', 'import _threads, torch'],
        cwd=ROOT / 'tools',
        env={**environment, **chosen, 'OMP_DISPLAY_ENV': 'VERBOSE'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(' = ') for line in done.stderr.splitlines() if ' = ' in line]
    return {name.strip(): value.strip("'") for name, value in lines}


@pytest.mark.parametrize('chosen, spin', [({}, SPIN), ({'GOMP_SPINCOUNT': '77'}, 77)])
def test_openmp_reads_the_setting(chosen, spin):
    assert display(**chosen)['GOMP_SPINCOUNT'] == str(spin)


class Threads:
    """A data set that says how many threads its reader has."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return cv2.getNumThreads(), torch.get_num_threads()


def test_workers_that_are_forked_have_one_thread():
    """OpenCV's too: they inherit what mmengine sets."""
    before = cv2.getNumThreads()
    set_multi_processing(opencv_num_threads=0)
    try:
        loader = DataLoader(Threads(), num_workers=1, collate_fn=list)
        assert list(loader) == [[(1, 1)]] * 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize('chosen, number', [({}, 1), ({threads.OPENCV_NAME: '3'}, 3)])
def test_workers_that_are_spawned_read_opencvs_threads(chosen, number):
    """From the environment of the tool that spawns them."""
    environment = {k: v for k, v in os.environ.items() if k != threads.OPENCV_NAME}
    done = subprocess.run(
        [sys.executable, '-c', 'import _threads, cv2; print(cv2.getNumThreads())'],
        cwd=ROOT / 'tools',
        env={**environment, **chosen},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f'{number}\n', done.stderr


@pytest.mark.parametrize('tool', ['train', 'test', 'plan', 'analyze'])
def test_tools_that_compute_set_threads_first(tool):
    body = ast.parse((ROOT / 'tools' / f'{tool}.py').read_text()).body
    names = [
        name
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    foreign = [name for name in names if name.split('.')[0] not in sys.stdlib_module_names]
    assert foreign[0] == '_threads'


@pytest.mark.parametrize(
    'jobs, gpus, chosen, expected',
    [(1, 1, None, '6'), (2, 1, None, '3'), (2, 2, None, '1'), (9, 1, None, '1'), (2, 1, '5', '5')],
)
def test_runs_of_a_comparison_share_the_cpus(monkeypatch, jobs, gpus, chosen, expected):
    monkeypatch.setattr(runner, 'visible_devices', list)
    monkeypatch.delenv('OMP_NUM_THREADS')
    if chosen:
        monkeypatch.setenv('OMP_NUM_THREADS', chosen)
    settings = SimpleNamespace(cpus=6, jobs=jobs, gpus=gpus)
    assert runner.environment_of(settings, slot=0)['OMP_NUM_THREADS'] == expected


PRINTED = """\
  Running command Building wheel for onedl-mmcv (pyproject.toml)
  copying mmcv/ops/focal_loss.py -> build/lib.linux-x86_64-cpython-311/mmcv/ops
  building 'mmcv._ext' extension
  [1/78] c++ -MMD -MF build/mmcv/ops/csrc/pytorch/active_rotated_filter.o.d -Wsign-compare
  In file included from torch/include/c10/core/InferenceMode.h:4,
     90 |   bool grad_layout_enforcement_enabled_ : 1 = true;
  [2/78] c++ -MMD -MF build/mmcv/ops/csrc/pytorch/assign_score_withk.o.d -Wsign-compare
  [3/78] c++ -MMD -MF build/mmcv/ops/csrc/pytorch/ball_query.o.d -Wsign-compare
  [78/78] c++ -shared build/mmcv/ops/csrc/pytorch/active_rotated_filter.o
"""


def test_progress_of_compiling():
    """On what pip and ninja printed, with 50 seconds from step to step."""
    ticks = iter(range(0, 10_000, 50))
    told = compiling.progress(PRINTED.splitlines(keepends=True), every=60, now=lambda: next(ticks))
    assert list(told) == ['2 of 78 steps after 2 min', '78 of 78 steps after 3 min']


def test_compiling_prints_progress_and_keeps_the_rest(tmp_path, capfd):
    log = tmp_path / 'log'
    compiling.compile_with([sys.executable, '-c', f'print({PRINTED!r}, end="")'], log, every=0)
    assert capfd.readouterr().out.splitlines() == [
        f'{n} of 78 steps after 0 min' for n in (1, 2, 3, 78)
    ]
    assert log.read_text() == PRINTED


def test_compiling_that_fails_tells_why(tmp_path):
    code = 'print("g++: fatal error: Killed"); raise SystemExit(3)'
    with pytest.raises(SystemExit, match='g\\+\\+: fatal error: Killed') as error:
        compiling.compile_with([sys.executable, '-c', code], tmp_path / 'log')
    assert str(tmp_path / 'log') in str(error.value)
