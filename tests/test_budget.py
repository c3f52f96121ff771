# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The doors of budgets: one more meter, and one more kind, are a class and a row each."""

from dataclasses import replace

import pytest
from mmengine.registry import HOOKS

from bvit_mm.budget import (
    KINDS,
    Budget,
    CostBudget,
    MeteredBudget,
    StatedEpochs,
    amount_of,
    described,
    read_budget,
)
from bvit_mm.elastic import find_backbone
from bvit_mm.hours import Pace
from bvit_mm.ledger import Ledger
from bvit_mm.meter import METERS, Meter
from bvit_mm.plan import make_plan
from bvit_mm.run_hook import RunHook

from .support.files import last_file
from .support.hooks import Stop
from .support.runs import BATCHES, build
from .support.trainings import log_of
from .support.variants import SWITCH

GFLOPS = [1.0, 2.0, 4.0]


@pytest.mark.laws
@pytest.mark.parametrize(
    'options, kind',
    [
        (dict(epochs=[1, 1, 1]), StatedEpochs),
        (dict(budget=0.5), CostBudget),
        (dict(budget='200 GFLOPs'), CostBudget),
        (dict(budget='90min'), MeteredBudget),
    ],
)
def test_kinds(options, kind):
    budget, plan = read_budget(GFLOPS, full_epochs=100, **options)
    assert type(budget) is kind
    if kind is not MeteredBudget:
        assert plan == make_plan(GFLOPS, full_epochs=100, **options)
        ledger = Ledger.of_run(plan, length=5, batch=4)
        assert not budget.needs_pace and budget.has_time_to_validate(ledger)
        for stage, epochs in enumerate(plan.epochs):
            for _ in range(5 * epochs):
                assert not budget.is_over(ledger, stage)
                ledger.train(stage, 4)
        assert budget.plan_again(plan, 1, 0, 1.0, 1.0, ledger) is plan
        assert budget.spent(plan, ledger) == pytest.approx(1) == budget.progress(plan, ledger)
    assert budget.needs_pace == budget.follows_pace == (kind is MeteredBudget)
    assert bool(amount_of(budget.as_dict())) == budget.follows_pace
    words = 'a budget of 5400 s' if budget.follows_pace else 'a plan in epochs'
    assert described(budget.as_dict()) == words


def test_a_pace_that_was_not_measured_is_not_read():
    budget = MeteredBudget('90min', [0.5, 0.5])
    assert budget.unpaced is budget and budget.state() is None
    with pytest.raises(RuntimeError, match="the pace of budget='90min' was not measured yet"):
        budget.deadline(0)
    budget.pace = Pace((1.0, 2.0))
    assert budget.unpaced is None and budget.deadline(0) == 5400.0 - 2.0


# One more meter.


class Passes(Meter):
    """Counts the images' passes through the network, larger ones for more; a toy for energy."""

    name = 'passes'
    unit = 'passes'
    symbol = 'P'
    weights = (1, 2, 4)

    def __init__(self):
        self.count = 100.0

    def read(self):
        return self.count

    def parse(self, budget):
        is_mine = isinstance(budget, str) and budget.endswith(self.symbol)
        return float(budget[: -len(self.symbol)]) if is_mine else None

    def note(self, backbone, args, outputs):
        self.count += len(args[0]) * self.weights[backbone.training_stage]


@pytest.fixture
def passes(monkeypatch):
    meter = Passes()
    monkeypatch.setattr('bvit_mm.meter.METERS', [*METERS, meter])
    monkeypatch.setattr('bvit_mm.budget.METERS', [*METERS, meter])
    return meter


def metered(tmp_path, passes, resume=False, hooks=()):
    changes = {
        'train_cfg.epochs': None,
        'train_cfg.budget': '3000P',
        'custom_hooks': [SWITCH, *hooks],
        'default_hooks.checkpoint.max_keep_ckpts': 2,
    }
    runner = build(tmp_path, **changes, resume=resume)
    find_backbone(runner.model).register_forward_hook(passes.note)
    return runner


def test_a_new_meter_is_a_class_and_a_row(tmp_path, passes):
    """The network's passes are budgeted as hours are: measured, planned, followed, kept."""
    runner = metered(tmp_path, passes)
    runner.train()
    loop, used = runner.train_loop, passes.count - 100
    assert used == pytest.approx(3000, rel=0.03) and loop.ledger.metered == used
    assert loop.budget.pace.train == tuple(4.0 * BATCHES * w for w in passes.weights)
    assert loop.budget.pace.validation == 4.0 * BATCHES * 4
    assert loop.stage == 2 and min(loop.ledger.iterations) >= BATCHES
    log = log_of(runner)
    assert 'The plan for 3000P, until the speed changes' in log
    assert 'of the budget of 3e+03 P' in log
    assert last_file(tmp_path)['meta']['bvit_mm']['plan']['passes'] == 3000


def test_a_new_meter_goes_on_when_a_run_is_resumed(tmp_path, passes):
    with pytest.raises(Stop):
        metered(tmp_path, passes, hooks=[dict(type='StopHook', at=23)]).train()
    passes.count += 10_000  # somebody else used the machine
    spent = last_file(tmp_path)['meta']['bvit_mm']['ledger']['metered']
    assert 0 < spent < 3000
    runner = metered(tmp_path, passes, resume=True)
    runner.train()
    assert runner.train_loop.ledger.metered == pytest.approx(3000, rel=0.03)
    assert described({'passes': 3000.0}) == 'a budget of 3000 P'


# One more kind.


class Images(Budget):
    """As many images as there are to be trained on, with the proportions of the full cost."""

    def __init__(self, number):
        self.number = number

    @classmethod
    def read(cls, gflops, **options):
        text = str(options.get('budget'))
        if not text.endswith(' images'):
            return None
        plan = make_plan(gflops, **{**options, 'budget': 1.0, 'full_epochs': 3})
        return cls(int(text.split()[0])), replace(plan, budget=None)

    def spent(self, plan, ledger):
        return sum(ledger.samples) / self.number

    def progress(self, plan, ledger):
        return min(1.0, self.spent(plan, ledger))

    def is_over(self, ledger, stage):
        return sum(ledger.samples) >= self.number

    def plan_again(self, plan, epoch, stage, amount, share, ledger):
        done = plan.done(epoch) if self.is_over(ledger, stage) else plan.epochs
        return replace(plan, epochs=done)

    def size_text(self, plan):
        return f'{self.number} images'


@pytest.mark.parametrize('number', [12, 52])
def test_a_new_kind_is_a_class_and_a_row(tmp_path, monkeypatch, number):
    monkeypatch.setattr('bvit_mm.budget.KINDS', [Images, *KINDS])
    changes = {'train_cfg.epochs': None, 'train_cfg.budget': f'{number} images'}
    runner = build(tmp_path, **changes, custom_hooks=[SWITCH])
    runner.train()
    loop = runner.train_loop
    assert isinstance(loop.budget, Images) and loop.spent == 1.0
    assert sum(loop.ledger.samples) == number and runner.iter == number // 4
    first = make_plan(loop.plan.gflops, 1.0, full_epochs=3).epochs[0]
    assert loop.ledger.iterations[0] == min(number // 4, first * BATCHES)
    if number // 4 > first * BATCHES:
        assert f'of {number} images; loss of one batch' in log_of(runner)


@HOOKS.register_module(force=True)
class RefusingHook(RunHook):
    """Has a check of its own."""

    def check_run(self, loop, model):
        raise ValueError(f'refused with {loop.plan.total_epochs} epochs')


def test_hooks_with_checks_are_asked(tmp_path):
    runner = build(tmp_path, custom_hooks=[SWITCH, dict(type='RefusingHook')])
    with pytest.raises(ValueError, match='refused with 6 epochs'):
        runner.train()
