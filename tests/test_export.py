# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Every backbone leaves torch with a dynamic batch, whole and at every stage (docs/laws.md)."""

import pytest
import torch

from .support.cases import CASES

# Those left out have other numbers of units or stages only, and compute by the same code.
ONLY_NUMBERS = 'number', 'two', 'three', 'four', 'uneven', 'only', 'tiny', 'small', 'b2-linear'
TRACED = [case for case in CASES if not case.name.endswith(ONLY_NUMBERS)]
EXPORTED = (
    'vit-base',
    'vit-no-cls',
    'vit-featmap',
    'pvtv2-base',
    'pvtv2-linear',
    'swin-padded',
    'swinv2-base',
    'cswin-base',
    'convnext-v2',
    't2t-base',
    'riformer',
)


def named(cases):
    return pytest.mark.parametrize('case', cases, ids=lambda case: case.name)


def equals_another_batch(exported, backbone, case):
    """Made with two images, it computes what the backbone does of five, bit for bit."""
    images = case.images(batch=5, seed=3)
    ours = exported(images)
    return all(map(torch.equal, ours, backbone(images)))


def exported(backbone, case):
    shapes = ({0: torch.export.Dim('batch', min=1, max=64)},)
    program = torch.export.export(
        backbone, (case.images(batch=2),), dynamic_shapes=shapes, strict=False
    )
    return program.module()


def at_stages(case):
    """The backbone at the first stage and whole, and built with the first stage only.

    The stages between compute by the code of the first.
    """
    first, whole = case.build(), case.build()
    first.set_training_stage(0)
    return first, case.build(only_stage=0), whole


@named([case for case in CASES if case.name in EXPORTED])
def test_every_stage_exports_with_a_dynamic_batch(case):
    for backbone in at_stages(case):
        assert equals_another_batch(exported(backbone, case), backbone, case)


@named(TRACED)
def test_every_stage_is_traced_for_any_batch(case):
    for backbone in at_stages(case):
        traced = torch.jit.trace(backbone, case.images(batch=2), check_trace=False)
        assert equals_another_batch(traced, backbone, case)


def test_heads_of_different_widths_leave_torch():
    (case,) = (case for case in CASES if case.name == 'vit-base')
    widths = dict(dims=[[1, 8, 0, 3, 2, 5], [3, 3, 3, 7, 1, 1], [8] * 5 + [0]])
    backbone = case.build(training_stages=None, widths=widths)
    traced = torch.jit.trace(backbone, case.images(batch=2), check_trace=False)
    for program in (traced, exported(backbone, case)):
        assert equals_another_batch(program, backbone, case)
