# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 8: stopped and resumed at any iteration = never stopped, bit for bit."""

import json
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .support import runs
from .support.files import assert_same_run, last_file
from .support.fresh import FORKS
from .support.hooks import Stop
from .support.runs import BATCHES, EPOCHS, FAMILIES, build
from .support.trainings import resume, stop_and_resume
from .support.variants import EMA, EVERY_ITERATION, NO_LOGS, ONE_TWO_ONE, SWITCH, VARIANTS

ITERATIONS = sum(EPOCHS) * BATCHES
_, *OTHERS = FAMILIES


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """The last checkpoint of each variant, run once without a stop."""
    folders = {}

    def folder(name, **changes):
        key = (name, json.dumps(changes, sort_keys=True))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(name)
            build(folders[key], **{**VARIANTS[name], **changes, **NO_LOGS}).train()
        return folders[key]

    def of(name, **changes):
        return last_file(folder(name, **changes))

    of.folder = folder
    return of


@pytest.mark.parametrize('name', VARIANTS)
@pytest.mark.parametrize('epoch', [1, 2, 3, 4])
def test_resumed_from_an_epoch(tmp_path, uninterrupted, name, epoch):
    """From what a kill in the next epoch leaves: before (1), at (2, 4) and after (3) a switch."""
    whole = uninterrupted.folder(name)
    last = whole / f'epoch_{epoch}.pth'
    build(tmp_path, **VARIANTS[name], resume=True, load_from=str(last)).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


@pytest.mark.parametrize('name', VARIANTS)
def test_stopped_and_resumed(tmp_path, uninterrupted, name):
    """In one folder, from the checkpoint that mmengine noted last."""
    resumed = stop_and_resume(tmp_path, 2 * BATCHES + 2, VARIANTS[name])
    assert_same_run(resumed, uninterrupted(name))


@pytest.mark.parametrize('name', ['neither', 'both'])
@pytest.mark.parametrize('at', [3, 9, 10, 11, 13, 20, 21, 24])
def test_resumed_in_the_middle_of_an_epoch(tmp_path, uninterrupted, name, at):
    whole = uninterrupted.folder(name, **EVERY_ITERATION)
    resumed = resume(tmp_path, whole, at, {**VARIANTS[name], **EVERY_ITERATION})
    assert_same_run(resumed, last_file(whole))


@pytest.mark.parametrize('family', OTHERS)
@pytest.mark.parametrize('name', VARIANTS)
@pytest.mark.parametrize('at', [4, 6, 8, 12])
def test_other_families_resumed(tmp_path, uninterrupted, family, name, at):
    """From what a kill leaves before (4), at (6) and after (12) a switch, and within an epoch."""
    changes = {**FAMILIES[family], **EVERY_ITERATION, **ONE_TWO_ONE}
    whole = uninterrupted.folder(name, **changes)
    resumed = resume(tmp_path, whole, at, {**VARIANTS[name], **changes})
    assert_same_run(resumed, last_file(whole))


@pytest.mark.parametrize('family', OTHERS)
@pytest.mark.parametrize('moments', ['drop', 'corrected'])
def test_other_families_resumed_in_the_middle_of_an_epoch(tmp_path, uninterrupted, family, moments):
    """At the first iteration of a stage, and two later: new units count their own steps."""
    changes = {**FAMILIES[family], **EVERY_ITERATION, **ONE_TWO_ONE}
    changes['custom_hooks'] = [{**SWITCH, 'moments': moments}, EMA]
    build(tmp_path / 'whole', **changes, **NO_LOGS).train()
    for at in (6, 8):
        resumed = resume(tmp_path / str(at), tmp_path / 'whole', at, changes)
        assert_same_run(resumed, last_file(tmp_path / 'whole'))


def test_resumed_from_the_best_checkpoint(tmp_path):
    """mmengine saves that one after validation, between epochs, and without the optimizer."""
    best = {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, save_best='auto')}
    build(tmp_path, **VARIANTS['both'], **best).train()
    (file,) = tmp_path.glob('best_*.pth')
    meta = torch.load(file, weights_only=False)['meta']
    assert meta['iter'] == meta['epoch'] * BATCHES and meta['bvit_mm']['batches_done'] == 0
    runner = build(tmp_path, **VARIANTS['both'], resume=True, load_from=str(file))
    runner.train()
    assert runner.iter == ITERATIONS
    logs = '\n'.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'the checkpoint to resume has no optimizer state' in logs


@HOOKS.register_module(force=True)
class StopLastValidationHook(Hook):
    def before_val(self, runner):
        if runner.epoch == sum(EPOCHS):
            raise Stop


def test_stopped_in_the_last_validation(tmp_path):
    """Its checkpoint was there already; the resumed run validates it, and says what was spent."""
    changes = {'custom_hooks': [SWITCH, dict(type='StopLastValidationHook')]}
    with pytest.raises(Stop):
        build(tmp_path, **changes).train()
    assert last_file(tmp_path)['meta']['epoch'] == sum(EPOCHS)
    assert not (tmp_path / 'ledger.json').exists()
    runner = build(tmp_path, **VARIANTS['neither'], resume=True)
    runner.train()
    assert runner.iter == ITERATIONS
    (log,) = (tmp_path / runner.timestamp / 'vis_data').glob('scalars.json')
    *_, line = map(json.loads, log.read_text().splitlines())  # both runs, if in one second
    assert line['step'] == sum(EPOCHS) and 0 <= line['accuracy/top1'] <= 100
    ledger = json.loads((tmp_path / 'ledger.json').read_text())
    assert ledger['iterations'] == [n * BATCHES for n in EPOCHS]
    assert (
        ledger['other']['validation']
        > last_file(tmp_path)['meta']['bvit_mm']['ledger']['other']['validation']
    )


@pytest.mark.parametrize('workers', [dict(), dict(persistent_workers=True)])
def test_resumed_with_data_workers(tmp_path, uninterrupted, workers):
    """Augmentation in workers is drawn again, whether or not they persist."""
    changes = {f'train_dataloader.{k}': v for k, v in dict(num_workers=2, **workers).items()}
    resumed = stop_and_resume(tmp_path, 12, {**VARIANTS['neither'], **changes})
    assert_same_run(resumed, uninterrupted('neither', **changes))


def test_resumed_with_a_seed_that_was_drawn(tmp_path):
    """Without a seed in the config, the resumed run takes that of its checkpoint."""
    changes = {**VARIANTS['neither'], 'randomness.seed': None}
    build(tmp_path / 'a', **changes).train()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'last_checkpoint').write_text(str(tmp_path / 'a' / 'epoch_3.pth'))
    build(tmp_path / 'b', **changes, resume=True).train()
    assert_same_run(last_file(tmp_path / 'a'), last_file(tmp_path / 'b'))


def test_epochs_do_not_repeat_augmentation(tmp_path):
    """Two epochs see different noise, although each is seeded by its number."""
    seen = []

    @HOOKS.register_module(force=True)
    class SeeHook(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(sorted(image.sum().item() for image in data_batch['inputs']))

    changes = {'custom_hooks': [SWITCH, dict(type='SeeHook')], 'train_dataloader.num_workers': 2}
    build(tmp_path, **changes).train()
    assert len({tuple(sums) for sums in seen}) == ITERATIONS


def test_killed_at_three_points(tmp_path):
    """kill -9 before, at and after a switch; each time a new process resumes."""

    def train(work_dir, resume, kill_at=None):
        changes = dict(VARIANTS['both'], resume=resume)
        if kill_at:
            changes['custom_hooks'] = [
                *changes['custom_hooks'],
                dict(type='KillHook', at=kill_at),
            ]
        process = FORKS.Process(target=runs.train, args=(work_dir, changes))
        process.start()
        process.join(timeout=300)
        assert process.exitcode == (-signal.SIGKILL if kill_at else 0)

    train(tmp_path / 'whole', resume=False)
    killed = tmp_path / 'killed'
    train(killed, resume=False, kill_at=8)  # in epoch 2, before the switch to stage 2
    train(killed, resume=True, kill_at=11)  # one iteration after the switch
    train(killed, resume=True, kill_at=18)  # in epoch 4, after it
    train(killed, resume=True)
    assert_same_run(last_file(killed), last_file(tmp_path / 'whole'))
