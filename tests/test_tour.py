# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The parts of the tour; `make tour` is the whole, in minutes."""

import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest

from .support.tools import ROOT


@pytest.fixture(scope='module')
def tour():
    return runpy.run_path(str(ROOT / 'tools' / 'tour.py'))


def test_every_config_is_on_the_tour(tour):
    tasks = sorted(f'{task.config}.py' for task in tour['TASKS'])
    assert tasks == sorted(p.name for p in (ROOT / 'configs/demo/transfer').glob('*.py'))
    assert {task.family for task in tour['TASKS']} == set(tour['PRETRAINED'])
    assert all(path.is_file() for path in tour['PRETRAINED'].values())


def test_guesses_of_miou_are_the_commonest_class_everywhere(tour, tmp_path):
    folder = tmp_path / 'ade20k' / 'annotations' / 'validation'
    folder.mkdir(parents=True)
    label = np.zeros((10, 10), np.uint8)
    label[:6], label[6:8, :5], label[6:8, 5:] = 1, 2, 3  # 60, 10, 10, and 20 that are ignored
    cv2.imwrite(str(folder / 'a.png'), label)
    assert tour['chances'](tmp_path)['mIoU'] == pytest.approx(100 * (60 / 80) / 3)


def test_sheet_has_a_row_for_each_task(tour, tmp_path):
    for i, task in enumerate(tour['TASKS']):
        folder = tmp_path / task.config / 'pictures' / 'inner'
        folder.mkdir(parents=True)
        for n in range(6):
            cv2.imwrite(str(folder / f'{n}.png'), np.full((20, 30 + i, 3), 40 * i, np.uint8))
    image = cv2.imread(str(tour['sheet'](tmp_path)))
    height = tour['HEIGHT']
    assert image.shape[0] == len(tour['TASKS']) * (height + 24)
    middles = image[24 + height // 2 :: height + 24, 5, 0]
    assert middles.tolist() == [40 * i for i in range(len(tour['TASKS']))]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['work', '--seeds', '1'], '--seeds 1 must be at least 2, for a spread'),
        ([], 'the following arguments are required: folder'),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'tour.py', *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_publishes_beside_what_it_trains(tour, tmp_path, monkeypatch):
    """Each step with its arguments, but for training itself."""
    names = tour['pretrain'].__globals__
    calls = []

    def run(tool, *arguments):
        calls.append(tool)
        if tool == 'publish':
            last, out = arguments
            assert last.endswith('epoch_1.pth') and not out.exists() and out.suffix == ''
            return f'a line\n{out}-01234567.pth (1.00 MB)\n{out}-01234567.py (0.00 MB)\n'
        work_dir = arguments[arguments.index('--work-dir') + 1]
        work_dir.mkdir(parents=True)
        (work_dir / 'last_checkpoint').write_text(f'{work_dir}/epoch_1.pth')
        return ''

    monkeypatch.setitem(names, 'run', run)
    files = tour['pretrain'](tmp_path)
    assert calls == ['train', 'publish'] * 3
    assert files == {f: f'{tmp_path}/published/{f}-01234567.pth' for f in tour['PRETRAINED']}
