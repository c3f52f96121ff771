# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Shares of a budget: what each training stage gets, in GFLOPs and in hours."""

import itertools
import math
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bvit_mm.budget import MeteredBudget, read_budget
from bvit_mm.hours import Pace
from bvit_mm.plan import make_plan
from bvit_mm.running.resumption import check_same
from bvit_mm.shares import exact_epochs, read_shares, shared_epochs

from .support.clock import run

DEIT_S = (0.690094464, 1.904813952, 4.608338304)
# EfficientTrain++'s ten training stages of images of 96, 160, 192 and 224 pixels.
TENTHS = (0.811, 0.811, *4 * (2.26,), 3.35, 3.35, 4.608, 4.608)

# Costs of one to five training stages, of which none falls, and their shares.
STAGES = st.integers(1, 5).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(1.0, 5.0), min_size=k, max_size=k).map(
            lambda ratios: [math.prod(ratios[1 : i + 1]) for i in range(len(ratios))]
        ),
        st.lists(st.integers(1, 20), min_size=k, max_size=k).map(
            lambda parts: [part / sum(parts) for part in parts]
        ),
    )
)


def cost_of(gflops, epochs):
    return math.fsum(c * n for c, n in zip(gflops, epochs))


def test_exact_epochs():
    """Each stage gets its share; one that would get less than an epoch gets one."""
    assert exact_epochs([1, 2, 4], [0.25, 0.25, 0.5], 80) == [20, 10, 10]
    assert exact_epochs([1, 2, 4], [0.5, 0.49, 0.01], 40) == pytest.approx(
        [18.1818, 8.9091, 1], abs=1e-4
    )
    assert exact_epochs([1, 2, 4], [0.2, 0.4, 0.4], 7) == [1, 1, 1]


@pytest.mark.parametrize(
    'budget, shares, epochs',
    [
        (1.0, [0.2, 0.4, 0.4], (401, 290, 120)),
        (0.5, [0.2, 0.4, 0.4], (200, 145, 60)),
        (0.25, [0.2, 0.4, 0.4], (101, 72, 30)),
        (0.5, [1 / 3, 1 / 3, 1 / 3], (333, 121, 50)),
        (0.0053, [0.2, 0.4, 0.4], (1, 1, 1)),
    ],
)
def test_shares_of_deit_s(budget, shares, epochs):
    """By hand: 0.2 of 691.25 is 200.3 epochs of 0.69, 0.4 of it 145.2 of 1.9 and 60 of 4.6."""
    assert make_plan(DEIT_S, budget, shares=shares).epochs == epochs


def test_ten_equal_shares():
    plan = make_plan(TENTHS, 0.325, 300, shares=[0.1] * 10)
    assert plan.epochs == (55, 55, 20, 20, 20, 20, 13, 13, 10, 10)
    for cost, gflops in zip(plan.costs, TENTHS):
        assert abs(cost - plan.budget / 10) <= gflops


@settings(max_examples=300, deadline=None)
@given(STAGES, st.floats(0, 1), st.sampled_from([2.0, 30.0, 500.0]))
def test_the_budget_is_spent(stages, part, epochs):
    """Law 5, its first half; and each later stage is its exact length, rounded down or up."""
    gflops, shares = stages
    budget = math.fsum(gflops) + part * epochs * gflops[-1]
    plan = shared_epochs(gflops, shares, budget)
    assert min(plan) >= 1
    assert budget - gflops[0] * (1 + 1e-9) < cost_of(gflops, plan) <= budget * (1 + 1e-12)
    exact = exact_epochs(gflops, shares, cost_of(gflops, plan))
    assert all(-1e-6 < n - math.floor(x + 1e-9) < 1 + 1e-6 for n, x in zip(plan[1:], exact[1:]))


@settings(max_examples=300, deadline=None)
@given(STAGES, st.floats(0, 1))
def test_each_stage_gets_its_share(stages, part):
    """Later stages to within one of their epochs; the first makes up for how they are rounded.

    The budget is so large that each share pays an epoch, and the first one of every stage.
    """
    gflops, shares = stages
    assume(all(share * gflops[0] <= c / 2 for share, c in zip(shares[1:], gflops[1:])))
    least = max(math.fsum(gflops) / shares[0], max(c / share for c, share in zip(gflops, shares)))
    budget = least * (1.01 + 20 * part)
    first, *later = (
        abs(c * n - share * budget)
        for c, n, share in zip(gflops, shared_epochs(gflops, shares, budget), shares)
    )
    assert all(far <= c * (1 + 1e-6) for far, c in zip(later, gflops[1:]))
    assert first <= gflops[-1] / 2 + 2 * gflops[0]


@settings(max_examples=300, deadline=None)
@given(STAGES, st.floats(0, 1), st.one_of(st.floats(0, 0.1), st.floats(0, 30)))
def test_a_larger_budget_does_not_cost_less(stages, part, more):
    gflops, shares = stages
    budget = math.fsum(gflops) + 100 * part * gflops[-1]
    smaller, larger = (
        cost_of(gflops, shared_epochs(gflops, shares, b)) for b in (budget, budget + more)
    )
    assert larger >= smaller * (1 - 1e-9)


def test_shares_and_the_budget_cannot_both_be_met():
    """29 of stages that cost 1 and 10, half each: 14.5 epochs and 1.45."""
    near = itertools.product((14, 15), (1, 2))
    assert not any(28 < cost_of((1, 10), plan) <= 29 for plan in near)
    assert make_plan((1, 10), 29, 10, shares=[0.5, 0.5]).epochs == (19, 1)


def test_smallest_exception_to_more_epochs():
    """The second epoch of the second stage costs three of the first, and one is new."""
    plans = [make_plan((1, 3), f'{b} GFLOPs', 4, shares=[0.5, 0.5]).epochs for b in (9, 10)]
    assert plans == [(6, 1), (4, 2)]


def test_subsets_of_the_data_are_shared_too():
    """An epoch on a half costs half: there are twice as many."""
    plan = make_plan((1, 2), 0.5, 40, shares=[0.25, 0.75], epoch_share=0.5)
    assert plan.epochs == (20, 30) and plan.costs == (10, 30)


@pytest.mark.parametrize('k', [12, 13, 30])
def test_many_stages_are_shared_in_no_time(k):
    begin = time.perf_counter()
    plan = make_plan([1.1**i for i in range(k)], 0.5, shares=[1 / k] * k)
    assert plan.budget - plan.cost < 1 and min(plan.epochs) >= 1
    assert time.perf_counter() - begin < 2


def test_cap():
    """A plan by shares must stay within it: at the cap, shares could not be kept."""
    assert make_plan(DEIT_S, 0.25, shares=[0.2, 0.4, 0.4], max_epochs=203).total_epochs == 203
    message = (
        r'shares=\[0.2, 0.4, 0.4\] of the budget buy \[101, 72, 30\], 203 epochs, above '
        'max_epochs=202; give less to early training stages, a smaller budget, or no max_epochs'
    )
    with pytest.raises(ValueError, match=message):
        make_plan(DEIT_S, 0.25, shares=[0.2, 0.4, 0.4], max_epochs=202)


TWO = 'must be a list of 3 numbers, one for each training stage'
BOTH = 'are both given, and each says how long training stages are; give one of them and set'
BAD = [
    (dict(shares=[0.2, 0.8]), rf'shares=\[0.2, 0.8\] {TWO}'),
    (dict(shares='.2,.4,.4'), rf"shares='.2,.4,.4' {TWO}"),
    (dict(shares=0.3), f'shares=0.3 {TWO}'),
    (dict(shares={1: 0.2, 2: 0.4, 3: 0.4}), TWO),
    (dict(shares=[0.2, 0.4, '0.4']), r"shares=\[0.2, 0.4, '0.4'\] must be numbers that sum to 1"),
    (dict(shares=[0, 0, True]), 'must be numbers that sum to 1'),
    (dict(shares=[0.2, None, 0.8]), 'must be numbers that sum to 1'),
    (
        dict(shares=[0.0, 0.5, 0.5]),
        r'shares=\[0.0, 0.5, 0.5\] must be above 0 .* leave a stage out',
    ),
    (dict(shares=[1.2, -0.6, 0.4]), 'must be above 0 and finite'),
    (dict(shares=[0.2, float('nan'), 0.4]), 'must be above 0 and finite'),
    (dict(shares=[0.2, float('inf'), 0.4]), 'must be above 0 and finite'),
    (dict(shares=[1, 2, 2]), r'shares=\[1, 2, 2\] sum to 5, not to 1; give \[0.2, 0.4, 0.4\]'),
    (dict(shares=[0.3, 0.3, 0.3]), r'sum to 0.9, not to 1; give \[0.3334, 0.3333, 0.3333\]'),
    (dict(alpha=2.0), rf'alpha=2.0 and shares=\[0.2, 0.4, 0.4\] {BOTH} the other to None'),
    (dict(seed=0), f'seed=0 and shares=.* {BOTH}'),
    (dict(alpha=0, family='exponential'), f"alpha=0, family='exponential' and shares=.* {BOTH}"),
    (dict(epochs=[1, 1, 1]), rf'epochs=\[1, 1, 1\] and shares=.* {BOTH}'),
    (dict(budget=None, epochs=[1, 1, 1]), rf'epochs=\[1, 1, 1\] and shares=.* {BOTH}'),
    (dict(budget=None), 'give a budget, or epochs to state a schedule'),
    (dict(budget=0.0003), 'less than one epoch of each stage'),
]


@pytest.mark.parametrize('options, message', BAD)
@pytest.mark.parametrize('read', [make_plan, read_budget])
def test_bad_shares(options, message, read):
    with pytest.raises(ValueError, match=message):
        read(DEIT_S, **{'budget': 0.5, 'shares': [0.2, 0.4, 0.4], **options})


@pytest.mark.parametrize(
    'shares', [[1, 2, 2], [0.3, 0.3, 0.3], [1e-7, 3, 7], [7, 3, 1e-7], [0.11] * 13]
)
def test_shares_named_in_the_error_are_taken(shares):
    with pytest.raises(ValueError) as error:
        read_shares(shares, len(shares))
    advised = [float(text) for text in str(error.value).rsplit('[')[-1].rstrip(']').split(',')]
    total = math.fsum(shares)
    found = read_shares(advised, len(shares))
    assert found == pytest.approx([s / total for s in shares], rel=1e-2)


def test_shares_sum_to_one_within_a_millionth():
    assert math.fsum(read_shares([0.333333, 0.333333, 0.333333], 3)) == pytest.approx(1, abs=1e-15)
    assert read_shares(None, 3, alpha=2.0) is None


# Hours.


def hours(text, shares, *pace):
    budget, plan = read_budget((1.0, 2.0, 4.0), budget=text, full_epochs=100, shares=shares)
    budget.pace = Pace(*pace)
    return budget, plan


def test_shares_of_the_time_for_training():
    """Validation counts, but not in a stage's share: 1000 - 2 s buy 8 s of training a share."""
    shares = [0.2, 0.4, 0.4]
    budget, _ = hours('1002s', shares, (1.0, 4.0, 5.0), 2.0, 0.0, 10**9)
    assert budget.lengths([0, 0, 0], 0.0) == (200, 100, 80)
    slow, _ = hours('1002s', shares, (1.0, 4.0, 5.0), 2.0)  # after each epoch
    epochs = slow.lengths([0, 0, 0], 0.0)
    train = [s * n for s, n in zip((1.0, 4.0, 5.0), epochs)]
    assert math.fsum(train) + 2 * sum(epochs) == pytest.approx(1000, abs=7)
    assert [t / math.fsum(train) for t in train] == pytest.approx(shares, abs=0.01)


@given(STAGES, st.floats(0, 1))
def test_shares_of_hours(stages, part):
    """Each stage but the last is within one of its epochs of its share; the last has the rest."""
    seconds, shares = stages
    left = max(s / share for s, share in zip(seconds, shares)) * (1.01 + 20 * part)
    budget = MeteredBudget(f'{left:.3f}s', shares, Pace(tuple(seconds)), are_shares=True)
    epochs = budget.lengths([0] * len(shares), 0.0)
    assert cost_of(seconds[:-1], epochs[:-1]) <= budget.amount
    assert budget.amount - 1e-6 <= cost_of(seconds, epochs)
    for n, s, share in zip(epochs[:-1], seconds, shares):
        assert abs(n * s - share * budget.amount) <= s / 2 + 1e-6


def test_shares_of_a_run_in_hours(tmp_path, clock):
    """The real loop on a drawn clock, which slows down: stages of 5, 10 and 20 s an epoch."""
    more = {'train_cfg.shares': [0.2, 0.3, 0.5]}
    loop = run(tmp_path, clock, '700s', slow=300, factor=1.2, more=more).train_loop
    assert loop.ledger.elapsed == pytest.approx(700, rel=0.02)
    first, second, last = loop.ledger.epochs
    assert 5 * first / (10 * second) == pytest.approx(2 / 3, abs=0.1)
    assert 10 * second / (20 * last) == pytest.approx(3 / 5, abs=0.1)
    assert loop.budget.as_dict() == dict(seconds=700, shares=[0.2, 0.3, 0.5])


def test_run_with_other_shares_is_another_run():
    shares = [0.2, 0.4, 0.4]
    (mine, plan), (other, _) = hours('8h', shares, (1.0,)), hours('8h', [0.3, 0.3, 0.4], (1.0,))
    check_same(plan, mine, {**plan.as_dict(), **mine.as_dict()}, 'here is a run')
    drawn, _ = read_budget((1.0, 2.0, 4.0), budget='8h', full_epochs=100)
    for theirs, words in ((other, r'shares=\[0.3, 0.3, 0.4\]'), (drawn, r'\[0\.\d+, .*\]')):
        message = (
            rf'here is a run with stages of other relative lengths \({words}\) than this one '
            r'\(shares=\[0.2, 0.4, 0.4\]\); give another work_dir, or its alpha, seed and family, '
            'or its shares'
        )
        with pytest.raises(ValueError, match=message):
            check_same(plan, mine, {**plan.as_dict(), **theirs.as_dict()}, 'here is a run')
