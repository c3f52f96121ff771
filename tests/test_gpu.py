# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The measurements for GPUs run on a CPU too, small; their record and page.

What a CPU has not: bfloat16 of mmengine, NCCL, a limit of memory, and seconds that mean something.
"""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import compiling, memory
from benchmarks.gpu.parts import Part, run_part
from benchmarks.gpu.sizes import FULL, TINY
from benchmarks.step_time import Trainer, ratio, times_in_turn
from bvit_mm.registry import MODELS

from .support.scripts import load_script
from .support.small_memory import allow_images
from .support.tools import ROOT

SCRIPT = ROOT / '.dev_scripts' / 'gpu_page.py'
RECORD = ROOT / 'results' / 'gpu.json'
page = load_script(SCRIPT)


@pytest.fixture(scope='module')
def found():
    """The rows of parts that have run; the last test writes the page of all."""
    return {}


def rows_of(name, found):
    rows = found[name] = list(gpu.PARTS[name].work('cpu', TINY))
    json.dumps(rows)  # plain numbers
    return rows


def test_laws(found):
    rows = rows_of('laws', found)
    assert [row['case'] for row in rows] == list(TINY.cases)
    assert all(row['ok'] for row in rows), rows


def test_steps(found):
    rows = rows_of('steps', found)
    plain = [(row['family'], row['plain']) for row in rows if 'plain' in row]
    assert plain == [
        ('DeiT-S', 'mmpretrain'),
        ('DeiT-S', 'timm'),
        ('Swin-S', 'mmpretrain'),
        ('Swin-S', 'timm'),
        ('PVTv2-b2-linear', 'timm'),
    ]
    for family in TINY.families:
        stages = {
            (row['view'], row['stage']): row
            for row in rows
            if row['family'] == family and 'view' in row
        }
        views = [(view, stage) for view in ('crop', 'scale') for stage in (1, 2)]
        assert stages.keys() == {*views, ('whole', 3)}
        assert stages['whole', 3]['time_share'] == stages['whole', 3]['flops_share'] == 1
        for row in stages.values():
            assert 0 < row['flops_share'] <= 1 and row['milliseconds'] > 0
            assert row['excess'] == row['time_share'] / row['flops_share']


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    from benchmarks.gpu import steps

    def times(device, size, family, batch):
        if batch > 1:
            raise torch.cuda.OutOfMemoryError
        names = ('whole 3', 'crop 1')
        return {name: [1.0] for name in names}, dict.fromkeys(names, 0.5)

    monkeypatch.setattr(steps, '_times', times)
    assert {row['batch'] for row in steps.step_times('cpu', TINY)} == {1}


def test_files(found):
    rows = rows_of('files', found)
    assert [(row['view'], row['stage']) for row in rows] == [
        (view, stage) for view in ('crop', 'scale') for stage in (1, 2, 3)
    ]
    for row in rows:
        assert row['images_per_second'] > 0 and 0 <= row['waiting'] <= 1
        assert (row['workers'], row['batch']) == (1, 4) and 80 < row['kilobytes'] < 140


def test_memory(found, monkeypatch):
    """Without a limit nothing is refused; with one, the advice fits and 'auto' finds it."""

    class AtMost:
        def __init__(self, device, allowed):
            pass

        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            allow_images(self.patch, 2)

        def __exit__(self, *error):
            self.patch.undo()

    monkeypatch.setattr(memory, 'at_most', AtMost)
    whole, refused, divided = rows_of('memory', found)
    assert whole == dict(run='all memory', batch=4, gigabytes=0.0)
    assert refused['ok'] and 'accumulative_counts=[1, 1, 2] divides' in refused['message']
    assert divided == dict(run='divided', ok=True, parts=[1, 1, 2])


def test_compiling(found):
    """Where nothing is compiled, it says so."""
    with torch._dynamo.config.patch(disable=True):
        rows = rows_of('compile', found)
    torch._dynamo.backends.registry._BACKENDS.pop('counted')
    assert [row['stage'] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row['graphs'] == row['graphs_later'] == 0 and not row['ok']
        assert row['milliseconds'] > 0 and row['compiling_seconds'] > 0


def test_graphs_are_counted():
    compiled = []
    torch._dynamo.reset()
    add = torch.compile(lambda x: x + 1, backend=compiling.counting('eager', compiled))
    for size in (2, 2, 3):
        assert add(torch.zeros(size)).sum() == size
    assert len(compiled) == 2  # the second has a size that varies
    steps = [(0, 9.0, 5), (0, 2.0, 7), (0, 1.0, 7), (1, 8.0, 9)]
    assert compiling.split(steps, 0) == (steps[:2], steps[2:3])
    torch._dynamo.reset()


@pytest.fixture
def deterministic():
    """What is asked of torch there is not asked of the tests that follow."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def test_resuming(found, deterministic):
    rows = rows_of('resume', found)
    assert [(row['family'], row['view'], row['after']) for row in rows] == [
        ('swin', 'crop', 13),
        ('swin', 'scale', 13),
    ]
    assert all(row['ok'] for row in rows), rows
    assert torch.are_deterministic_algorithms_enabled()
    # Without determinism the same rows say what was found, and fail nothing.
    found['resume_as_ever'] = [
        {**{k: v for k, v in row.items() if k != 'ok'}, 'same': False} for row in rows
    ]


def test_one_process_of_a_launcher(found):
    """In a process of its own: it has a process group and its variables."""
    part = run_part(gpu.PARTS['nccl'], 'cpu', TINY, 120, Path(os.devnull))
    found['nccl'] = part['rows']
    (row,) = part['rows']
    assert part['ok'] and row['backend'] == 'gloo' and row['after'] == 13, part
    assert row['model'] == 'MMDistributedDataParallel'


# The parts.


def work(*actions):
    """The work of a part: rows, and what else it does."""

    def run(device, size):
        for action in actions:
            if callable(action):
                action()
            else:
                yield action

    return run


def fail():
    raise ValueError('no such kernel')


@pytest.mark.parametrize(
    'actions, ok, error',
    [
        ([dict(a=1), dict(a=2, ok=True)], True, None),
        ([dict(a=1), dict(a=2, ok=False)], False, None),
        ([dict(a=1), dict(a=2), fail], False, 'ValueError: no such kernel\n'),
        ([dict(a=1), dict(a=2), lambda: os._exit(3)], False, 'its process ended with exit code 3'),
        ([dict(a=1), dict(a=2), lambda: time.sleep(99)], False, 'stopped after 1 s'),
    ],
)
def test_a_part_ends_as_it_may(tmp_path, actions, ok, error):
    """Its rows are kept, whatever ends it."""
    log = tmp_path / 'log.txt'
    part = Part('a part', work(*actions), 60)
    result = run_part(part, 'cpu', TINY, 1 if error and '1 s' in error else 60, log)
    assert [row['a'] for row in result['rows']] == [1, 2]
    assert (result['what'], result['ok']) == ('a part', ok) and result['seconds'] < 30
    if error is None:
        assert result['error'] is None
    else:
        assert result['error'].endswith(error)
    assert ('no such kernel' in log.read_text()) == (fail in actions)


def test_what_a_part_has_started_ends_with_it(tmp_path):
    """As data workers do."""

    def start():
        if not (child := os.fork()):
            time.sleep(99)
            os._exit(0)
        (tmp_path / 'child').write_text(str(child))

    part = Part('a part', work(start, lambda: time.sleep(99)), 60)
    run_part(part, 'cpu', TINY, 1, tmp_path / 'log.txt')
    child = Path('/proc') / (tmp_path / 'child').read_text()
    for _ in range(100):
        if not child.exists() or 'Z (zombie)' in (child / 'status').read_text():
            return
        time.sleep(0.05)
    raise AssertionError('it is still there')


def test_a_part_that_fails_stops_no_other(tmp_path, monkeypatch):
    parts = dict(
        first=Part('first', work(fail), 60),
        second=Part('second', work(dict(a=1)), 60),
        third=Part('third', work(dict(a=1)), 60),
    )
    monkeypatch.setattr(gpu, 'PARTS', parts)
    file = tmp_path / 'results' / 'gpu.json'
    results = gpu.measure(file, ['first', 'second'], 'cpu', TINY, tmp_path / 'logs')
    assert {name: part['ok'] for name, part in results['parts'].items()} == dict(
        first=False, second=True
    )
    assert json.loads(file.read_text()) == results
    assert results['machine']['torch'] == torch.__version__ and results['machine']['cores'] > 0
    assert {path.stem for path in (tmp_path / 'logs').iterdir()} == {'machine', 'first', 'second'}


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capfd):
    """In the processes that a GPU would have, which are started anew."""
    file = tmp_path / 'gpu.json'
    monkeypatch.setattr('sys.argv', ['gpu', str(file), '--logs', str(tmp_path / 'logs')])
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    gpu.main()
    assert 'There is no GPU that torch can use here' in capfd.readouterr().out
    assert not file.exists()


def test_failed_parts_are_the_exit_status(tmp_path, monkeypatch):
    results = dict(parts=dict(laws=dict(ok=True), memory=dict(ok=False)))
    monkeypatch.setattr(gpu, 'measure', lambda *_: results)
    monkeypatch.setattr('sys.argv', ['gpu', 'gpu.json'])
    with pytest.raises(SystemExit, match='failed: memory; see '):
        gpu.main()


def test_all_fits_into_nine_minutes():
    """With a start of half a minute; no part has more time than all have."""
    assert gpu.ALL <= 9 * 60 - 30 and max(part.limit for part in gpu.PARTS.values()) < gpu.ALL


@pytest.mark.parametrize('family', FULL.families)
def test_full_size_is_the_configs_own(family):
    for view in ('crop', 'scale'):
        backbone = FULL.families[family].read(view).model.backbone
        *smaller, whole = MODELS.build({**backbone, 'init_cfg': None}).training_stages
        assert [stage.view for stage in smaller] == [view] * 2 and whole.view == 'whole'


# Step times.


def test_networks_take_their_turn_in_random_order(monkeypatch):
    turns = []

    class Counting(Trainer):
        def __init__(self, name):
            self.name = name

        def step(self):
            turns.append(self.name)
            return float(len(turns))

    times = times_in_turn({name: Counting(name) for name in 'abc'}, rounds=5)
    orders = [''.join(turns[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(order) == list('abc') for order in orders) and len(set(orders)) > 2
    assert times['b'] == [i + 1 for i, name in enumerate(turns) if name == 'b'][1:]
    assert ratio([1.0, 6.0, 10.0], [1.0, 2.0, 5.0]) == 2


# The page.


def test_page_is_what_its_command_writes():
    record = json.loads(RECORD.read_text()) if RECORD.exists() else None
    assert (ROOT / 'docs' / 'gpu.md').read_text() == page.page(record)


def test_page_of_a_record(found):
    """Whatever the parts of this file have found, beside one that failed."""
    parts = {
        name: dict(what=gpu.PARTS[name].what, seconds=1.5, ok=True, error=None, rows=rows)
        for name, rows in found.items()
    }
    parts['laws'] = dict(
        what='laws', seconds=2.0, ok=False, error='stopped after 2 s',
        rows=[dict(case='vit-base', ok=False, broken={'a law': 'other\noutputs | here'})],
    )  # fmt: skip
    machine = dict(gpu='A100', gigabytes=40.0, driver='580.1', cuda='13.0', torch='2.13', cores=16)
    text = page.page(dict(date='2026-11-26', seconds=99.0, machine=machine, parts=parts))
    assert 'A100 (40 GB), driver 580.1, CUDA 13.0, torch 2.13, 16 CPU cores; 99 s in all' in text
    assert '| vit-base | **no** | a law: other outputs / here |' in text
    assert '```text\nstopped after 2 s\n```' in text
    assert text.count('\n## ') == len(parts) and page.NOTES.keys() == gpu.PARTS.keys()
    assert page.COLUMNS.keys() == gpu.PARTS.keys() and 'Not in this record' not in text
    del parts['memory'], parts['compile']
    some = page.page(dict(date='2026-11-26', seconds=9.0, machine=machine, parts=parts))
    assert some.endswith('\n\nNot in this record: memory, compile.\n')
