# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Budgets in hours: their text, stage lengths that keep them, and a real loop on a drawn clock."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bvit_mm import make_plan
from bvit_mm.budget import MeteredBudget, read_budget
from bvit_mm.hours import Pace, duration, parse_duration, stage_lengths
from bvit_mm.ledger import Ledger
from bvit_mm.plan import Plan

from .support.clock import PassTimeHook, patched_clock, run
from .support.files import last_file
from .support.hooks import Stop
from .support.runs import BATCHES, build
from .support.trainings import log_of


@pytest.mark.parametrize(
    'text, seconds',
    [
        ('8h', 28800),
        ('90min', 5400),
        ('45s', 45),
        ('1h30min', 5400),
        ('1.5h', 5400),
        (' 2 H ', 7200),
        ('1h 1min 1s', 3661),
        ('.5h', 1800),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize('text', ['', 'h', '8', '8 GFLOPs', '-8h', '8h8h', '1min1h', 'min', 0.5, 8])
def test_what_is_no_duration(text):
    assert parse_duration(text) is None


@pytest.mark.parametrize('seconds, text', [(59.94, '59.9 s'), (150, '2.5 min'), (28800, '8 h')])
def test_duration_as_people_write_it(seconds, text):
    assert duration(seconds) == text


STAGES = st.integers(2, 4).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(0.05, 1.0), min_size=k, max_size=k),
        st.lists(st.floats(1.0, 20.0), min_size=k, max_size=k).map(sorted),
    )
)


@given(STAGES, st.floats(0.0, 2000.0))
def test_lengths_spend_what_is_left(stages, more):
    """To within the last epoch, which the loop ends early, unless stages of one epoch are all."""
    weights, seconds = stages
    left = sum(seconds) + more
    lengths = stage_lengths(weights, seconds, [0] * len(weights), left)
    cost = math.fsum(n * s for n, s in zip(lengths, seconds))
    assert min(lengths) >= 1
    slack = math.fsum(seconds)  # of rounding, when the last stage is down to its one epoch
    assert left - 1e-6 <= cost <= left + slack
    if lengths[-1] > 1:
        assert cost < left + seconds[-1]


@given(STAGES)
def test_lengths_keep_the_proportions(stages):
    weights, seconds = stages
    scale = 200 / min(weights)
    left = math.fsum(scale * w * s for w, s in zip(weights, seconds))
    lengths = stage_lengths(weights, seconds, [0] * len(weights), left)
    for length, weight in zip(lengths[:-1], weights):
        assert length == pytest.approx(scale * weight, abs=1)


def test_lengths_do_not_touch_stages_that_are_over():
    assert stage_lengths([1, 1, 1], [1.0, 2.0, 4.0], [5, 1, 0], 1000.0)[0] == 5
    assert stage_lengths([1, 1, 1], [1.0, 2.0, 4.0], [5, 0, 0], 0.0)[1] == 1


@settings(deadline=None)
@given(
    STAGES,
    st.floats(60.0, 5000.0),
    st.lists(st.floats(0.7, 1.3), min_size=40, max_size=40),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.5),
)
def test_simulated_runs_end_within_two_percent(stages, more, speeds, validation, saving):
    """Epochs of 20 iterations on a machine whose speed is drawn anew for each epoch."""
    weights, seconds = stages
    budget = 50 * (sum(seconds) + len(weights) * (validation + saving)) + more
    hours = MeteredBudget(f'{budget}s', weights, Pace(tuple(seconds), validation, saving))
    last, clock, done = len(weights) - 1, 0.0, [0] * len(weights)
    size, speed = 20, iter(speeds * 100_000)
    ledger = Ledger(tuple(seconds), size, 1)

    def at(clock):
        ledger.other = dict(all=clock)
        return ledger

    plan = hours.plan_measured(Plan(tuple(seconds), (1,) * len(seconds), 1.0), at(clock))
    while True:
        stage = next(k for k, n in enumerate(plan.epochs) if done[k] < n)
        began, iteration, trained = clock, seconds[stage] / next(speed) / size, 0
        while trained < size and not (trained and hours.is_over(at(clock), stage)):
            clock, trained = clock + iteration, trained + 1
        done[stage] += 1
        whole = (clock - began) / trained * size
        plan = hours.plan_again(plan, sum(done), stage, whole, trained / size, at(clock))
        clock += saving
        if sum(done) == plan.total_epochs:
            break
        clock += validation if hours.has_time_to_validate(at(clock)) else 0.0
    clock += validation
    assert done[last] >= 1
    assert clock == pytest.approx(budget, rel=0.02)


def test_too_few_hours_are_refused():
    budget = MeteredBudget('10s', [0.2, 0.3, 0.5], Pace((1.0, 4.0, 6.0), 1.0))
    with pytest.raises(ValueError) as error:
        budget.check_enough(0.5)
    assert str(error.value) == (
        "budget='10s' leaves 8.5 s for training here, but one epoch of each training stage takes "
        "14 s (2 s, 5 s, 7 s); give at least '17s'"
    )
    MeteredBudget('17s', budget.proportions, budget.pace).check_enough(0.5)


def test_provisional_plan():
    """Until epochs are timed it is the plan of the full cost, with the family's proportions."""
    budget, plan = read_budget([1.0, 2.0, 4.0], budget='8h', full_epochs=100)
    assert plan.epochs == make_plan([1.0, 2.0, 4.0], 1.0, full_epochs=100).epochs
    assert budget.amount == 28800 and plan.budget is None
    assert sum(budget.proportions) == pytest.approx(1)
    assert budget.as_dict() == dict(seconds=28800, weights=list(budget.proportions))


# The real loop, on a clock that a hook advances.


@pytest.mark.parametrize('factor', [0.75, 1.0, 1 / 0.7])
@pytest.mark.parametrize('budget', [400, 900])
def test_budget_is_kept_when_the_speed_changes(tmp_path, clock, budget, factor):
    runner = run(tmp_path, clock, f'{budget}s', slow=budget / 3, factor=factor)
    loop = runner.train_loop
    assert clock.now - 1000 == pytest.approx(budget, rel=0.02)
    assert loop.ledger.elapsed == pytest.approx(clock.now - 1000)
    assert loop.stage == 2 and loop.ledger.iterations[2] >= BATCHES
    rates = next(h for h in runner.hooks if isinstance(h, PassTimeHook)).rates
    assert max(rates) == pytest.approx(1e-2) and rates[-1] < 5e-4  # REX ends at 0
    meta = last_file(tmp_path)['meta']
    assert meta['epoch'] == loop.max_epochs == runner.epoch
    assert f'of the budget of {duration(budget)}' in log_of(runner)


def test_epochs_of_the_first_stages_keep_the_proportions(tmp_path, clock):
    loop = run(tmp_path, clock, '1000s').train_loop
    first, second, last = loop.ledger.epochs
    shares = loop.budget.proportions
    assert first / second == pytest.approx(shares[0] / shares[1], abs=0.2)
    assert second / last == pytest.approx(shares[1] / shares[2], abs=0.2)


def test_rare_and_long_checkpoints_are_counted_with(tmp_path, clock):
    more = {'default_hooks.checkpoint.interval': 10}
    run(tmp_path, clock, '900s', tenth=15.0, more=more)
    assert clock.now - 1000 == pytest.approx(900, rel=0.02)


def test_one_late_checkpoint_costs_little(tmp_path, clock):
    """Time is kept for a usual one at the end, not for the longest there was."""
    hours = MeteredBudget('900s', [0.5, 0.5], Pace((10.0, 20.0), 1.0, 1.0))
    for seconds in (1.0, 1.2, 30.0, 1.1):
        hours.learn('saving', seconds)
    assert hours.pace.closing == pytest.approx(1.0 + 1.2)


def test_validation_that_never_comes_keeps_no_time(tmp_path, clock, monkeypatch):
    loop = run(tmp_path, clock, '400s', more={'train_cfg.val_begin': 1000}).train_loop
    assert loop.budget.pace.validation == 0 and loop.ledger.other['validation'] == 0
    assert clock.now - 1000 == pytest.approx(400, rel=0.02)


def test_end_is_saved_when_checkpoints_count_iterations(tmp_path, clock):
    """mmengine's hook waits for an iteration that a budget in hours does not come to."""
    by_iteration = dict(type='CheckpointHook', interval=1000, by_epoch=False)
    more = {'default_hooks.checkpoint': by_iteration}
    runner = run(tmp_path, clock, '400s', more=more)
    meta = last_file(tmp_path)['meta']
    assert meta['iter'] == runner.iter == sum(runner.train_loop.ledger.iterations)
    resumed = run(tmp_path, clock, '400s', resume=True, more=more)
    assert resumed.iter == runner.iter  # it had come to its end


@pytest.fixture(scope='module')
def epochs_of_900_seconds(tmp_path_factory):
    """The epochs of each stage, without a stop."""
    with pytest.MonkeyPatch.context() as patch:
        clock = patched_clock(patch)
        return run(tmp_path_factory.mktemp('whole'), clock, '900s').train_loop.ledger.epochs


@pytest.mark.parametrize('at', [13, 14, 15])
def test_resumed_within_an_epoch_keeps_the_plan(epochs_of_900_seconds, tmp_path, clock, at):
    """Its first iteration is slow, and may be the only one left of the epoch, or none is."""
    every = {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, by_epoch=False)}
    changes = {
        **every,
        'train_cfg.epochs': None,
        'train_cfg.budget': '900s',
        'custom_hooks': [dict(type='bvit_mm.StageSwitchHook'), dict(type='StopHook', at=at)],
    }
    runner = build(tmp_path / 'resumed', **changes)
    runner.register_hook(HOOKS.build(dict(type='PassTimeHook', clock=clock)))
    with pytest.raises(Stop):
        runner.train()
    more = {**every, 'default_hooks.checkpoint.interval': 50}
    resumed = run(tmp_path / 'resumed', clock, '900s', resume=True, first=10.0, more=more)
    epochs = resumed.train_loop.ledger.epochs
    assert epochs == pytest.approx(epochs_of_900_seconds, abs=2.5)
    assert resumed.train_loop.ledger.elapsed == pytest.approx(900, rel=0.02)


def test_resumed_run_keeps_the_budget(tmp_path, clock):
    """It goes on with what is left, and does not time the stages again."""

    def stop(self, runner, *args, **kwargs):
        if runner.epoch == 6:
            raise Stop

    hook = type('StopHere', (Hook,), dict(before_train_epoch=stop))
    HOOKS.register_module(name='StopHere', module=hook, force=True)
    changes = {
        'train_cfg.epochs': None,
        'train_cfg.budget': '600s',
        'custom_hooks': [dict(type='bvit_mm.StageSwitchHook'), dict(type='StopHere')],
    }
    runner = build(tmp_path, **changes)
    runner.register_hook(HOOKS.build(dict(type='PassTimeHook', clock=clock)))
    with pytest.raises(Stop):
        runner.train()
    clock.now += 10_000  # the queue
    began = clock.now
    spent = last_file(tmp_path)['meta']['bvit_mm']['ledger']
    spent = sum(spent['seconds']) + sum(spent['other'].values())
    runner = run(tmp_path, clock, '600s', resume=True)
    assert clock.now - began == pytest.approx(600 - spent, rel=0.02)
    assert runner.train_loop.ledger.elapsed == pytest.approx(600, rel=0.02)
    assert log_of(runner).count('until the speed changes') == 1


def test_hours_and_real_time(tmp_path):
    """A few real seconds, timed and all: one late checkpoint of others is much of them."""
    changes = {'train_cfg.epochs': None, 'train_cfg.budget': '6s'}
    runner = build(tmp_path, **changes)
    runner.train()
    ledger = runner.train_loop.ledger
    assert 3.5 < ledger.elapsed < 6.6
    assert 0 < ledger.other['rehearsal'] < ledger.elapsed / 2 and runner.train_loop.stage == 2
    assert 'The plan for 6s, until the speed changes' in log_of(runner)
