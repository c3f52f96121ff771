# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Options and flags of a run that cannot be: what is said of them, and that nothing is left."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import DATASETS, OPTIM_WRAPPER_CONSTRUCTORS

from .support.data_sets import Untouched
from .support.files import content
from .support.runs import build
from .support.scripts import run_tool
from .support.short_runs import ITERATIONS, NO_VALIDATION, budget, loop
from .support.trainings import refused
from .support.variants import SHORT

ROOT = Path(__file__).parent.parent


DEMO = ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'


OUR_SCHEDULER = dict(type='bvit_mm.REXLR')


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
    (
        budget('8h', shares=[0.2, 0.8]),
        r'shares=\[0.2, 0.8\] must be a list of 3 numbers, one for each training stage',
    ),
    (
        budget('8h', shares=[0.2, 0.4, 0.4], alpha=2.0),
        r'alpha=2.0 and shares=\[0.2, 0.4, 0.4\] are both given, .* set the other to None',
    ),
    (
        loop(shares=[0.2, 0.4, 0.4]),
        r'epochs=\[2, 2, 2\] and shares=\[0.2, 0.4, 0.4\] are both given',
    ),
    (
        budget('8h', shares=[0.2, 0.4, 0.4], max_epochs=5),
        "budget='8h' is spent to the end, whatever the epochs; give max_epochs=5 with a budget in",
    ),
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
def test_scheduler_that_begins_after_what_was_timed(tmp_path, clock, begin):
    """The plan until then has 300 epochs or more, the drawn clock leaves time for a few of them."""
    schedulers = [OUR_SCHEDULER, dict(type='ConstantLR', begin=begin, end=1000)]
    message = rf'the plan has \d+ epochs .*, but the scheduler ConstantLR begins at epoch {begin};'
    changes = {**budget('900s'), **NO_VALIDATION, 'param_scheduler': schedulers}
    refused(tmp_path, message, **changes)


@pytest.fixture
def plan_here(monkeypatch, tmp_path):
    """Runs tools/plan.py in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_tool, 'plan', DEMO)


BAD_FLAGS = [
    (['--plot', 'p.png', '--run', 'nowhere'], '--run nowhere is no folder; give that of a run'),
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
    (['--shares', '.2,x'], '--shares .2,x must be numbers, like .2,.4,.4'),
    (['--shares', '.2,.8'], 'shares=[0.2, 0.8] must be a list of 3 numbers, one for each'),
    (
        ['--shares', '.2,.4,.4', '--alpha', '2'],
        'alpha=2.0 and shares=[0.2, 0.4, 0.4] are both given, and each says how long',
    ),
    (
        ['--shares', '.2,.4,.4', '--epochs', '1,1,1'],
        'epochs=[1, 1, 1] and shares=[0.2, 0.4, 0.4] are both given, and each says how long',
    ),
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


@pytest.mark.parametrize(
    'flags',
    [
        ['--shares', '.2,.4,.4', '--cfg-options', 'train_cfg.alpha=1.5', 'train_cfg.seed=3'],
        ['--cfg-options', 'train_cfg.shares=[.2,.4,.4]', 'train_cfg.alpha=None'],
    ],
)
def test_plan_by_shares(plan_here, capsys, flags):
    """Given as a flag they replace the alpha, seed and family of a config."""
    plan_here('--budget', '0.5', '--json', *flags)
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {'stages', 'total_epochs', 'cost', 'budget', 'full_cost'}
    for share, stage in zip((0.4, 0.4), plan['stages'][1:]):
        assert abs(stage['cost'] - share * plan['budget']) <= stage['gflops']


@pytest.mark.parametrize('flags', [['--alpha', '2'], ['--seed', '0'], ['--epochs', '1,1,1']])
def test_flags_replace_the_shares_of_a_config(plan_here, capsys, flags):
    plan_here('--json', *flags)
    found = capsys.readouterr().out
    plan_here('--json', *flags, '--cfg-options', 'train_cfg.shares=[.2,.4,.4]')
    assert capsys.readouterr().out == found
