# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Waiting for data: entered in the ledger, told at the end of each stage, with what would help."""

import re

import pytest
from mmcv.transforms import BaseTransform, Compose, LoadImageFromFile
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm.budget import StatedEpochs
from bvit_mm.hours import Measurement
from bvit_mm.ledger import Ledger
from bvit_mm.meter import Clock
from bvit_mm.plan import make_plan
from bvit_mm.report import ledger_table, waiting_line
from bvit_mm.running.loading import loading_of
from bvit_mm.running.processes import Agreement
from bvit_mm.running.stopwatch import Stopwatch
from bvit_mm.waiting import Loading, binds, waiting_text

from .support.files import last_file
from .support.runs import BATCHES, TinyDataset, build
from .support.trainings import log_of

ALL = Loading(workers=2, cores=8, reads_large_files=True, makes_whole_size=True)


@pytest.mark.parametrize(
    'waiting, workers, binding',
    [(10.0, 2, False), (10.1, 2, True), (50.0, 0, False), (50.1, 0, True)],
)
def test_what_binds(waiting, workers, binding):
    """Without workers the longer of two turns does."""
    assert binds(waiting, 100.0, workers) == binding
    text = waiting_text('training stage 1', waiting, 100.0, Loading(workers, 4))
    assert ('This would help here' in text) == binding


@pytest.mark.parametrize(
    'loading, advice',
    [
        (
            ALL,
            'more workers (train_dataloader.num_workers=8, not 2); images made at the '
            "stage's size (bvit_mm.RandomResizedCrop); files resized once "
            '(tools/resize_dataset.py)',
        ),
        (Loading(0, 1), 'more workers (train_dataloader.num_workers=1, not 0)'),
        (Loading(8, 8, reads_large_files=True), 'files resized once (tools/resize_dataset.py)'),
        (Loading(9, 8), 'more cores, or a simpler train_pipeline'),
    ],
)
def test_what_would_help(loading, advice):
    text = waiting_text('training stage 1', 307.2, 512.0, loading)
    expected = 'waiting for data: 60% of the 8.53 min of training stage 1. This would help here: '
    assert text == expected + advice


def test_no_advice_where_nothing_waits():
    text = waiting_text('training stage 3', 1.0, 100.0, ALL)
    assert text == 'waiting for data: 1% of the 100 s of training stage 3'
    assert waiting_text('training', 0.0, 0.0, ALL) == 'waiting for data: 0% of the 0 s of training'


def test_line_of_a_plan():
    """Stages count by how long they are to train: 2 x 5 x 0.4 of 1 s, 6 x 5 x 0.1 of 2 s."""
    plan = make_plan([1.0, 2.0], epochs=[2, 6])
    measured = [
        Measurement(s, s, waiting, samples=4, memory=1, data_bound=False)
        for s, waiting in ((1.0, 0.4), (2.0, 0.1))
    ]
    line = waiting_line(plan, measured, 5, Loading(2, 2))
    assert line == 'waiting for data: 10% of the 70 s of training'


def test_table_of_a_ledger():
    plan = make_plan([1.0, 2.0], epochs=[2, 3])
    ledger = Ledger.of_run(plan, length=5, batch=4)
    ledger.train(0, 4)
    ledger.seconds, ledger.waiting = [8.0, 0.0], [2.0, 0.0]
    rows = [line.split() for line in ledger_table(plan, ledger, StatedEpochs()).splitlines()]
    assert rows[0][-3:] == ['seconds', 'waiting', 'images/s']
    assert rows[1][-3:] == ['8.0', '25%', '0.5'] and rows[2][-3:] == ['0.0', '-', '-']
    assert rows[3][-2:] == ['8.0', '25%']


def test_ledgers_of_earlier_versions_are_read():
    saved = Ledger((1.0, 2.0), 5, 4, seconds=[3.0, 4.0]).as_dict()
    assert saved.pop('waiting') == [0, 0]
    assert Ledger.from_dict(saved).waiting == [0, 0]


@pytest.mark.parametrize('metered', [False, True])
def test_stopwatch_enters_waiting_with_training_only(monkeypatch, metered):
    now = [0.0]
    monkeypatch.setattr(Clock, 'read', lambda _: now[0])
    watch, ledger = Stopwatch(Agreement()), Ledger((1.0, 2.0), 5, 4)
    if metered:
        watch.use(type('Joule', (), dict(read=lambda self: 3 * now[0]))())

    def fetch(seconds):
        now[0] += seconds
        return seconds

    def pass_by(seconds):
        now[0] += seconds

    assert watch.await_data(fetch, 2.0) == 2.0
    pass_by(5.0)
    watch.train(ledger, 1)
    watch.await_data(fetch, 1.0)  # while something was compiled
    assert watch.pass_time(ledger, 'compilation') == (3.0 if metered else 1.0)
    pass_by(4.0)
    watch.train(ledger, 1)
    assert ledger.seconds == [0, 11.0] and ledger.waiting == [0, 2.0]
    assert ledger.other['compilation'] == 1.0
    assert ledger.metered == (36.0 if metered else 0.0)
    assert watch.trained == (33.0 if metered else 11.0)


class RandomResizedCrop(BaseTransform):
    """Named as mmpretrain's."""

    def transform(self, results):
        return results


def test_how_data_is_loaded(monkeypatch, tmp_path):
    """Through data sets around data sets; cores are shared with other processes here."""

    class Around:
        def __init__(self, **inner):
            vars(self).update(inner)

    class Loader:
        num_workers = 3

        def __init__(self, *transforms):
            inner = Around(pipeline=Compose(transforms))
            self.dataset = Around(dataset=Around(datasets=[Around(), inner]))

    monkeypatch.setattr('os.sched_getaffinity', lambda _: range(8))
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    crop, ours = RandomResizedCrop(), RandomResizedCrop()
    assert loading_of(Loader()) == Loading(3, 8)
    loader = Loader(LoadImageFromFile(), crop)
    assert loading_of(loader) == Loading(3, 8, True, True)
    (tmp_path / 'resized.json').write_text('{"complete": true}')
    loader.dataset.data_prefix = dict(img_path=str(tmp_path / 'train'))
    assert loading_of(loader) == Loading(3, 8, False, True)
    monkeypatch.setattr(type(ours), '__module__', 'bvit_mm.transforms')
    monkeypatch.setattr('bvit_mm.running.loading.get_world_size', lambda: 6)
    assert loading_of(Loader(ours)) == Loading(3, 1)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert loading_of(Loader(ours)) == Loading(3, 2)


# A run on a clock that loading and training advance.


@HOOKS.register_module(force=True)
class TrainASecond(Hook):
    """An iteration takes a second, besides loading."""

    def __init__(self, clock):
        self.clock = clock

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.clock[0] += 1.0


def test_waiting_of_a_run(tmp_path, monkeypatch):
    """A batch of four images takes a second to load in the first stage, three in the last."""
    clock, runner = [1000.0], None

    def load(self, idx):
        if runner is not None and runner.train_loop.ledger.elapsed > 0:
            clock[0] += (0.25, 0.5, 0.75)[runner.train_loop.plan.stage_at(runner.epoch)]
        return get(self, idx)

    get = TinyDataset.__getitem__
    monkeypatch.setattr(TinyDataset, '__getitem__', load)
    monkeypatch.setattr(Clock, 'read', lambda _: clock[0])
    runner = build(tmp_path, val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner.register_hook(HOOKS.build(dict(type='TrainASecond', clock=clock)))
    runner.train()
    ledger = runner.train_loop.ledger
    assert ledger.waiting[1:] == [2 * BATCHES * 2.0, 2 * BATCHES * 3.0]
    assert ledger.seconds[1:] == [2 * BATCHES * 3.0, 2 * BATCHES * 4.0]
    lines = re.findall(r'waiting for data: (\d+)% of the .* of training stage (\d)', log_of(runner))
    assert lines[1:] == [('67', '2'), ('75', '3')]
    assert last_file(tmp_path)['meta']['bvit_mm']['ledger']['waiting'] == ledger.waiting
