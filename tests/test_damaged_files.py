# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Checkpoints and plans that were cut, changed or lost: what a resumed run does with them."""

import json
import re

import pytest
import torch

from .support.files import assert_same_run, content, last_file
from .support.runs import build
from .support.short_runs import budget, loop
from .support.trainings import refused
from .support.variants import SHORT


def note(text):
    """Changes what last_checkpoint says."""

    def damage(folder):
        path = folder / 'last_checkpoint'
        path.write_bytes(text if isinstance(text, bytes) else text(folder).encode())

    return damage


def note_of_a_text_file(folder):
    (folder / 'notes.txt').write_text('no checkpoint')
    (folder / 'last_checkpoint').write_text(str(folder / 'notes.txt'))


def cut(size):
    """Leaves the first bytes of the last checkpoint, or all but the last."""

    def damage(folder):
        file = folder / 'epoch_2.pth'
        file.write_bytes(file.read_bytes()[:size])

    return damage


def flip(share):
    """Changes one bit of the last checkpoint, at a share of its length."""

    def damage(folder):
        data = bytearray((folder / 'epoch_2.pth').read_bytes())
        data[int(share * len(data))] ^= 1
        (folder / 'epoch_2.pth').write_bytes(data)

    return damage


def save(value):
    return lambda folder: torch.save(value, folder / 'epoch_2.pth')


def edit(change):
    """Changes what the last checkpoint holds."""

    def damage(folder):
        file = folder / 'epoch_2.pth'
        checkpoint = torch.load(file, weights_only=False)
        change(checkpoint)
        torch.save(checkpoint, file)

    return damage


OLDER = 'epoch_1.pth'


NEWER = 'epoch_2.pth'


DAMAGED = {  # what is said of it, and the checkpoint that the run goes on from
    'note is empty': (note(b''), 'last_checkpoint is empty', NEWER),
    'note is blank': (note(b' \n'), 'last_checkpoint is empty', NEWER),
    'note of nothing': (
        note(lambda f: '/nowhere/epoch_9.pth'),
        'epoch_9.pth does not exist',
        NEWER,
    ),
    'note of nothing here': (note(lambda f: str(f / 'a.pth')), 'a.pth does not exist', NEWER),
    'note of a folder': (note(str), 'halfway does not exist', NEWER),
    'note of a text file': (note_of_a_text_file, r'notes.txt cannot be read as a check', NEWER),
    'note is no text': (note(b'\xff\xfe\x00'), 'last_checkpoint cannot be read', NEWER),
    'note is too long': (note(b'x' * 5000), 'last_checkpoint cannot be read', NEWER),
    **{
        f'cut to {size}': (cut(size), 'epoch_2.pth cannot be read as a checkpoint', OLDER)
        for size in (0, 1, 4, 100, 3000, -1, -100, -5000)
    },
    **{
        f'flipped at {share}': (flip(share), f'epoch_2.pth {reason}', OLDER)
        for share, reason in ((0, ''), (0.3, 'is damaged'), (0.5, 'is damaged'), (0.999, ''))
    },
    'a list': (save([1, 2]), 'epoch_2.pth holds a list, no checkpoint', OLDER),
    'None': (save(None), 'epoch_2.pth holds a NoneType, no checkpoint', OLDER),
    'a tensor': (save(torch.zeros(3)), 'epoch_2.pth holds a Tensor, no checkpoint', OLDER),
    'empty': (save({}), 'epoch_2.pth holds a dict, no checkpoint', OLDER),
    'no weights': (edit(lambda c: c.pop('state_dict')), 'epoch_2.pth is no checkpoint', OLDER),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_resume_goes_on_from_what_is_whole(whole, halfway, name):
    damage, message, used = DAMAGED[name]
    damage(halfway)
    kept = {key: value for key, value in content(halfway).items() if key in (used, 'notes.txt')}
    changes = {**SHORT, 'default_hooks.checkpoint.interval': 3}  # writes the last one only
    runner = build(halfway, **changes, resume=True)
    runner.train()
    assert_same_run(last_file(halfway), last_file(whole))
    assert runner._load_from == str(halfway / used)
    (log,) = halfway.glob('*/*.log')
    pattern = rf'{message}.*Going on from \S*{re.escape(used)}, which is whole'
    assert re.search(pattern, log.read_text(), re.DOTALL)
    assert kept.items() <= content(halfway).items()


@pytest.mark.parametrize('size', [0, 100, -100])
def test_resume_without_any_whole_checkpoint(halfway, size):
    for name in (OLDER, NEWER):
        (halfway / name).write_bytes((halfway / name).read_bytes()[:size])
    message = (
        r'halfway has no checkpoint that is whole: .*epoch_2\.pth .*epoch_1\.pth .*'
        r'Name one that is \(--resume FILE\), or train without resume in another work_dir'
    )
    refused(halfway, message, **SHORT, resume=True)


def test_resume_when_the_last_checkpoint_was_removed(halfway):
    """mmengine would look for it and stop with its own words."""
    (halfway / OLDER).unlink()
    (halfway / NEWER).unlink()
    message = r'has no checkpoint that is whole: \S*epoch_2\.pth does not exist\. Name one that'
    refused(halfway, message, **SHORT, resume=True)


def test_resume_when_the_note_is_a_folder(halfway):
    """An epoch would be trained before mmengine could not write its note."""
    (halfway / 'last_checkpoint').unlink()
    (halfway / 'last_checkpoint').mkdir()
    message = 'last_checkpoint is a folder, where the last checkpoint is noted; remove it'
    refused(halfway, message, **SHORT, resume=True)


def at(*keys):
    """Sets, or without a value removes, a place in what the last checkpoint says of its run."""

    def change(*value):
        def set_(checkpoint):
            for key in keys[:-1]:
                checkpoint = checkpoint[key]
            if value:
                checkpoint[keys[-1]] = value[0]
            else:
                del checkpoint[keys[-1]]

        return edit(set_)

    return change


OURS = ('meta', 'bvit_mm')


FOREIGN = 'is not of a budgeted run and cannot be resumed; start from its weights with load_from'


LACKS = 'epoch_2.pth is damaged, it lacks the {} of its run; give --resume an earlier one'


NOT_RESUMED = {
    'no meta': (at('meta')(), {}, FOREIGN),
    'meta is None': (at('meta')(None), {}, FOREIGN),
    'meta is a list': (at('meta')([1]), {}, FOREIGN),
    'no budget': (at(*OURS)(), {}, FOREIGN),
    'budget is a list': (at(*OURS)([1]), {}, FOREIGN),
    'published': (
        at(*OURS, 'batches_done')(),
        {},
        'epoch_2.pth is published, without what resuming needs; start from its weights with load_',
    ),
    'no ledger': (
        at(*OURS, 'ledger')(),
        {},
        'epoch_2.pth is of an earlier bvit_mm, which drew .*; finish it with that version, or',
    ),
    'ledger is empty': (at(*OURS, 'ledger')({}), {}, LACKS.format('ledger')),
    'no plan': (at(*OURS, 'plan')(), {}, LACKS.format('plan')),
    'plan is a list': (at(*OURS, 'plan')([]), {}, LACKS.format('plan')),
    'plan without stages': (at(*OURS, 'plan')({}), {}, LACKS.format('plan')),
    'no epoch': (at('meta', 'epoch')(), {}, LACKS.format('epoch')),
    'no iteration': (at('meta', 'iter')(), {}, LACKS.format('iter')),
    'hours without a pace': (
        at(*OURS, 'plan', 'seconds')(3600.0),
        budget('1h'),
        LACKS.format('pace'),
    ),
    'another plan': (
        at(*OURS, 'plan', 'total_epochs')(3),
        loop(epochs=[1, 2, 1]),
        r'epoch_2.pth is of a run with another plan: epochs=\[1, 1, 1\] at .* give another work_',
    ),
    'epochs as hours': (
        at(*OURS, 'pace')(None),
        budget('8h'),
        'is of a run with a plan in epochs, and this one has a budget of 28800 s; give another',
    ),
    'hours as epochs': (
        edit(lambda c: c['meta']['bvit_mm'].update(pace={}, plan=hours_of(c, 3600.0))),
        {},
        'is of a run with a budget of 3600 s, and this one has a plan in epochs; give another',
    ),
    'other hours': (
        edit(lambda c: c['meta']['bvit_mm'].update(pace={}, plan=hours_of(c, 3600.0))),
        budget('2h'),
        'is of a run with a budget of 3600 s, and this one has a budget of 7200 s; give another',
    ),
    'other batches': (
        at(*OURS, 'pace')(None),
        {'train_dataloader.batch_size': 2},
        'epoch_2.pth is of a run with 5 iterations of 4 samples an epoch, but this one has '
        '10 iterations of 2 samples .1 processes.; resume with the same data, and with '
        'train_dataloader.batch_size x processes as it was',
    ),
    'other batches, as many': (
        at(*OURS, 'pace')(None),
        {'train_dataloader.batch_size': 2, 'train_dataloader.num_batch_per_epoch': 5},
        'epoch_2.pth is of a run with 5 iterations of 4 samples an epoch, but this one has '
        '5 iterations of 2 samples .1 processes.; resume with the same data',
    ),
}


def hours_of(checkpoint, seconds):
    return {**checkpoint['meta']['bvit_mm']['plan'], 'seconds': seconds}


@pytest.mark.parametrize('name', NOT_RESUMED)
@pytest.mark.parametrize('how', ['resume', 'load_from'])
def test_checkpoint_that_cannot_be_resumed(halfway, name, how):
    """Whole, but of another run: an older one would be of the same, so nobody goes on."""
    damage, changes, message = NOT_RESUMED[name]
    damage(halfway)
    (halfway / 'plan.json').unlink()  # which would be found out before
    changes = {**SHORT, **changes, 'resume': True}
    if how == 'load_from':
        changes['load_from'] = str(halfway / NEWER)
    refused(halfway, message, **changes)


BAD_PLANS = ['', '{', '[]', '[1]', 'null', '3', '"x"', '{}', '{"stages": 3}', '{"stages": [1, 2]}']


BAD_PLANS += ['{"stages": [{"epochs": 1}]}', '{"stages": [{"gflops": 1}]}', b'\xff\xfe', None]


@pytest.mark.parametrize('text', BAD_PLANS)
@pytest.mark.parametrize('resume', [False, True])
def test_damaged_plan_file(halfway, text, resume):
    """None stands for a folder of that name."""
    file = halfway / 'plan.json'
    file.unlink()
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = r'plan\.json is damaged; remove it, or give another work_dir'
    refused(halfway, message, **SHORT, resume=resume)


def test_plan_file_of_other_hours(halfway):
    plan = json.loads((halfway / 'plan.json').read_text())
    (halfway / 'plan.json').write_text(json.dumps({**plan, 'seconds': 60.0}))
    message = (
        'halfway holds a run with a budget of 60 s, and this one has {}; give another work_dir'
    )
    refused(halfway, message.format('a plan in epochs'), **SHORT)
    refused(halfway, message.format('a budget of 28800 s'), **budget('8h'))
