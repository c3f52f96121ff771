# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The laws that hold for every elastic backbone (docs/laws.md), over the table in cases.py."""

import dataclasses

import pytest
import torch
from torch import nn

from bvit_mm.elastic_modules import ElasticFFN
from bvit_mm.testing import LAWS, broken_laws, check_backbone

from .support import added_backbone
from .support.cases import CASES, FAMILIES, vit


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
@pytest.mark.parametrize('law', LAWS)
def test_law(law, case):
    LAWS[law](case)


@pytest.mark.parametrize('frozen', [1, 2])
def test_whole_network_freezes_as_the_plain_class(frozen):
    case = vit('frozen', stages=None, frozen_stages=frozen)
    elastic, plain = case.build(), case.build_plain()
    for model in (elastic, plain):
        model.train()
        torch.manual_seed(5)
        model(case.images())[0].sum().backward()
    for ours, theirs in zip(elastic.parameters(), plain.parameters()):
        assert ours.requires_grad == theirs.requires_grad
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


# The laws find mistakes: each of these backbones is the tiny ViT with one.

TINY = FAMILIES['vit']


class WrongFlops(TINY.elastic):
    def flops(self, k, input_size=None):
        return super().flops(k, input_size) + 1


class IgnoresTheStage(TINY.elastic):
    def forward(self, x):
        stage = self.training_stage
        self.set_training_stage(self.num_training_stages - 1)
        try:
            return super().forward(x)
        finally:
            self.set_training_stage(stage)


class WrongCrop(TINY.elastic):
    def active_grid(self, grid, k):
        rows, columns = super().active_grid(grid, k)
        return rows, columns if k == self.num_training_stages - 1 else columns - 2


class MissingSlotFFN(ElasticFFN):
    slots = ElasticFFN.slots[::2]  # without the bias

    def active_linear(self, name, x):
        weight = self.active_parameter(f'{name}.weight')
        bias = self.get_submodule(name).bias[: len(weight)]
        return nn.functional.linear(x, weight, bias)


class NoOutFFN(ElasticFFN):
    slots = tuple(dataclasses.replace(slot, out=False) for slot in ElasticFFN.slots)


def with_ffn(ffn):
    class Elastic(TINY.elastic):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for layer in self.layers:
                layer.ffn.__class__ = ffn

    return Elastic


class AnotherKey(TINY.elastic):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(1))


class LosesTheStage(TINY.elastic):
    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        rest = {k: v for k, v in local_metadata.items() if k != 'training_stage'}
        super()._load_from_state_dict(state_dict, prefix, rest, *args)


class DrawsWhenGrown(TINY.elastic):
    def set_training_stage(self, k):
        if 0 < k < self.num_training_stages - 1:
            self.ln1.bias.data.add_(1.0)
        super().set_training_stage(k)


@pytest.mark.parametrize(
    'elastic, laws',
    [  # and the laws that it must break, at least
        (WrongFlops, {'flops_equal_a_counter', 'flops_of_other_image_sizes_equal_a_counter'}),
        (IgnoresTheStage, {'stage_equals_small_network', 'inactive_units_get_exactly_zero'}),
        (WrongCrop, {'stage_equals_small_network'}),
        (with_ffn(MissingSlotFFN), {'half_growth_preserves_the_function', 'stage_shrinks'}),
        (with_ffn(NoOutFFN), {'half_growth_preserves_the_function'}),
        (AnotherKey, {'same_seed_gives_the_plain_network'}),
        (LosesTheStage, {'weights_of_an_unfinished_run'}),
        (DrawsWhenGrown, {'growth_leaves_old_units_untouched'}),
    ],
)
def test_a_broken_backbone_is_found(elastic, laws):
    case = dataclasses.replace(TINY, elastic=elastic)
    found = broken_laws(case)
    for law in laws:
        assert any(name.startswith(law) for name in found), f'{law} is kept; broken: {[*found]}'
    assert len(found) < len(LAWS) // 2  # else it breaks them all, by not being built


def test_check_of_the_docs():
    exec(added_backbone.CHECK, dict(RIFORMER=added_backbone.RIFORMER))


def test_check_names_every_law_that_is_broken():
    check_backbone(TINY)
    with pytest.raises(AssertionError) as error:
        check_backbone(dataclasses.replace(TINY, name='mine', elastic=WrongFlops))
    message = str(error.value)
    assert message.startswith(f'mine breaks 4 of {len(LAWS)} laws:\n')
    assert '\nflops_equal_a_counter: AssertionError(' in message and 'flops(0) is not ' in message
