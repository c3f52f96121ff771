# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 11: what data workers and the model use in training stage k is stage k's recipe.

From the first to the last batch, resumed at any iteration, and after trials; equal recipes are
none, bit for bit.
"""

import gc
from itertools import groupby

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from bvit_mm.running import memory, rehearsal

from .support.files import assert_same_run, last_file
from .support.piped_data import EXPECTED, OTHER, PIPELINE, made_by, of_model, piped, seen_by
from .support.runs import BATCHES, build
from .support.trainings import log_of, stop_and_resume
from .support.variants import EMA, EVERY_ITERATION, MATCH, SAMPLER, SHORT

STAGES = [(k, *EXPECTED[k]) for k in range(3)]
IN_ORDER = [stage for stage in STAGES for _ in range(BATCHES)]
WORKERS = {
    'none': {},
    'two': dict(num_workers=2),
    'persistent': dict(num_workers=2, persistent_workers=True),
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


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Runs that were never stopped."""
    done = {}

    def file(**changes):
        key = repr(changes)
        if key not in done:
            folder = tmp_path_factory.mktemp('whole')
            build(folder, **changes).train()
            done[key] = folder
        return last_file(done[key])

    return file


@pytest.mark.parametrize('at', [3, BATCHES, BATCHES + 1, 2 * BATCHES - 1, 2 * BATCHES, 12])
def test_resumed_at_any_iteration(tmp_path, whole, at):
    """Within an epoch, at a border, right after it: data, model and the end (law 8)."""
    changes = piped(EMA, **SHORT, **EVERY_ITERATION)
    resumed = stop_and_resume(tmp_path, at, changes)
    assert_same_run(resumed, whole(**changes))


def test_resumed_with_workers_that_persist(tmp_path, whole):
    changes = piped(**SHORT, **EVERY_ITERATION, **of_loader(WORKERS['persistent']))
    assert_same_run(stop_and_resume(tmp_path, BATCHES + 2, changes), whole(**changes))
    gc.collect()
    runner = build(
        tmp_path / 'again', **changes, resume=True, load_from=str(tmp_path / 'iter_7.pth')
    )
    runner.train()
    assert seen_by(runner).seen == IN_ORDER[7:]


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


@pytest.mark.parametrize('at', [BATCHES + 2, 2 * BATCHES + 1])
def test_transforms_with_generators_of_their_own(tmp_path, whole, at):
    """They are seeded by the epoch wherever they come in."""
    recipes = {}, dict(train_pipeline=NOISY), dict(train_pipeline=NOISY, magnitude=3)
    changes = piped(recipes=list(recipes), **SHORT, **EVERY_ITERATION)
    assert_same_run(stop_and_resume(tmp_path, at, changes), whole(**changes))


@pytest.mark.parametrize('workers', ['none', 'two'])
def test_equal_recipes_are_none(tmp_path, whole, workers):
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
    common = {**SHORT, **of_loader(WORKERS[workers])}
    none, empty, stated = (
        {**piped(EMA, recipes=recipes, **common), 'train_dataloader.dataset': data}
        for recipes in (None, [{}, {}, {}], [same] * 3)
    )
    assert_same_run(whole(**empty), whole(**none))
    assert_same_run(whole(**stated), whole(**none))


# Trials.


def test_each_stage_is_timed_with_its_own_recipe(tmp_path, monkeypatch):
    """By workers that persist; then the run begins with the first stage's."""
    timed, measure = [], rehearsal.measure

    def watched(runner, step, stage, *args):
        def train(batch):
            timed.append((stage, made_by(batch), *of_model(runner.model)))
            return step(batch)

        return measure(runner, train, stage, *args)

    monkeypatch.setattr(rehearsal, 'measure', watched)
    options = of_loader(WORKERS['started-by-the-user'])
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '4s', **options}
    runner = build(tmp_path, **piped(**hours))
    runner.train()
    assert [each for each, _ in groupby(timed)] == STAGES
    seen = seen_by(runner).seen
    assert seen[0] == STAGES[0] and seen[-1] == STAGES[2]
    assert all(each == STAGES[each[0]] for each in seen)


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
