# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Learning rates against the paper's formulas (Eq. 9)."""

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

import bvit_mm


def rates(name, steps, lr=0.5, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = PARAM_SCHEDULERS.build(
        dict(type=f'bvit_mm.{name}', optimizer=optimizer, end=steps, **options)
    )
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return values


FORMULAS = dict(
    LinearDecayLR=lambda z: 1 - z,
    REXLR=lambda z: (1 - z) / (0.5 + 0.5 * (1 - z)),
)


@pytest.mark.parametrize('name', FORMULAS)
@pytest.mark.parametrize('steps', [1, 2, 10, 75])
def test_formula_of_the_paper(name, steps):
    expected = [0.5 * FORMULAS[name](t / steps) for t in range(steps)]
    assert rates(name, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('name', FORMULAS)
def test_last_step_still_trains(name):
    assert min(rates(name, 10)) > 0


@pytest.mark.parametrize('name', FORMULAS)
def test_eta_min_and_begin(name):
    values = rates(name, 12, eta_min=0.1, begin=2)
    expected = [0.1 + 0.4 * FORMULAS[name](t / 10) for t in range(10)]
    assert values[:2] == [0.5, 0.5]
    assert values[2:] == pytest.approx(expected, rel=1e-12)


def test_converts_to_iterations():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = bvit_mm.REXLR.build_iter_from_epoch(
        optimizer, begin=1, end=4, by_epoch=True, epoch_length=10
    )
    assert (scheduler.begin, scheduler.end, scheduler.by_epoch) == (10, 40, False)


@pytest.mark.parametrize('name', FORMULAS)
def test_power_is_refused(name):
    with pytest.raises(ValueError, match=f'{name} has no power=2; drop it'):
        rates(name, 10, power=2)
