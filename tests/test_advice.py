# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Figures in errors are accepted when they are followed: each is read out of the text and given."""

import ast
import math
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bvit_mm import SubsetSampler, subset_share
from bvit_mm.budget import MeteredBudget, read_budget
from bvit_mm.hours import Pace
from bvit_mm.options import at_least
from bvit_mm.plan import make_plan
from bvit_mm.subsets.share import selection_charge

NUMBER = r'[\d.]+(?:e[+-]?\d+)?'
# What a text says to give, as changes of options; several, if it offers several.
ADVICE = [
    (rf'each stage .*; give at least ({NUMBER})$', lambda n: dict(budget=float(n))),
    (
        rf'give full_epochs=(\d+) or more, with budget=({NUMBER})$',
        lambda n, share: dict(full_epochs=int(n), budget=float(share)),
    ),
    (r'give a share (?:of the full cost )?up to (1)\b', lambda n: dict(budget=float(n))),
    (r"up to ('[^']+ GFLOPs')", lambda text: dict(budget=ast.literal_eval(text))),
    (r"a time such as '(8h)' or '90min'", lambda text: dict(budget=text, max_epochs=None)),
    (r"a time such as '8h' or '(90min)'", lambda text: dict(budget=text, max_epochs=None)),
    (r'^(\w+)=.* must be a whole number of epochs, at least (\d+)', lambda k, n: {k: int(n)}),
    (
        r'state epochs, such as (\[.*?\]), ',
        lambda text: dict(epochs=ast.literal_eval(text), budget=None),
    ),
    (r', or (count_selection)=False', lambda name: {name: False}),
    (rf'give a budget of at least ({NUMBER})', lambda n: dict(budget=float(n))),
    (r'an interval of at least (\d+)', lambda n: dict(interval=int(n))),
    (rf'sampler is no sample of .*give at least ({NUMBER})$', lambda n: dict(share=float(n))),
]


def follow(call, options, changed=frozenset()):
    """Gives what the error says, each of what it offers, until nothing is wrong.

    What was given may bring up another option, but is not itself refused; but for a number in
    place of what was none, which may be too small beside other options.
    """
    try:
        call(**options)
        return
    except ValueError as error:
        text = str(error)
    offers = [
        change(*found.groups()) for pattern, change in ADVICE if (found := re.search(pattern, text))
    ]
    assert offers, text
    for offer in offers:
        assert set(offer) - changed, f'{options} was advised, but: {text}'
        is_form = 'must be a whole number' in text
        follow(call, {**options, **offer}, changed if is_form else changed | set(offer))


costs = st.tuples(st.floats(1e-4, 100), st.lists(st.floats(1.0001, 9), max_size=3)).map(
    lambda drawn: [drawn[0] * math.prod(drawn[1][:k]) for k in range(len(drawn[1]) + 1)]
)
positive = st.floats(1e-9, 1e9)
budgets = st.one_of(
    st.floats(-1, 3),
    positive,
    positive.map(lambda cost: f'{cost!r} GFLOPs'),
    positive.map(lambda cost: f'{cost:.6g} GFLOPs'),
    st.sampled_from(['half', '0', '-1 GFLOPs', True, math.nan, math.inf, [1]]),
)
epochs = st.integers(-2, 9)


@settings(max_examples=300, deadline=None)
@given(costs, budgets, epochs, st.none() | epochs, st.none() | st.integers(1, 9))
@example([0.025858848], '0.517177 GFLOPs', 20, None, None)
@example([1.0], 1e-9, 1, None, None)
@example([0.3, 1.0], 1e-9, 1, 1, 3)
@example([0.1, 0.2], 0.01, 2, 0, None)
def test_advice_about_plans(gflops, budget, full_epochs, cap, interval):
    options = dict(
        gflops=gflops,
        budget=budget,
        full_epochs=full_epochs,
        max_epochs=cap,
        charges=[] if interval is None else [selection_charge(interval)],
    )
    follow(read_budget, options)


@settings(max_examples=300, deadline=None)
@given(costs, st.floats(1e-12, 1), st.integers(1, 400))
def test_least_share_is_enough_and_two_digits_long(gflops, below, full_epochs):
    share = math.fsum(gflops) / (full_epochs * gflops[-1])
    assume(share <= 1)
    with pytest.raises(ValueError, match='give at least') as error:
        make_plan(gflops, below * share * (1 - 1e-9), full_epochs)
    figure = re.search(rf'give at least ({NUMBER})$', str(error.value))[1]
    assert make_plan(gflops, float(figure), full_epochs).epochs
    assert share <= float(figure) <= min(1.0, share * 1.1 * (1 + 1e-12))
    assert len(figure.split('e')[0].replace('.', '').strip('0')) <= 2


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-6, 1), st.integers(0, 400), st.integers(0, 60), st.booleans())
@example(0.01, 300, 20, True)
@example(1 / 3, 3, 1, True)
def test_advice_about_shares_of_the_data(budget, full_epochs, interval, count):
    options = dict(budget=budget, full_epochs=full_epochs, interval=interval, count_selection=count)
    follow(subset_share, options)


@given(st.integers(1, 100_000), st.floats(1e-9, 1))
@example(7, 1e-9)
@example(29, 1e-9)
def test_advice_about_samples(total, below):
    follow(SubsetSampler, dict(dataset=range(total), share=below / total))


@settings(max_examples=300)
@given(
    st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=4),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(1, 9),
    st.floats(1e-2, 1e5),
)
def test_advice_about_hours(train, validation, saving, elapsed, interval, seconds):
    """The time that is named is enough, even if the stages are timed for longer with it."""
    pace = Pace(tuple(train), validation, saving, interval, interval)
    budget = MeteredBudget(f'{seconds:.6f}s', [1.0] * len(train), pace)
    try:
        budget.check_enough(elapsed)
    except ValueError as error:
        text = re.search(r"give at least '(.*)'$", str(error))[1]
        more = MeteredBudget(text, budget.proportions, pace)
        more.check_enough(elapsed + 0.015 * (more.amount - budget.amount))


@given(st.floats(1e-300, 1e300), st.integers(1, 15))
def test_figures_are_rounded_up_by_less_than_a_digit(value, digits):
    figure = at_least(value, digits)
    assert float(figure) >= value
    assert float(figure) <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-15)
    assert len(figure.split('e')[0].replace('.', '').lstrip('0')) <= digits + figure.count('0')
