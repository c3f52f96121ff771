# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Which units a slimmed network keeps: laws for any scores, and the shares of ViT-Slim."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bvit_mm import ElasticVisionTransformer
from bvit_mm.slim.choice import ORDERS, Units, choose, ranked, read_flops

# Many scores are equal.
score = st.sampled_from([0.0, 0.25, 1.0, 3.0]) | st.floats(0, 1e3)
scores = st.lists(score, min_size=1, max_size=7).map(tuple)
kinds, costs = st.sampled_from(['heads', 'hidden']), st.integers(1, 60)
modules = st.builds(Units, kinds, costs, scores)
groups = st.lists(st.tuples(score, score, score), min_size=2, max_size=3)  # heads of 3 dimensions
of_dims = st.builds(
    lambda cost, padded, heads: Units('dims', cost, sum(heads, ()), len(heads), padded),
    costs, st.integers(0, 30), groups,
)  # fmt: skip
networks = st.lists(modules | of_dims, min_size=1, max_size=5)
fixeds, parts = st.integers(0, 300), st.floats(0, 1)
orders = st.sampled_from(sorted(ORDERS))


def cost_of(modules, fixed, kept):
    """By hand: units in groups are filled up to the largest group."""
    total = fixed
    for module, units in zip(modules, kept):
        size = len(module.scores) // module.groups
        found = [unit // size for unit in units]
        filled = max(map(found.count, found), default=0) * len(set(found))
        total += module.cost * len(found) + module.padded * filled
    return total


def all_of(modules):
    return [range(len(module.scores)) for module in modules]


def fewest_of(modules, multiple=1, only=None):
    """How many units each module keeps at least."""
    return [
        len(module.scores)
        if only not in (None, module.kind)
        else min(multiple if module.kind == 'hidden' else 1, len(module.scores))
        for module in modules
    ]


def budget_of(modules, fixed, part, **options):
    """From the smallest choice to the whole network."""
    least = cost_of(modules, fixed, [range(n) for n in fewest_of(modules, **options)])
    return least + int(part * (cost_of(modules, fixed, all_of(modules)) - least))


def left_out(modules, kept, kind=None):
    """What each unit that is not kept costs at most, besides others."""
    return [
        module.cost + module.padded * max(module.groups, len(module.scores) // module.groups)
        for module, units in zip(modules, kept)
        if kind in (None, module.kind) and len(units) < len(module.scores)
    ]


@settings(max_examples=100, deadline=None)
@given(networks, fixeds, parts, orders)
def test_the_budget_is_spent(modules, fixed, part, by):
    """Law S5: less remains than a unit left out costs; with fill, than any hidden unit does."""
    budget = budget_of(modules, fixed, part)
    kept = choose(modules, fixed, budget, by)
    unpaid = max(left_out(modules, kept), default=1)
    assert budget - unpaid < cost_of(modules, fixed, kept) <= budget
    filled = choose(modules, fixed, budget, by, fill=True)
    hidden = left_out(modules, filled, 'hidden')
    unpaid = min(hidden) if hidden else max(left_out(modules, filled), default=1)
    assert budget - unpaid < cost_of(modules, fixed, filled) <= budget
    for module, units, more in zip(modules, kept, filled):
        assert more[: len(units)] == units and (module.kind == 'hidden' or more == units)


@settings(max_examples=100, deadline=None)
@given(networks, fixeds, st.lists(parts, min_size=2, max_size=2).map(sorted), orders, st.data())
def test_a_larger_budget_keeps_more(modules, fixed, two, by, data):
    """Law S5: a superset in each module, and no smaller cost; with multiples as well."""
    only = data.draw(st.sampled_from([None, *sorted({module.kind for module in modules})]))
    multiple = 1 if only in ('heads', 'dims') else data.draw(st.sampled_from([1, 2, 4]))
    options = dict(multiple=multiple, only=only)
    smaller, larger = (
        choose(modules, fixed, budget_of(modules, fixed, part, **options), by, **options)
        for part in two
    )
    for few, many in zip(smaller, larger):
        assert many[: len(few)] == few


@settings(max_examples=100, deadline=None)
@given(networks, fixeds, parts, orders, st.data())
def test_each_module_keeps_its_best(modules, fixed, part, by, data):
    """Law S6: at least one unit a module, no better one is left out, multiples where asked for."""
    only = data.draw(st.sampled_from([None, *sorted({module.kind for module in modules})]))
    multiple = 1 if only in ('heads', 'dims') else data.draw(st.sampled_from([1, 2, 4]))
    options = dict(multiple=multiple, only=only)
    budget = budget_of(modules, fixed, part, **options)
    kept = choose(modules, fixed, budget, by, **options)
    assert cost_of(modules, fixed, kept) <= budget
    for module, units, least in zip(modules, kept, fewest_of(modules, **options)):
        numbers = range(len(module.scores))
        best = sorted(numbers, key=lambda unit: (-module.scores[unit], unit))
        assert list(units) == best[: len(units)] and len(units) >= least
        if module.kind == 'hidden':
            assert len(units) % multiple == 0 or len(units) == len(module.scores)
    whole = cost_of(modules, fixed, all_of(modules))
    assert [len(units) for units in choose(modules, fixed, whole, by, **options)] == [
        len(module.scores) for module in modules
    ]


@settings(max_examples=50, deadline=None)
@given(networks, fixeds, parts, orders, st.integers(-30, 30), st.integers(-30, 30))
def test_a_scale_of_a_kind_changes_nothing(modules, fixed, part, by, heads, hidden):
    """Powers of two, which round nothing: scores that differ stay so."""
    power = dict(heads=2.0**heads, dims=2.0**heads, hidden=2.0**hidden)
    scaled = [
        replace(module, scores=tuple(s * power[module.kind] for s in module.scores))
        for module in modules
    ]
    assume(all(s == 0 or s > 1e-290 for module in modules for s in module.scores))
    budget = budget_of(modules, fixed, part)
    assert choose(scaled, fixed, budget, by) == choose(modules, fixed, budget, by)


@settings(max_examples=50, deadline=None)
@given(networks, orders)
def test_ranked_has_each_unit_once(modules, by):
    order = ranked(modules, by)
    assert sorted(order) == [(i, u) for i, units in enumerate(all_of(modules)) for u in units]
    assert sorted(i for i, _ in order[: len(modules)]) == list(range(len(modules)))


def test_order_by_share():
    """By hand: places 0, 1/3, 2/3 of three heads among 0, 1/6, ... of six hidden units."""
    modules = [
        Units('heads', 10, (1.0, 5.0, 3.0)),
        Units('hidden', 1, (0.5, 0.9, 0.7, 0.7, 0.1, 0.3)),
    ]
    best = [(0, 1), (1, 1)]
    rest = [(1, 2), (0, 2), (1, 3), (1, 0), (0, 0), (1, 5), (1, 4)]
    assert ranked(modules, 'share') == best + rest
    # 4 fixed, 10 and 1 of the best, then 1, 10, 1: 27
    assert choose(modules, 4, 27) == [(1, 2), (1, 2, 3)]
    assert choose(modules, 4, 25) == choose(modules, 4, 16) == [(1,), (1, 2)]
    assert choose(modules, 4, 20, fill=True) == [(1,), (1, 2, 3, 0, 5, 4)]


def test_order_by_cost():
    """By hand: shares of a kind's squared scores over shares of its cost.

    Heads: squares of 16, 9, 4, 1 of 30, costs 30, 30, 10, 10 of 80: 1.42, 0.8, 1.07, 0.27.
    Hidden: squares 4, 1, 1 of 6 at equal costs: 2, 0.5, 0.5.
    """
    modules = [
        Units('heads', 30, (3.0, 4.0)),
        Units('heads', 10, (1.0, 2.0)),
        Units('hidden', 1, (2.0, 1.0, 1.0)),
    ]
    best = [(2, 0), (0, 1), (1, 1)]
    assert ranked(modules, 'cost') == [*best, (0, 0), (2, 1), (2, 2), (1, 0)]
    dearer = [modules[0], Units('heads', 60, (1.0, 2.0)), modules[2]]  # kept before a better one
    assert ranked(dearer, 'cost')[:4] == [(0, 1), (2, 0), (1, 1), (0, 0)]


def test_multiples_of_hidden_units():
    """Modules of fewer units, and those that are kept wholly, have other numbers."""
    modules = [
        Units('hidden', 1, tuple(range(20, 0, -1))),
        Units('hidden', 1, (30.0, 31.0, 32.0)),
        Units('hidden', 1, tuple(range(10, 0, -1))),
    ]
    counts = {
        budget: [len(units) for units in choose(modules, 0, budget, multiple=8)]
        for budget in (19, 26, 27, 30, 33)
    }
    assert counts == {19: [8, 3, 8], 26: [8, 3, 8], 27: [16, 3, 8], 30: [16, 3, 8], 33: [20, 3, 10]}
    with pytest.raises(ValueError, match=r'\(8 hidden units a module\); give at least 0\.58'):
        choose(modules, 0, 18, multiple=8)


def test_only_one_kind_is_cut():
    modules = [Units('heads', 10, (1.0, 2.0)), Units('hidden', 2, (0.1, 0.3, 0.2))]
    assert choose(modules, 5, 29, only='hidden') == [(1, 0), (1, 2)]
    assert choose(modules, 5, 30, only='heads') == [(1,), (1, 2, 0)]


# DeiT-S: 197 tokens of width 384, heads of 64; the rest, with the classifier, is fixed.
HEAD, HIDDEN = 4 * 197 * 384 * 64 + 2 * 197**2 * 64, 2 * 197 * 384
PAPER = {0.803: (3.700, 0.8), 0.7045: (3.246, 0.7), 0.606: (2.792, 0.6), 0.5074: (2.338, 0.5)}


@pytest.fixture(scope='module')
def whole():
    """Multiply-adds of DeiT-S."""
    return ElasticVisionTransformer(arch='deit-small').flops(0) + 384 * 1000


# Scores of a unit by its layer, from a random number.
DRAWS = {
    'random': lambda layer, number: number,
    'early layers first': lambda layer, number: number + (layer < 6),
    'equal': lambda layer, number: 1.0,
}


def deit_small(draw):
    """Its modules, with scores that are drawn."""
    numbers = random.Random(0)
    return [
        Units(kind, cost, tuple(draw(layer, numbers.random()) for _ in range(count)))
        for layer in range(12)
        for kind, cost, count in (('heads', HEAD, 6), ('hidden', HIDDEN, 1536))
    ]


@pytest.mark.parametrize('name', DRAWS)
@pytest.mark.parametrize('share', PAPER)
def test_vit_slim(whole, name, share):
    """Its GFLOPs, within a head; of each kind the paper's share is kept, within one unit."""
    modules = deit_small(DRAWS[name])
    gflops, part = PAPER[share]
    fixed = whole - 12 * (6 * HEAD + 1536 * HIDDEN)
    kept = choose(modules, fixed, read_flops(share, whole))
    assert abs(cost_of(modules, fixed, kept) - gflops * 1e9) < HEAD
    heads, hidden = (sum(map(len, kept[i::2])) for i in (0, 1))
    assert abs(heads - part * 72) < 1 and abs(hidden - part * 12 * 1536) < 12 * 1536 / 72


def test_one_threshold_for_all_layers():
    """As ViT-Slim: of the hidden units of all layers together, the largest scores."""
    modules = deit_small(DRAWS['early layers first'])
    kept = choose(modules, 0, 12 * (6 * HEAD + 1536 * HIDDEN) * 7 // 10)
    scores = sorted((s for module in modules[1::2] for s in module.scores), reverse=True)
    taken = [m.scores[unit] for m, units in zip(modules[1::2], kept[1::2]) for unit in units]
    assert sorted(taken, reverse=True) == scores[: len(taken)]
    assert [len(units) for units in kept[1:12:2]] == [1536] * 6


@pytest.mark.parametrize(
    'value, flops',
    [
        (0.7, 3225836812),  # 0.7 * 4608338304 = 3225836812.8
        ('0.7', 3225836812),
        (' 0.70 ', 3225836812),
        (1, 4608338304),
        ('2.8 GFLOPs', 2800000000),
        ('2.8gflops', 2800000000),
        ('4.608338304 GFLOPs', 4608338304),
    ],
)
def test_read_flops(value, flops):
    assert read_flops(value, 4608338304) == flops


def test_decimals_are_exact():
    """In floats 0.29 * 100 is 28.999999999999996, not enough for 29."""
    assert read_flops(0.29, 100) == read_flops('0.29', 100) == 29


@pytest.mark.parametrize('value', ['much', None, True, 'nan', float('inf'), '', 'GFLOPs', '8h'])
def test_flops_that_are_no_number(value):
    with pytest.raises(ValueError, match=r'is not a budget; give a share of the whole network'):
        read_flops(value, 4608338304)


@pytest.mark.parametrize('value', [0, -0.5, 2.8, 1.0001, '4.608338305 GFLOPs', '1e999999', '-1'])
def test_flops_out_of_range(value):
    with pytest.raises(ValueError, match=r"above 0 and up to .* up to '4\.608338304 GFLOPs'"):
        read_flops(value, 4608338304)


@settings(max_examples=50, deadline=None)
@given(networks, fixeds)
def test_advice_about_budgets_is_accepted(modules, fixed):
    """One multiply-add less than the smallest choice is refused; what is advised is not."""
    whole, least = cost_of(modules, fixed, all_of(modules)), budget_of(modules, fixed, 0)
    with pytest.raises(ValueError, match='less than the smallest choice costs') as refused:
        choose(modules, fixed, least - 1)
    advice = str(refused.value).rpartition(' ')[2]
    assert least <= Fraction(advice) * whole
    assert choose(modules, fixed, read_flops(advice, whole))
    with pytest.raises(ValueError, match='more than the whole network costs'):
        choose(modules, fixed, whole + 1)


MODULES = [Units('heads', 10, (1.0, 2.0)), Units('hidden', 2, (0.1, 0.3, 0.2))]


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(by='size'), r"by='size' is not known; give one of \('share', 'cost'\)"),
        (dict(only='tokens'), r"only='tokens' is no kind .* give one of \('heads', 'hidden'\)"),
        (dict(multiple=0), r'multiple=0 must be a whole number, at least 1'),
        (dict(multiple=1.5), r'multiple=1.5 must be'),
        (dict(multiple=8, fill=True), r'fill=True adds single .* multiple=8'),
        (dict(only='heads', fill=True), r"fill=True is about hidden units, but only='heads'"),
        (dict(only='heads', multiple=8), r"multiple=8 is about hidden units, but only='heads'"),
    ],
)
def test_options_that_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        choose(MODULES, 5, 25, **options)


@pytest.mark.parametrize('score', [float('nan'), float('inf'), -1.0])
def test_scores_that_cannot_be(score):
    modules = [MODULES[0], Units('hidden', 2, (0.1, score, 0.2))]
    with pytest.raises(ValueError, match=r'module 2: unit 2 of 3 \(hidden\) has the score'):
        choose(modules, 5, 25)


def test_a_budget_below_the_smallest_choice():
    with pytest.raises(
        ValueError,
        match=r'1\.6e-08 GFLOPs is less than .* 1\.7e-08 GFLOPs, 0\.55 of the whole network '
        r'\(one unit a module\); give at least 0\.55',
    ):
        choose(MODULES, 5, 16)
    with pytest.raises(ValueError, match=r"2\.7e-08 .*\(one unit a module, only='hidden'\)"):
        choose(MODULES, 5, 26, only='hidden')
