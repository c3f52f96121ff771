# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Resuming without a file: the newest whole checkpoint, whatever it is called, wherever it lies."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook

from bvit_mm.running.last_checkpoint import _number, check_savers

from .support.files import assert_same_run, content, last_file
from .support.runs import BATCHES, build
from .support.trainings import log_of, refused
from .support.variants import SHORT

TEMPLATE = 'ckpt_{:03d}.pth'
HOOKS = {  # how checkpoints are saved, and the name of the last but one
    'by epoch': (dict(filename_tmpl=TEMPLATE), 'ckpt_002.pth'),
    'by iteration': (
        dict(by_epoch=False, interval=BATCHES, filename_tmpl='it-{}.pt'),
        f'it-{2 * BATCHES}.pt',
    ),
    'braces and brackets': (dict(filename_tmpl='a[{}]{{b}}.pth'), 'a[2]{b}.pth'),
    'in a folder': (dict(filename_tmpl='saved/{}.pth'), 'saved/2.pth'),
    'number alone': (dict(filename_tmpl='{}.pth', save_best='auto'), '2.pth'),
    'out_dir': (dict(out_dir='OUT'), 'epoch_2.pth'),
    'out_dir and a name': (dict(out_dir='OUT', filename_tmpl=TEMPLATE), 'ckpt_002.pth'),
}
NOTES = {
    'empty': lambda note: note.write_text(''),
    'missing': lambda note: note.unlink(),
    'no text': lambda note: note.write_bytes(b'\xff\xfe\x00'),
    'of nothing': lambda note: note.write_text('/nowhere/epoch_9.pth'),
}


def saving(options, tmp_path):
    """Changes of a config whose checkpoints are saved so; files under ``OUT`` lie elsewhere."""
    hook = dict(type='CheckpointHook', interval=1) | options
    if options.get('out_dir') == 'OUT':
        hook['out_dir'] = str(tmp_path / 'out')
    return {**SHORT, 'default_hooks.checkpoint': hook}


def folder(options, tmp_path):
    return tmp_path / 'out' / 'run' if 'out_dir' in options else tmp_path / 'run'


def stopped(options, tmp_path):
    """A run whose last checkpoint is lost; what the last was, and the changes of its config."""
    changes = saving(options, tmp_path)
    build(tmp_path / 'run', **changes).train()
    last = Path((tmp_path / 'run' / 'last_checkpoint').read_text())
    whole = torch.load(last, weights_only=False)
    last.unlink()
    return whole, changes


@pytest.mark.parametrize(
    'kind, note',
    [*((kind, 'missing') for kind in HOOKS), ('out_dir', 'empty')]
    + [('by epoch', note) for note in NOTES if note != 'missing'],
)
def test_newest_checkpoint_is_found(kind, note, tmp_path):
    options, name = HOOKS[kind]
    whole, changes = stopped(options, tmp_path)
    expected = folder(options, tmp_path) / name
    before = content(expected.parent)
    NOTES[note](tmp_path / 'run' / 'last_checkpoint')
    runner = build(tmp_path / 'run', **changes, resume=True)
    runner.train()
    assert Path(runner._load_from) == expected
    assert f'Going on from {expected}, which is whole' in log_of(runner)
    assert_same_run(last_file(tmp_path / 'run'), whole)
    kept = [file for file in before if Path(file).suffix == expected.suffix and 'best' not in file]
    assert len(kept) >= 2
    after = content(expected.parent)
    assert all(after[file] == before[file] for file in kept if not file.startswith('stage_'))


@pytest.mark.parametrize('kind', ['by epoch', 'out_dir and a name'])
def test_moved_folder(kind, tmp_path):
    """The note names a path that is no more; the file of that name is the last all the same."""
    options, name = HOOKS[kind]
    changes = saving(options, tmp_path / 'old')
    build(tmp_path / 'old' / 'run', **changes).train()
    file = folder(options, tmp_path / 'old') / name
    (tmp_path / 'old' / 'run' / 'last_checkpoint').write_text(str(file))
    (tmp_path / 'old').rename(tmp_path / 'new')
    runner = build(tmp_path / 'new' / 'run', **saving(options, tmp_path / 'new'), resume=True)
    runner.train()
    assert Path(runner._load_from) == folder(options, tmp_path / 'new') / name
    assert 'does not exist. Going on from' in log_of(runner)


def test_several_hooks(tmp_path):
    """The newest of all of them, by when it was written."""
    changes = saving(dict(filename_tmpl=TEMPLATE), tmp_path)
    second = dict(
        type='CheckpointHook',
        interval=2,
        by_epoch=False,
        filename_tmpl='i{}.pth',
        out_dir=str(tmp_path / 'out'),
    )
    changes['custom_hooks'] = [dict(type='bvit_mm.StageSwitchHook'), second]
    build(tmp_path / 'run', **changes).train()
    whole = last_file(tmp_path / 'run')
    for last in ('run/ckpt_003.pth', f'out/run/i{3 * BATCHES}.pth'):
        (tmp_path / last).unlink(missing_ok=True)
    (tmp_path / 'run' / 'last_checkpoint').write_text('')
    runner = build(tmp_path / 'run', **changes, resume=True)
    runner.train()
    assert runner._load_from == str(tmp_path / 'out' / 'run' / 'i14.pth')
    assert_same_run(last_file(tmp_path / 'run'), whole)


def test_checkpoints_in_a_store(bucket, tmp_path):
    changes = saving(dict(filename_tmpl=TEMPLATE), tmp_path)
    changes['default_hooks.checkpoint']['out_dir'] = 's3://runs'
    build(tmp_path / 'run', **changes).train()
    saved = bucket / 'runs' / 'run'
    whole = torch.load(saved / 'ckpt_003.pth', weights_only=False)
    (saved / 'ckpt_003.pth').unlink()
    (tmp_path / 'run' / 'last_checkpoint').unlink()
    runner = build(tmp_path / 'run', **changes, resume=True)
    runner.train()
    assert runner._load_from == 's3://runs/run/ckpt_002.pth'
    assert_same_run(torch.load(saved / 'ckpt_003.pth', weights_only=False), whole)


def test_renamed_checkpoints_are_named(tmp_path):
    """Of a run whose config called them otherwise: nothing is trained anew beside them."""
    build(tmp_path / 'run', **saving(dict(filename_tmpl=TEMPLATE), tmp_path)).train()
    (tmp_path / 'run' / 'last_checkpoint').unlink()
    best = tmp_path / 'run' / 'ckpt_003.pth'
    message = (
        rf'no checkpoint that --resume finds, but ckpt_003.pth, .*stage_1.pth of a budgeted run\. '
        rf'Name the one to go on from, such as --resume {re.escape(str(best))}, or train without '
    )
    refused(tmp_path / 'run', message, **SHORT, resume=True)
    runner = build(tmp_path / 'run', **SHORT, resume=True, load_from=str(best))
    runner.train()
    assert runner.iter == 3 * BATCHES


@pytest.mark.parametrize('left', ['stage_2.pth', 'best_accuracy_top1_epoch_*.pth'])
def test_weights_alone_are_named(left, tmp_path):
    """They are not taken by themselves, since they lack the optimizer, nor overwritten."""
    build(tmp_path / 'run', **saving(dict(save_best='auto'), tmp_path)).train()
    (kept,) = (tmp_path / 'run').glob(left)
    for file in [tmp_path / 'run' / 'last_checkpoint', *(tmp_path / 'run').glob('*.pth')]:
        if file != kept:
            file.unlink()
    message = rf'but {kept.name} of a budgeted run.*such as --resume {re.escape(str(kept))}, or'
    refused(tmp_path / 'run', message, **SHORT, resume=True)


def test_damaged_checkpoints_beside_others(tmp_path):
    build(tmp_path / 'run', **SHORT).train()
    for file in (tmp_path / 'run').glob('epoch_*.pth'):
        file.write_bytes(file.read_bytes()[:-100])
    message = r'finds \(.*epoch_3\.pth cannot be read.*\), but stage_2.pth, stage_1.pth of a budg'
    refused(tmp_path / 'run', message, **SHORT, resume=True)


def test_files_of_others_do_not_hinder(tmp_path):
    """Weights to start from may lie in the folder of the run."""
    (tmp_path / 'run').mkdir()
    torch.save(dict(state_dict={}, meta=dict(epoch=3)), tmp_path / 'run' / 'weights.pth')
    shutil.make_archive(str(tmp_path / 'run' / 'data'), 'zip', tmp_path / 'run')
    runner = build(tmp_path / 'run', **SHORT, resume=True)
    runner.train()
    assert runner.iter == 3 * BATCHES


def test_checkpoint_of_another_program(tmp_path):
    (tmp_path / 'run').mkdir()
    torch.save(dict(state_dict={}, meta=dict(epoch=3)), tmp_path / 'run' / 'epoch_3.pth')
    message = r'epoch_3.pth is not of a budgeted run and cannot be resumed'
    refused(tmp_path / 'run', message, **SHORT, resume=True)


def test_checkpoint_of_another_plan(tmp_path):
    build(tmp_path / 'run', **SHORT).train()
    for name in ('plan.json', 'last_checkpoint'):
        (tmp_path / 'run' / name).unlink()
    changes = {'train_cfg.epochs': [1, 1, 2]}
    refused(tmp_path / 'run', 'is of a run with another plan', **changes, resume=True)


def test_hours_are_saved_under_the_name_of_the_hook(tmp_path):
    """They end in the middle of an interval, with a checkpoint that the next session finds."""
    hook = dict(type='CheckpointHook', by_epoch=False, interval=10**6, filename_tmpl='i{:05d}.pth')
    changes = {'train_cfg.epochs': None, 'train_cfg.budget': '3s', 'default_hooks.checkpoint': hook}
    runner = build(tmp_path / 'run', **changes)
    runner.train()
    names = [file.name for file in (tmp_path / 'run').glob('i*.pth')]
    assert f'i{runner.iter:05d}.pth' in names


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize(
    'option, reason',
    [
        (dict(filename_tmpl='{epoch}.pth'), "KeyError: 'epoch'"),
        (dict(filename_tmpl='{:s}.pth'), 'ValueError: Unknown format code'),
        (dict(filename_tmpl='{}-{}.pth'), 'IndexError'),
        (dict(filename_tmpl='{.pth'), 'ValueError'),
        (dict(out_dir='file:///tmp/a'), 'KeyError'),
        (dict(out_dir='http://a/b'), 'AttributeError'),
        (dict(out_dir='a://b://c'), 'ValueError'),
    ],
)
def test_hooks_that_cannot_save(option, reason, resume, tmp_path):
    """Before the first epoch, after which mmengine would find out."""
    ((name, value),) = option.items()
    message = re.escape(f'{name}={value!r} of CheckpointHook') + f'.*{reason}.*; give '
    refused(tmp_path / 'run', message, **saving(option, tmp_path), resume=resume)


def test_looking_at_hooks_makes_nothing(tmp_path):
    hook = CheckpointHook(out_dir=str(tmp_path / 'out'), filename_tmpl='a{:03d}.pth')
    check_savers([hook], tmp_path / 'run')
    assert not list(tmp_path.iterdir()) and hook.out_dir == str(tmp_path / 'out')


@pytest.mark.parametrize(
    'template, name, number',
    [
        ('epoch_{}.pth', 'epoch_12.pth', 12),
        ('epoch_{}.pth', 'epoch_012.pth', None),
        ('epoch_{}.pth', 'epoch_12-1a2b3c4d.pth', None),
        ('epoch_{}.pth', 'best_epoch_12.pth', None),
        ('{:>4}.pth', '  12.pth', 12),
        ('{:03d}.pth', '1234.pth', 1234),
        ('a.{}', 'ab12', None),
        ('interrupted.pth', 'interrupted.pth', 0),
    ],
)
def test_number_in_a_name(template, name, number):
    assert _number(template, name) == number
    if number:
        assert template.format(number) == name
