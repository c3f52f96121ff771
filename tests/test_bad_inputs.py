# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Bad options, flags, files and moments: what is said, and that nothing in the folder suffers."""

import json
import os
import re
import shutil
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, OPTIM_WRAPPER_CONSTRUCTORS

from bvit_mm.running.memory import fits
from bvit_mm.running.rehearsal import measure

from .support.data_sets import Untouched
from .support.files import assert_same_run, content, last_file
from .support.runs import BATCHES, build
from .support.scripts import run_tool
from .support.trainings import log_of, refused
from .support.variants import EVERY_ITERATION, SHORT, SWITCH

ROOT = Path(__file__).parent.parent
DEMO = ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'
ITERATIONS = 3 * BATCHES
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
OUR_SCHEDULER = dict(type='bvit_mm.REXLR')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The work_dir of a run of three epochs that nothing stopped."""
    work_dir = tmp_path_factory.mktemp('whole')
    build(work_dir, **SHORT).train()
    return work_dir


@pytest.fixture
def halfway(whole, tmp_path):
    """The work_dir of such a run that ended after the second epoch."""
    work_dir = tmp_path / 'halfway'
    work_dir.mkdir()
    for name in ('epoch_1.pth', 'epoch_2.pth', 'plan.json'):
        shutil.copy2(whole / name, work_dir)
    os.utime(work_dir / 'epoch_1.pth', (1, 1))  # a copy's times need not be apart
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    return work_dir


# Options of a config.


def loop(**options):
    return {f'train_cfg.{name}': value for name, value in options.items()}


def budget(value, **options):
    return loop(epochs=None, budget=value, **options)


NO_BUDGET = "is not a budget; give a share of the full cost up to 1, .* a time such as '8h'"
NO_TIME = "must be above 0 and finite; give a time such as '8h' or '90min'"
PARTS = "of train_cfg must be 'auto', or a list of 3 whole numbers, at least 1, one for each"
BAD_OPTIONS = [
    (budget('0h'), f"budget='0h' {NO_TIME}"),
    (budget('0min'), f"budget='0min' {NO_TIME}"),
    (budget('0h0min0.0s'), f"budget='0h0min0.0s' {NO_TIME}"),
    (budget('9' * 310 + 'h'), f"9h' {NO_TIME}"),
    *(
        (budget(value), f'budget={re.escape(repr(value))} {NO_BUDGET}')
        for value in (
            '-3h',
            '3 hours',
            'h',
            '8 h 8 h',
            '8min8h',
            '8h 30',
            '8d',
            '1,5h',
            '1.5.2h',
            '1e3h',
            'nan',
            'nanh',
            'inf',
            '',
            ' ',
            [],
            ['8h'],
            b'8h',
            10**400,
        )
    ),
    (budget(True), f'budget=True {NO_BUDGET}'),
    (budget(None), 'give a budget, or epochs to state a schedule'),
    (
        loop(budget='8h'),
        r"budget='8h' and epochs=\[2, 2, 2\] are both given; give one of them and set the other",
    ),
    (loop(budget='8h', epochs=3), "budget='8h' and epochs=3 are both given; give one of them"),
    (
        budget('8h', max_epochs=5),
        "budget='8h' is spent to the end, whatever the epochs; give max_epochs=5 with a budget in",
    ),
    (
        budget('8h', schedule='epochs'),
        "schedule='epochs' needs to know how many epochs .* give schedule='budget', or a budget in",
    ),
    (budget('8h', full_epochs=0), 'full_epochs=0 must be a whole number of epochs, at least 1'),
    (budget('8h', full_epochs=-1), 'full_epochs=-1 must be a whole number of epochs, at least 1'),
    (budget('8h', full_epochs='x'), "full_epochs='x' must be a whole number of epochs, at least"),
    (budget('8h', alpha='x'), "alpha='x' must be a finite number; the paper uses 2.0"),
    (budget('8h', alpha=float('nan')), 'alpha=nan must be a finite number; the paper uses 2.0'),
    (budget('8h', seed=1.5), 'seed=1.5 must be a whole number'),
    (budget('8h', seed=None), 'seed=None must be a whole number'),
    (budget('8h', family='cosine'), "family='cosine' is not known; give one of .*'linear_up'"),
    (budget('8h', family=['linear_up']), r"family=\['linear_up'\] is not known; give one of"),
    (loop(bugdet=0.5), 'train_cfg has bugdet=0.5, which is not known; give budget, full_epochs'),
    (loop(epochs=3), 'epochs=3 must be a list of 3 numbers, one for each training stage'),
    (loop(schedule='hours'), r"schedule='hours' is not known; give one of \('epochs', 'budget'\)"),
    (loop(schedule=True), r"schedule=True is not known; give one of \('epochs', 'budget'\)"),
    (loop(schedule=''), r"schedule='' is not known; give one of \('epochs', 'budget'\)"),
    *(
        (
            loop(accumulative_counts=value),
            f'accumulative_counts={re.escape(repr(value))} {PARTS} training stage .the optimizer',
        )
        for value in (
            [],
            [1, 1],
            [1, 1, 1, 1],
            [1, 0, 1],
            [1, -2, 1],
            [1, 1.5, 1],
            [1, 1, True],
            [1, 1, None],
            ['1', '1', '1'],
            'many',
            'AUTO',
            '1,1,1',
            True,
            False,
            0,
            4,
            2.0,
        )
    ),
    (loop(val_interval=0), 'val_interval=0 of train_cfg must be a whole number .*, at least 1'),
    (loop(val_interval='x'), "val_interval='x' of train_cfg must be a whole number of epochs"),
    (budget('8h', val_interval=0), 'val_interval=0 of train_cfg must be .* above the number of'),
    (loop(val_begin='x'), "val_begin='x' of train_cfg must be a whole number of epochs"),
    (
        {'param_scheduler': [OUR_SCHEDULER, dict(type='ConstantLR', begin=7, end=9)]},
        r'the plan has 6 epochs \[2, 2, 2\], but the scheduler ConstantLR begins at epoch 7; raise',
    ),
    (
        {'param_scheduler': [dict(type='bvit_mm.REXLR', begin='3')]},
        "begin='3' of the scheduler bvit_mm.REXLR must be a whole number of epochs",
    ),
    (
        {'param_scheduler': [dict(type='bvit_mm.REXLR', begin=None)]},
        'begin=None of the scheduler bvit_mm.REXLR must be a whole number of epochs',
    ),
]


@pytest.mark.parametrize('changes, message', BAD_OPTIONS)
def test_bad_options(tmp_path, changes, message):
    """Refused before data is read; someone's files in the folder stay as they are."""
    DATASETS.register_module(name='Untouched', module=Untouched, force=True)
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / 'epoch_1.pth').write_bytes(b'an older run of another program')
    refused(tmp_path, message, **{**changes, 'train_dataloader.dataset.type': 'Untouched'})


def test_parts_for_several_optimizers(tmp_path):
    two = dict(
        _delete_=True,
        constructor='TwoOptimizers',
        backbone=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        head=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
    )
    changes = {'optim_wrapper': two, 'param_scheduler': None}

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='TwoOptimizers', force=True)
    class TwoOptimizers:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            self.cfg = optim_wrapper_cfg

        def __call__(self, model):
            parts = {name: getattr(model, name) for name in ('backbone', 'head')}
            return OptimWrapperDict(
                **{name: build_optim_wrapper(part, self.cfg[name]) for name, part in parts.items()}
            )

    for counts, shown in (([1, 1, 2], r'\[1, 1, 2\]'), ('auto', 'auto')):
        message = (
            f'accumulative_counts={shown} of train_cfg divides batches for one optimizer, but '
            'there are several; leave it out'
        )
        refused(tmp_path, message, **changes, **loop(accumulative_counts=counts))


def test_more_parts_than_samples_train_one_by_one(tmp_path):
    """It was taken for a lack of memory, because nothing was tried."""
    runner = build(tmp_path, **SHORT, **loop(accumulative_counts=[1, 1, 1000]))
    runner.train()
    assert runner.iter == ITERATIONS


def test_epoch_without_an_iteration(tmp_path):
    changes = {'train_dataloader.batch_size': 50, 'train_dataloader.drop_last': True}
    message = 'an epoch of train_dataloader has no iteration; give more data, a smaller train_data'
    refused(tmp_path, message, **changes)


@pytest.mark.parametrize('seconds', ['0.001s', '0.05s', '0.00001min'])
def test_hours_that_are_too_few(tmp_path, seconds):
    """Found after timing; the number of seconds to give is one that would do."""
    refused(
        tmp_path,
        rf"budget='{seconds}' leaves \S+ s for training here, but one epoch of each training stage "
        r"takes \S+ s \(\S+ s, \S+ s, \S+ s\); give at least '\d+s'",
        **budget(seconds),
    )


@pytest.mark.parametrize('begin', [250, 299])
def test_scheduler_that_begins_after_what_was_timed(tmp_path, begin):
    """The plan until then has 300 epochs or more, the machine trains a few of them."""
    schedulers = [OUR_SCHEDULER, dict(type='ConstantLR', begin=begin, end=1000)]
    message = rf'the plan has \d+ epochs .*, but the scheduler ConstantLR begins at epoch {begin};'
    changes = {**budget('1.5s'), **NO_VALIDATION, 'param_scheduler': schedulers}
    refused(tmp_path, message, **changes)


# Flags of tools/plan.py.


@pytest.fixture
def plan_here(monkeypatch, tmp_path):
    """Runs tools/plan.py in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_tool, 'plan', DEMO)


BAD_FLAGS = [
    (['--hours', '0'], '--hours 0.0 must be above 0 and finite; give 8, or 0.5'),
    (['--hours', '-1'], '--hours -1.0 must be above 0 and finite; give 8, or 0.5'),
    (['--hours', 'nan'], '--hours nan must be above 0 and finite; give 8, or 0.5'),
    (['--hours', 'inf'], '--hours inf must be above 0 and finite; give 8, or 0.5'),
    (['--hours', '1e400'], '--hours inf must be above 0 and finite; give 8, or 0.5'),
    (['--hours', 'x'], "argument --hours: invalid float value: 'x'"),
    (['--hours', '8h'], "argument --hours: invalid float value: '8h'"),
    (['--hours'], 'argument --hours: expected one argument'),
    (['--hours', '1', '--budget', '0.5'], 'argument --budget: not allowed with argument --hours'),
    (['--budget', '8h', '--hours', '1'], 'argument --hours: not allowed with argument --budget'),
    (['--hours', '1', '--epochs', '1,1,1'], 'argument --epochs: not allowed with argument --hours'),
    (['--hours', '1', '--launcher', 'ssh'], "argument --launcher: invalid choice: 'ssh'"),
    (
        ['--hours', '1'],
        "'data/digits/train/'; a budget in hours is timed with the training data: say where it is",
    ),
    (
        ['--budget', '90min', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'],
        "'nowhere/'; a budget in hours is timed with the training data: say where it is, with "
        '--cfg-options train_dataloader.dataset.data_root=...',
    ),
    (
        ['--hours', '1', '--cfg-options', 'train_cfg.schedule=epochs'],
        "a budget in hours does not; give schedule='budget', or a budget in GFLOPs",
    ),
    (
        ['--hours', '1', '--cfg-options', 'train_cfg.max_epochs=5'],
        "budget='3600s' is spent to the end, whatever the epochs; give max_epochs=5 with a budget",
    ),
    (
        ['--hours', '1', '--cfg-options', 'train_cfg.accumulative_counts=[1,1]'],
        'accumulative_counts=[1, 1] of train_cfg must be',
    ),
    (['--budget', '0h'], "budget='0h' must be above 0 and finite; give a time such as '8h'"),
    (['--budget', '8 hours'], "budget='8 hours' is not a budget; give a share of the full cost"),
    (['--budget', '1e999'], "budget='1e999' is not a budget; give a share of the full cost"),
    (['--epochs', '1,1,-1'], 'epochs=[1, 1, -1] must be whole numbers, at least 0'),
    (['--alpha', 'nan'], 'alpha=nan must be a finite number; the paper uses 2.0'),
    (['--seed', '1.5'], "argument --seed: invalid int value: '1.5'"),
    (['--cfg-options', 'train_cfg.bugdet=1'], 'train_cfg has bugdet=1, which is not known; give'),
    (['--plot', '.'], '--plot . is a folder; give a file in it, such as plan.png'),
]


@pytest.mark.parametrize('flags, message', BAD_FLAGS)
def test_bad_flags_of_plan(plan_here, capsys, tmp_path, flags, message):
    with pytest.raises(SystemExit) as stop:
        plan_here(*flags)
    assert stop.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'picture, reason',
    [('notes.txt/plan.png', 'File exists|Not a directory'), ('a.txt', "'txt' is")],
)
def test_plan_that_cannot_be_drawn(plan_here, tmp_path, picture, reason):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(SystemExit, match=rf'--plot {picture} cannot be drawn: .*({reason})'):
        plan_here('--plot', picture)
    assert content(tmp_path) == {'notes.txt': b'mine'}


@pytest.mark.parametrize('option', ['schedule=budget', 'accumulative_counts=auto'])
def test_plan_takes_every_option_of_the_loop(plan_here, capsys, option):
    plan_here('--cfg-options', f'train_cfg.{option}')
    assert 'of the full cost' in capsys.readouterr().out


# Files to resume from.


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


# Signals at bad moments.


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Sends this process signals at a moment, at the given call of it."""

    priority = 'LOWEST'

    def __init__(self, moment, call, signals):
        self.calls = 0

        def send(*args, **kwargs):
            self.calls += 1
            if self.calls == call:
                for each in signals:
                    os.kill(os.getpid(), each)

        setattr(self, moment, send)


TERM, INT = signal.SIGTERM, signal.SIGINT
MOMENTS = {  # of the hook, the call of it, the signals, and the iterations that are saved
    'at once': ('before_train', 1, [TERM], 0),
    'first iteration': ('before_train_iter', 1, [INT], 1),
    'first iteration, after it': ('after_train_iter', 1, [TERM], 1),
    'two in a row': ('after_train_iter', 7, [TERM, INT], 7),
    'the other two': ('after_train_iter', 7, [INT, TERM], 7),
    'three of a kind': ('before_train_iter', 8, [INT, INT, INT], 8),
    'last of an epoch': ('after_train_iter', BATCHES, [TERM], BATCHES),
    'first of a stage': ('before_train_iter', BATCHES + 1, [TERM], BATCHES + 1),
    'between epochs': ('after_train_epoch', 1, [TERM], BATCHES),
    'before validation': ('before_val', 1, [INT], BATCHES),
    'in validation': ('after_val_iter', BATCHES + 2, [TERM], 2 * BATCHES),
    'after validation': ('after_val', 2, [TERM], 2 * BATCHES),
    'while saving': ('before_save_checkpoint', 1, [TERM], BATCHES),
    'while saving the next': ('before_save_checkpoint', 3, [INT, TERM], 2 * BATCHES),
    'last iteration but one': ('before_train_iter', ITERATIONS - 1, [TERM], ITERATIONS - 1),
}


def with_signal(moment, call, signals):
    hook = dict(type='SignalHook', moment=moment, call=call, signals=[int(s) for s in signals])
    return {**SHORT, 'custom_hooks': [SWITCH, hook]}


def is_interrupted(work_dir, runner, number, iterations):
    """Trains until a signal, and finds whole what it left."""
    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 128 + number
    assert [signal.getsignal(each) for each in (TERM, INT)] == handlers
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'interrupted.pth')
    assert not list(work_dir.glob('*.partial'))
    saved = last_file(work_dir)
    assert (
        saved['meta']['iter'] == iterations == sum(saved['meta']['bvit_mm']['ledger']['iterations'])
    )
    assert f'stopped by signal {number} in epoch ' in log_of(runner)
    assert 'from which --resume goes on' in log_of(runner)


@pytest.mark.parametrize('name', MOMENTS)
def test_signal(whole, tmp_path, name):
    """The iteration is finished, a checkpoint saved; resumed, the run is as if never stopped."""
    moment, call, signals, iterations = MOMENTS[name]
    runner = build(tmp_path, **with_signal(moment, call, signals))
    is_interrupted(tmp_path, runner, signals[0], iterations)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


@pytest.mark.parametrize('number', [TERM, INT])
def test_signal_in_the_rehearsal(whole, tmp_path, monkeypatch, number):
    """The handlers stand by then; nothing was trained, and that is saved."""

    def interrupted(*args):
        os.kill(os.getpid(), number)
        return fits(*args)

    monkeypatch.setattr('bvit_mm.running.memory.fits', interrupted)
    is_interrupted(tmp_path, build(tmp_path, **SHORT), number, 0)
    monkeypatch.undo()
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_signal_while_hours_are_timed(tmp_path, monkeypatch):
    """The resumed run keeps what was timed and spent."""

    def interrupted(*args):
        os.kill(os.getpid(), TERM)
        return measure(*args)

    monkeypatch.setattr('bvit_mm.running.rehearsal.measure', interrupted)
    changes = {**budget('1.5s'), **NO_VALIDATION, 'default_hooks.checkpoint.interval': 1000}
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 0)
    saved = last_file(tmp_path)['meta']['bvit_mm']
    monkeypatch.setattr(
        'bvit_mm.running.rehearsal.measure', lambda *_: pytest.fail('it was timed again')
    )
    runner = build(tmp_path, **changes, resume=True)
    runner.train()
    assert runner.iter > 0
    assert runner.train_loop.ledger.elapsed > saved['ledger']['other']['rehearsal'] > 0


def test_signal_while_another_checkpoint_is_interrupted(whole, tmp_path):
    """A second one while the first is being served does not leave half a file."""
    hook = dict(type='SignalHook', moment='before_save_checkpoint', call=1, signals=[int(INT)])
    changes = with_signal('after_train_iter', 3, [TERM])
    changes['custom_hooks'] = [*changes['custom_hooks'], hook]
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 3)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_interrupted_again_and_again(whole, tmp_path):
    """Each time a little further, at last to the same end."""
    for iterations, call in ((2, 2), (4, 2), (6, 2), (11, 5)):
        changes = with_signal('after_train_iter', call, [TERM])
        is_interrupted(tmp_path, build(tmp_path, **changes, resume=True), TERM, iterations)
    build(tmp_path, **SHORT, resume=True).train()
    assert_same_run(last_file(tmp_path), last_file(whole))


@pytest.mark.parametrize(
    'moment, call',
    [
        ('before_train_iter', ITERATIONS),
        ('after_train_iter', ITERATIONS),
        ('after_train_epoch', 3),
        ('after_val_iter', ITERATIONS),
        ('after_train', 1),
    ],
)
def test_signal_when_nothing_is_left_to_train(whole, tmp_path, moment, call):
    """The run ends as ever: its last checkpoint is there already, or about to be."""
    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    runner = build(tmp_path, **with_signal(moment, call, [TERM, INT]))
    runner.train()
    assert [signal.getsignal(each) for each in (TERM, INT)] == handlers
    assert not (tmp_path / 'interrupted.pth').exists()
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_outside_the_main_thread(whole, tmp_path):
    """Python allows no handlers there, so none are set, and training works."""
    seen, problems = [], []

    @HOOKS.register_module(force=True)
    class SeeHandlersHook(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append([signal.getsignal(each) for each in (TERM, INT)])

    def train():
        try:
            build(tmp_path, **SHORT, custom_hooks=[SWITCH, dict(type='SeeHandlersHook')]).train()
        except BaseException as error:
            problems.append(error)

    handlers = [signal.getsignal(each) for each in (TERM, INT)]
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not problems
    assert seen == [handlers] * ITERATIONS
    assert_same_run(last_file(tmp_path), last_file(whole))


def test_signal_with_a_checkpoint_each_iteration(tmp_path):
    """interrupted.pth is the newer of two files of the same iteration, and the one noted."""
    changes = {**with_signal('before_save_checkpoint', 4, [TERM]), **EVERY_ITERATION}
    is_interrupted(tmp_path, build(tmp_path, **changes), TERM, 4)
    assert (tmp_path / 'iter_4.pth').exists()
