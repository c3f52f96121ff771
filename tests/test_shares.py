# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Shares of a budget: what each training stage gets, in GFLOPs and in hours."""

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bvit_mm.budget import MeteredBudget, read_budget
from bvit_mm.hours import Pace
from bvit_mm.plan import make_plan
from bvit_mm.shares import exact_epochs, read_shares, shared_epochs

DEIT_S = (0.690094464, 1.904813952, 4.608338304)
ROUNDING = 1e-9

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
    assert exact_epochs([1, 2, 4], [0.5, 0.49, 0.01], 40) == pytest.approx([18.1818, 8.9091, 1])
    assert exact_epochs([1, 2, 4], [0.2, 0.4, 0.4], 7) == [1, 1, 1]
