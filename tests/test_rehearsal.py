# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A trial before a run, and a look at the loss, leave all that can be reached as it was.

And law 8 over the same optimizers, losses and samplers: resumed = uninterrupted, or refused.
"""

import queue
import random
import threading
from array import array
from collections import deque
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import MessageHub
from mmengine.registry import DATA_SAMPLERS, DATASETS, MODELS, TRANSFORMS
from mmpretrain.models.losses import CrossEntropyLoss
from torch import nn
from torch.utils.data import Sampler

from bvit_mm import stage_switch_hook as hook_file
from bvit_mm.loop import BudgetedTrainLoop
from bvit_mm.running.rehearsal import rehearsal
from bvit_mm.running.snapshot import unchanged

from .support.files import assert_same_run, last_file
from .support.hooks import Stop
from .support.optimizers import REFUSED, SERVED
from .support.piped_data import OTHER, PIPED, SMOOTH
from .support.reachable import changes_since, fingerprint
from .support.runs import TinyDataset, build
from .support.variants import SWITCH

# An epoch of two batches: 20 images by 10.
SHORT = {
    'train_cfg.epochs': [1, 1, 1],
    'train_dataloader.batch_size': 10,
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'custom_hooks': [SWITCH],
    'default_hooks.logger': dict(type='LoggerHook', interval=100),
}


def random_states():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        np.random.get_state()[1].tolist(),
    )


def everything(runner):
    """What a run reaches, but for its loop, which books the time, and what draws pictures."""
    loaders = [runner.train_dataloader]
    if runner.val_loop is not None:
        loaders.append(runner.val_loop.dataloader)
    drawing = [(each.sampler, each.batch_sampler, each.dataset) for each in loaders]
    hooks = [vars(hook) for hook in runner.hooks]
    parts = runner.model, runner.optim_wrapper, runner.param_schedulers, runner.message_hub
    return *parts, drawing, hooks


@pytest.fixture
def watched(monkeypatch):
    """What changes during each trial and each look at the loss, of all that a run reaches."""
    seen = []

    def watch(function, runner, *args):
        states = random_states()
        loop = runner.train_loop
        before = fingerprint(*everything(runner), without=[runner, runner.visualizer, loop])
        result = function(*args)
        assert random_states() == states
        assert len(before) > 500
        seen.append(changes_since(before))
        return result

    rehearse, loss = BudgetedTrainLoop.rehearse, hook_file._loss
    monkeypatch.setattr(
        BudgetedTrainLoop, 'rehearse', lambda self: watch(rehearse, self.runner, self)
    )
    monkeypatch.setattr(
        hook_file, '_loss', lambda runner, *args: watch(loss, runner, runner, *args)
    )
    return seen


def check(work_dir, watched, epochs=(1, 2), **changes):
    """Nothing changes in a trial and four looks; resumed after ``epochs`` it is the same run."""
    changes = {**SHORT, **changes}
    build(work_dir / 'whole', **changes).train()
    assert watched == [[]] * 5
    for epoch in epochs:
        file = work_dir / 'whole' / f'epoch_{epoch}.pth'
        build(work_dir / str(epoch), **changes, resume=True, load_from=str(file)).train()
        assert_same_run(last_file(work_dir / str(epoch)), last_file(work_dir / 'whole'))
    assert not any(watched)


@pytest.mark.parametrize('name', SERVED)
def test_optimizers(tmp_path, watched, name):
    check(tmp_path, watched, optim_wrapper=dict(_delete_=True, optimizer=dict(type=f'Table{name}')))


@pytest.mark.parametrize('name', REFUSED)
def test_refused_optimizers(tmp_path, name):
    _, message = REFUSED[name]
    wrapper = dict(_delete_=True, optimizer=dict(type=f'Table{name}'))
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **SHORT, optim_wrapper=wrapper).train()
    assert not list(tmp_path.glob('*.pth'))


class Counting(CrossEntropyLoss):
    """Counts what it has seen in everything that a module may count in."""

    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
        self.calls, self.last, self.by_class = 0, deque(maxlen=3), {}
        self.grown = torch.zeros(1)

    def forward(self, scores, target, **kwargs):
        self.seen += len(target)
        self.calls += 1
        self.last.append(target.tolist())
        for label in target.tolist():
            self.by_class.setdefault(label, []).append(self.calls)
        self.grown = torch.cat((self.grown, self.grown[-1:] + 1))
        return super().forward(scores, target, **kwargs)


class Queue(CrossEntropyLoss):
    """Writes into a ring of features, and replaces the buffer that says where."""

    def __init__(self):
        super().__init__()
        self.register_buffer('ring', torch.zeros(16, 4))
        self.register_buffer('at', torch.zeros((), dtype=torch.long))

    def forward(self, scores, target, **kwargs):
        places = (torch.arange(len(scores)) + self.at) % len(self.ring)
        self.ring[places] = scores.detach()
        self.at = self.at + len(scores)
        return super().forward(scores, target, **kwargs) * (1 + self.ring.mean().tanh() / 10)


class Drawing(CrossEntropyLoss):
    """Drops losses at random: by its own generators, and by everybody's."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)
        self.legacy, self.modern = np.random.RandomState(1), np.random.default_rng(1)
        self.python = random.Random(1)

    def forward(self, scores, target, **kwargs):
        factor = torch.rand((), generator=self.generator) + torch.rand(())
        factor = factor + self.legacy.rand() + self.modern.random() + self.python.random()
        return super().forward(scores, target, **kwargs) * (factor + np.random.rand())


class Normed(nn.Module):
    """Divides by a running mean of itself, in a module of its own, and logs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(4, affine=False)

    def forward(self, scores, target, **kwargs):
        MessageHub.get_current_instance().update_scalar('train/seen', len(target))
        return nn.functional.cross_entropy(self.inner(scores), target)


class Slotted(CrossEntropyLoss):
    """Keeps a helper that has slots, and a lazily made buffer."""

    class Mean:
        __slots__ = ('count', 'total')

        def __init__(self):
            self.count, self.total = 0, torch.zeros(())

    def __init__(self):
        super().__init__()
        self.mean = self.Mean()

    def forward(self, scores, target, **kwargs):
        loss = super().forward(scores, target, **kwargs)
        self.mean.count += 1
        self.mean.total = self.mean.total + loss.detach()
        if not hasattr(self, 'first'):
            self.register_buffer('first', loss.detach().clone(), persistent=False)
        return loss


for kind in (Counting, Queue, Drawing, Normed, Slotted):
    MODELS.register_module(name=f'{kind.__name__}Loss', module=kind, force=True)

# With whether a checkpoint has all that it keeps, so that a resumed run can equal the whole one.
LOSSES = dict(
    CrossEntropyLoss=({}, True),
    LabelSmoothLoss=(dict(label_smooth_val=0.1, num_classes=4), True),
    SeesawLoss=(dict(num_classes=4), True),
    weighted=(dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0, 0.5]), True),
    QueueLoss=({}, True),
    NormedLoss=({}, True),
    SlottedLoss=({}, True),
    CountingLoss=({}, False),
    DrawingLoss=({}, False),
)


@pytest.mark.parametrize('name', LOSSES)
def test_losses(tmp_path, watched, name):
    options, is_saved = LOSSES[name]
    loss = {'_delete_': True, 'type': name, **options}
    changes = {'model.train_cfg': None, 'model.head.loss': loss}
    check(tmp_path, watched, epochs=(1, 2) if is_saved else (), **changes)


def test_a_loss_counts_each_image_once(tmp_path):
    """mmpretrain's own that counts: 20 images in each of three epochs."""
    loss = dict(_delete_=True, type='SeesawLoss', num_classes=4)
    runner = build(tmp_path, **SHORT, **{'model.train_cfg': None, 'model.head.loss': loss})
    runner.train()
    assert runner.model.head.loss_module.cum_samples.tolist() == [15, 15, 15, 15]


@DATASETS.register_module(force=True)
class TinyBoxes(TinyDataset):
    """What samplers of detectors ask of a data set."""

    def get_data_info(self, index):
        return dict(width=1 + index % 3, height=2)

    def get_cat_ids(self, index):
        return [index % 4]


class Generators(DefaultSampler):
    """Keeps generators of all kinds from epoch to epoch."""

    def __init__(self, dataset, seed=None):
        super().__init__(dataset, seed=seed)
        self.generator = torch.Generator()
        self.legacy, self.modern = np.random.RandomState(1), np.random.default_rng(1)
        self.python = random.Random(1)

    def __iter__(self):
        indices = torch.randperm(len(self.dataset), generator=self.generator).tolist()
        self.python.shuffle(indices)
        for shuffle in (self.legacy.permutation, self.modern.permutation):
            indices = [indices[i] for i in shuffle(len(indices))]
        return iter(indices)


class CountsDraws(DefaultSampler):
    """Remembers how often each sample was drawn."""

    def __init__(self, dataset, seed=None):
        super().__init__(dataset, seed=seed)
        self.drawn = np.zeros(len(dataset), dtype=int)
        self.history = []

    def __iter__(self):
        for index in super().__iter__():
            self.drawn[index] += 1
            self.history.append(index)
            yield index


class Stream(Sampler):
    """An iterator made once, which epochs share."""

    def __init__(self, dataset, seed=None):
        self.dataset = dataset
        self.order = iter(list(range(len(dataset))) * 100)

    def __iter__(self):
        return self.order

    def __len__(self):
        return len(self.dataset)


for kind in (Generators, CountsDraws, Stream):
    DATA_SAMPLERS.register_module(name=f'Table{kind.__name__}', module=kind, force=True)

ASPECT = dict(batch_sampler=dict(type='mmdet.AspectRatioBatchSampler', drop_last=False))
SAMPLERS = dict(
    default=dict(sampler=dict(type='DefaultSampler', shuffle=True)),
    uneven=dict(sampler=dict(type='DefaultSampler', shuffle=True, round_up=False)),
    repeated=dict(sampler=dict(type='RepeatAugSampler')),
    sequential=dict(sampler=dict(type='SequentialSampler')),
    subset=dict(sampler=dict(type='bvit_mm.SubsetSampler', share=0.8)),
    by_class=dict(sampler=dict(type='mmdet.ClassAwareSampler')),
    by_aspect=ASPECT,
    by_aspect_in_workers={**ASPECT, 'num_workers': 1},
    generators=dict(sampler=dict(type='TableGenerators')),
    counting=dict(sampler=dict(type='TableCountsDraws')),
)


@pytest.mark.parametrize('name', SAMPLERS)
def test_samplers(tmp_path, watched, name):
    changes = {f'train_dataloader.{k}': v for k, v in SAMPLERS[name].items()}
    if 'sampler' in SAMPLERS[name]:
        changes['train_dataloader.sampler'] = {'_delete_': True, **SAMPLERS[name]['sampler']}
    changes['train_dataloader.dataset.type'] = 'TinyBoxes'
    check(tmp_path, watched, **changes)


def test_a_sampler_draws_each_sample_once_an_epoch(tmp_path):
    sampler = dict(_delete_=True, type='TableCountsDraws')
    runner = build(tmp_path, **SHORT, **{'train_dataloader.sampler': sampler})
    runner.train()
    assert runner.train_dataloader.sampler.drawn.tolist() == [3] * 20


@pytest.mark.parametrize(
    'kind, place', [('InfiniteSampler', r'\.indices'), ('TableStream', r'\.order')]
)
def test_samplers_that_only_go_forward_are_refused(tmp_path, kind, place):
    sampler = dict(_delete_=True, type=kind)
    message = (
        rf'train_dataloader\.sampler={kind.removeprefix("Table")} keeps an iterator \({place}\) '
        "that goes on from epoch to epoch.* give sampler=dict.type='DefaultSampler'"
    )
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **SHORT, **{'train_dataloader.sampler': sampler}).train()
    assert not list(tmp_path.glob('*.pth')) and not (tmp_path / 'plan.json').exists()


@TRANSFORMS.register_module(force=True)
class CountingTransform:
    """Counts what it has seen, and draws from a generator of its own."""

    def __init__(self):
        self.seen, self.generator = [], np.random.default_rng(1)

    def __call__(self, results):
        self.seen.append(self.generator.integers(9))
        results['img'] = results['img'] // 2 + np.uint8(self.seen[-1])
        return results


COUNTED = [dict(type='CountingTransform'), *OTHER]
RECIPES = [{}, dict(magnitude=2, drop_path_rate=0), dict(train_pipeline=COUNTED, loss=SMOOTH)]


def test_recipes(tmp_path, watched):
    """Pipelines, losses and rates of all stages are as they were, also those not in use."""
    changes = {name: value for name, value in PIPED.items() if not name.startswith('val')}
    changes['train_cfg.accumulative_counts'] = 'auto'
    switch = {**SWITCH, 'recipes': RECIPES}
    check(tmp_path, watched, epochs=(), **changes, custom_hooks=[switch])


HOURS = {
    name: value
    for name, value in {**SHORT, 'train_cfg.epochs': None}.items()
    if name not in ('val_cfg', 'val_dataloader', 'val_evaluator')
}


@pytest.fixture
def trials_of_hours(monkeypatch):
    """What changes during them, of all that a run reaches."""
    seen = []

    @contextmanager
    def watched_rehearsal(runner):
        before = fingerprint(*everything(runner), without=[runner, runner.visualizer])
        with rehearsal(runner):
            yield
        seen.append(changes_since(before))

    monkeypatch.setattr('bvit_mm.running.rehearsal.rehearsal', watched_rehearsal)
    return seen


def test_a_trial_of_hours_leaves_everything_too(tmp_path, trials_of_hours):
    """All stages are timed, and validation; with an optimizer that counts in its groups."""
    wrapper = dict(_delete_=True, optimizer=dict(type='TableLamb'))
    build(tmp_path, **HOURS, **{'train_cfg.budget': '3s'}, optim_wrapper=wrapper).train()
    assert trials_of_hours == [[]]


def test_a_trial_of_hours_with_recipes(tmp_path, trials_of_hours):
    """With workers, which have copies of the data set: its pipeline is put back nevertheless."""
    hooks = [{**SWITCH, 'recipes': RECIPES}, dict(type='StopHook', at=1)]
    changes = {**HOURS, **PIPED, 'train_cfg.budget': '60s', 'train_dataloader.num_workers': 1}
    with pytest.raises(Stop):
        build(tmp_path, **{**changes, 'custom_hooks': hooks}).train()
    assert trials_of_hours == [[]]


class Private:
    """Slots that Python calls otherwise, and one that is empty."""

    __slots__ = ('__count', 'late')

    def __init__(self):
        self.__count = 0

    def write(self):
        self.__count += 1
        self.late = 1


class Tangle:
    """All that Snapshot must keep, and how it is written to."""

    def __init__(self):
        self.base = torch.arange(6.0)
        self.view, self.wide = self.base[2:4], self.base[:1].expand(5)
        self.array, self.objects = np.arange(3), np.array([[1], None], dtype=object)
        self.table, self.names, self.ring = {'a': [1, 2]}, {'x', 'y'}, deque([1, 2], maxlen=2)
        self.bytes, self.codes, self.private = bytearray(b'ab'), array('i', [1]), Private()
        self.scripted = torch.jit.script(nn.BatchNorm1d(2))
        self.parameter = nn.Parameter(torch.ones(2))
        self.parameter.grad = torch.ones(2)
        self.me = self

    def write(self):
        self.base.add_(1)
        self.view = self.view + 5
        self.array += 1
        self.objects[0].append(3)
        self.table['a'].append(3)
        self.table['b'] = 1
        del self.table
        self.names.add('z')
        self.ring.append(3)
        self.bytes[0] = 0
        self.codes.append(2)
        self.private.write()
        self.scripted(torch.ones(3, 2))
        self.parameter.data = torch.zeros(3)
        self.parameter.grad = None
        self.extra = 1

    def values(self):
        private = self.private._Private__count, hasattr(self.private, 'late')
        buffers = [buffer.tolist() for buffer in self.scripted.buffers()]
        return bytes(self.bytes), self.codes.tolist(), *private, buffers


def test_everything_is_put_back_where_it_was():
    tangle = Tangle()
    parts = {name: id(value) for name, value in vars(tangle).items()}
    before, values = fingerprint(tangle), tangle.values()
    with unchanged(tangle):
        tangle.write()
        assert len(changes_since(before)) >= 9
        assert all(a != b for a, b in zip(tangle.values(), values))
    assert not changes_since(before)
    assert tangle.values() == values
    assert {name: id(value) for name, value in vars(tangle).items()} == parts
    assert tangle.base.tolist() == [0, 1, 2, 3, 4, 5] and tangle.view.tolist() == [2, 3]
    assert tangle.table == {'a': [1, 2]} and tangle.parameter.grad.tolist() == [1, 1]


def test_an_error_within_puts_back_too():
    tangle = Tangle()
    before = fingerprint(tangle)
    with pytest.raises(KeyError), unchanged(tangle):
        tangle.write()
        raise KeyError
    assert not changes_since(before)


def test_what_did_not_change_is_not_written(tmp_path):
    """Memory that cannot be written, or a file that others may read."""
    np.save(tmp_path / 'data.npy', np.arange(8.0))
    read_only = torch.from_numpy(np.load(tmp_path / 'data.npy', mmap_mode='r'))
    shared = np.load(tmp_path / 'data.npy', mmap_mode='r+')
    with unchanged([read_only, shared]):
        time = (tmp_path / 'data.npy').stat().st_mtime_ns
    shared.flush()
    assert (tmp_path / 'data.npy').stat().st_mtime_ns == time
    assert read_only.tolist() == list(range(8))


def test_threads_that_wait_are_left_alone():
    waiting, got = queue.Queue(), []
    thread = threading.Thread(target=lambda: got.append(waiting.get(timeout=30)))
    thread.start()
    with unchanged([waiting, thread, random.SystemRandom(), nn.LazyLinear(2)]):
        pass
    waiting.put(1)
    thread.join(timeout=30)
    assert got == [1]


class Numbering(CrossEntropyLoss):
    """Draws numbers from an iterator, which cannot be put back."""

    def __init__(self):
        super().__init__()
        self.numbers = count()

    def forward(self, scores, target, **kwargs):
        next(self.numbers)
        return super().forward(scores, target, **kwargs)


def test_what_cannot_be_put_back_is_not_tried(tmp_path):
    MODELS.register_module(name='NumberingLoss', module=Numbering, force=True)
    changes = {**SHORT, 'model.train_cfg': None}
    changes['model.head.loss'] = dict(_delete_=True, type='NumberingLoss')
    runner = build(tmp_path / 'a', **changes)
    runner.train()
    assert next(runner.model.head.loss_module.numbers) == 3 * 2
    log = '\n'.join(path.read_text() for path in (tmp_path / 'a').glob('*/*.log'))
    place = '.model.head.loss_module.numbers'
    assert f'fits into memory is not tried: {place}' in log
    assert 'training stage 2 of 3 begins' in log and 'loss of one batch' not in log
    hours = {**changes, 'train_cfg.epochs': None, 'train_cfg.budget': '3s'}
    with pytest.raises(ValueError, match=r'loss_module\.numbers is an iterator that has begun'):
        build(tmp_path / 'b', **hours).train()


class OwnNoise(TinyDataset):
    """Draws noise from generators of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generators = np.random.default_rng(1), np.random.default_rng(2)

    def __getitem__(self, index):
        item = super().__getitem__(index)
        item['inputs'] += sum(generator.normal() for generator in self.generators)
        return item


@pytest.mark.parametrize('workers', [0, 1])
def test_data_with_generators_of_its_own(tmp_path, watched, workers):
    DATASETS.register_module(name='OwnNoise', module=OwnNoise, force=True)
    data = {'train_dataloader.dataset.type': 'OwnNoise', 'train_dataloader.num_workers': workers}
    check(tmp_path, watched, **data)
