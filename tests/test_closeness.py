# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the other tests call near."""

import pytest
import torch

from bvit_mm.testing.closeness import assert_near, distance, tolerance


@pytest.mark.parametrize(
    'ours, theirs, expected',
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.5, -4.0], [0.0, -4.0], 0.125),  # of the largest value, not of 0
        ([0.0], [0.0], 0.0),
        ([1e-30], [0.0], float('inf')),
    ],
)
def test_distance(ours, theirs, expected):
    assert distance(torch.tensor(ours), torch.tensor(theirs)) == expected


def test_tolerance_is_that_of_the_laws():
    assert tolerance(torch.float32) == pytest.approx(1e-5, rel=0.01)
    assert tolerance(torch.float64) < 1e-10


@pytest.mark.parametrize('dtype, off', [(torch.float32, 1.1e-5), (torch.float64, 1.1e-12)])
def test_what_is_not_near_fails(dtype, off):
    theirs = torch.tensor([1.0, 0.5], dtype=dtype)
    assert_near(theirs + off / 2, theirs)
    assert_near(theirs + off, theirs, passes=2)
    for ours in (theirs + off, theirs * float('nan'), theirs[:1], theirs.half()):
        with pytest.raises(AssertionError):
            assert_near(ours, theirs)
