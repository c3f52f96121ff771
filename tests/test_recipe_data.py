# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 11: what data workers and the model use in training stage k is stage k's recipe.

From the first to the last batch, resumed at any iteration, and after trials; equal recipes are
none, bit for bit.
"""

from itertools import groupby

import numpy as np
import pytest
from mmengine.registry import HOOKS, TRANSFORMS

from bvit_mm.running import memory, rehearsal

from .support.clock import patched_clock
from .support.files import assert_same_run, last_file
from .support.hooks import Stop
from .support.piped_data import (
    EXPECTED,
    OTHER,
    PIPELINE,
    RECIPES,
    made_by,
    of_model,
    piped,
    seen_by,
)
from .support.runs import BATCHES, build
from .support.trainings import log_of, resume, stop_and_resume
from .support.variants import EMA, EVERY_ITERATION, MATCH, SAMPLER, SHORT

STAGES = [(k, *EXPECTED[k]) for k in range(3)]
IN_ORDER = [stage for stage in STAGES for _ in range(BATCHES)]
WORKERS = {
    'none': {},
    'two': dict(num_workers=2),
    'persistent': dict(num_workers=1, persistent_workers=True),
    'started-by-the-user': dict(
        num_workers=1, persistent_workers=True, worker_init_fn=dict(type='start_worker')
    ),
}


def of_loader(options):
    return {f'train_dataloader.{name}': value for name, value in options.items()}


@pytest.mark.parametrize('workers', WORKERS.values(), ids=WORKERS)
def test_each_batch_is_made_and_trained_by_the_recipe_of_its_stage(tmp_path, workers):
    runner = build(tmp_path, **piped(**SHORT, **of_loader(workers)))
    runner.train()
    assert seen_by(runner).seen == IN_ORDER
    assert seen_by(runner).workers == {bool(workers)}
    log = log_of(runner)
    changed = 'magnitude', 'erasing', 'batch_augments', 'drop_path_rate', 'loss'
    assert ', '.join(f'another {name}' for name in ('train_pipeline', *changed)) in log


RESUMED = piped(EMA, **SHORT, **EVERY_ITERATION)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    build(folder, **RESUMED).train()
    return folder


@pytest.mark.parametrize('done', [2, BATCHES, BATCHES + 1, 2 * BATCHES - 1, 2 * BATCHES, 13])
def test_resumed_at_any_iteration(tmp_path, whole, done):
    """Within an epoch, at a border, right after it: data, model and the end (law 8)."""
    file = whole / f'iter_{done}.pth'
    runner = build(tmp_path, **RESUMED, resume=True, load_from=str(file))
    runner.train()
    assert seen_by(runner).seen == IN_ORDER[done:]
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_stopped_and_resumed_with_workers_that_persist(tmp_path):
    changes = piped(**SHORT, **EVERY_ITERATION, **of_loader(WORKERS['persistent']))
    build(tmp_path / 'whole', **changes).train()
    resumed = stop_and_resume(tmp_path / 'resumed', BATCHES + 2, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))


@TRANSFORMS.register_module(force=True)
class OwnNoise:
    """Draws from a generator of its own."""

    def __init__(self, seed=1):
        self.generator = np.random.default_rng(seed)

    def __call__(self, results):
        noise = self.generator.integers(0, 99, results['img'].shape)
        results['img'] = (results['img'] // 2 + noise).astype(np.uint8)
        return results


NOISY = [PIPELINE[0], dict(type='OwnNoise'), *PIPELINE[1:]]


def test_transforms_with_generators_of_their_own(tmp_path):
    """They are seeded by the epoch wherever they come in."""
    recipes = {}, dict(train_pipeline=NOISY), dict(train_pipeline=NOISY, magnitude=3)
    changes = piped(recipes=list(recipes), **EVERY_ITERATION, **{'train_cfg.epochs': [1, 2, 1]})
    build(tmp_path / 'whole', **changes).train()
    for at in (2 * BATCHES + 1, 2 * BATCHES + 3):  # in the second epoch of a stage
        resumed = resume(tmp_path / str(at), tmp_path / 'whole', at, changes)
        assert_same_run(resumed, last_file(tmp_path / 'whole'))


def test_equal_recipes_are_none(tmp_path):
    """Also if they say all that the config says: weights, moments, averages, all that is drawn."""
    same = dict(
        train_pipeline=NOISY,
        magnitude=9,
        erasing=0.25,
        batch_augments=dict(augments=[dict(type='Mixup', alpha=0.8)]),
        drop_path_rate=0.2,
        loss=dict(type='CrossEntropyLoss', use_soft=True),
    )
    data = dict(_delete_=True, type='PipedDataset', pipeline=NOISY)
    for name, recipes in dict(none=None, empty=[{}, {}, {}], stated=[same] * 3).items():
        changes = {**piped(EMA, recipes=recipes, **SHORT), 'train_dataloader.dataset': data}
        build(tmp_path / name, **changes).train()
        assert_same_run(last_file(tmp_path / name), last_file(tmp_path / 'none'))


# Trials.


def test_each_stage_is_timed_with_its_own_recipe(tmp_path, monkeypatch):
    """By workers that persist; then the run begins with the first stage's, here the config's."""
    timed, measure = [], rehearsal.measure

    def watched(runner, step, stage, *args):
        def train(batch):
            timed.append((stage, made_by(batch), *of_model(runner.model)))
            return step(batch)

        return measure(runner, train, stage, *args)

    monkeypatch.setattr(rehearsal, 'measure', watched)
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '60s'}
    hours |= of_loader(WORKERS['started-by-the-user'])
    order = (2, 0, 1)
    stages = [(k, *EXPECTED[n]) for k, n in enumerate(order)]
    recipes = [RECIPES[n] for n in order]
    runner = build(tmp_path, **piped(dict(type='StopHook', at=2), recipes=recipes, **hours))
    with pytest.raises(Stop):
        runner.train()
    assert [each for each, _ in groupby(timed)] == stages
    assert seen_by(runner).seen == [stages[0]] * 2


def test_recipes_follow_stages_whose_lengths_change(tmp_path, monkeypatch):
    """In hours, when the machine gets slower than it was timed."""
    clock = patched_clock(monkeypatch)
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '300s'}
    runner = build(tmp_path, **piped(**hours))
    runner.register_hook(HOOKS.build(dict(type='PassTimeHook', clock=clock, slow=40, factor=1.5)))
    runner.train()
    seen = seen_by(runner).seen
    assert [each for each, _ in groupby(seen)] == STAGES
    epochs = runner.train_loop.ledger.epochs
    assert [len(list(group)) for _, group in groupby(seen)] == [BATCHES * n for n in epochs]


def test_each_stage_is_tried_for_memory_with_its_own_recipe(tmp_path, monkeypatch):
    """Here the last one does not fit whole, so all are tried."""
    tried, fits = [], memory.fits

    def watched(runner, train, batch, stage, parts):
        def spied(model, *args):
            tried.append((stage, made_by(batch), *of_model(model)))
            if stage == 2 and parts == 1:
                raise MemoryError
            return train(model, *args)

        return fits(runner, spied, batch, stage, parts)

    monkeypatch.setattr(memory, 'fits', watched)
    changes = {**piped(**SHORT), 'train_cfg.accumulative_counts': 'auto'}
    runner = build(tmp_path, **changes)
    runner.train()
    assert runner.train_loop.parts.counts == (1, 1, 2)
    order = [each[0] for each in tried]
    assert order[0] == 2 and sorted(set(order)) == [0, 1, 2]
    assert all(each == STAGES[each[0]] for each in tried)
    assert seen_by(runner).seen == IN_ORDER


def test_gradients_are_matched_on_data_of_the_stage_that_follows(tmp_path):
    """A selection at a border is for the epochs after it, so it reads as they do."""
    recipes = [dict(magnitude=0), dict(train_pipeline=OTHER), {}]
    changes = {
        **piped({**MATCH, 'interval': 1}, recipes=recipes, **SHORT),
        'train_dataloader.sampler': SAMPLER,
        'model.train_cfg': None,
        'model.head.loss.use_soft': False,
    }
    runner = build(tmp_path, **changes)
    runner.train()
    read = runner.train_dataloader.dataset.read
    # Of 20 samples 10 are trained on; the first subset is drawn, all are read for the others.
    assert [(told, len(list(group))) for told, group in groupby(read)] == [
        (EXPECTED[2][0].replace('RandAugment 9', 'RandAugment 0'), 10),
        ('Resize, RandomErasing 0.5, PackInputs', 30),
        (EXPECTED[2][0], 30),
    ]
