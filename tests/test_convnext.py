# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ConvNeXt and PoolFormer, networks without heads: what the laws do not say."""

import pytest
import torch
from torch import nn

from bvit_mm import ElasticConvNeXt, ElasticPoolFormer
from bvit_mm.drop_path import rates_of
from bvit_mm.growth import grow_
from bvit_mm.testing.closeness import distance

from .support.cases import CONVNEXT, CONVNEXT_V2, POOLFORMER, WHOLE_MULTIPLES, convnext, poolformer

SMALL = [(ElasticConvNeXt, CONVNEXT), (ElasticPoolFormer, POOLFORMER)]
both = pytest.mark.parametrize('elastic, kwargs', SMALL)


@pytest.mark.parametrize(
    'elastic, arch, parameters, gflops, backbone',
    [  # with a classifier of 1000 classes; the whole backbone is also fvcore's count
        (ElasticConvNeXt, 'tiny', 28_589_128, (0.6965, 1.760, 4.470), 4_469_631_744),
        (ElasticConvNeXt, 'small', 50_223_688, (1.265, 3.343, 8.705), 8_704_586_496),
        (ElasticPoolFormer, 's12', 11_915_176, (0.3401, 0.7667, 1.8227), 1_822_166_528),
    ],
)
def test_costs_and_the_ladder_of_three_stages(elastic, arch, parameters, gflops, backbone):
    with torch.random.fork_rng():
        network = elastic(arch=arch, training_stages=3)
    stages = network.training_stages
    assert [stage.grid for stage in stages] == [(40, 40), (48, 48), (56, 56)]
    for k, divisor in enumerate((4, 2, 1)):
        assert stages[k].hidden == tuple(units // divisor for units in network.whole.hidden)
    width = getattr(network, f'norm{max(network.out_indices)}').weight.numel()
    assert sum(p.numel() for p in network.parameters()) + 1000 * (width + 1) == parameters
    found = [(network.flops(k) + 1000 * width) / 1e9 for k in range(3)]
    assert found == pytest.approx(gflops, rel=5e-4)
    assert network.flops(2) == backbone


@both
def test_heads_are_refused(elastic, kwargs):
    name = elastic.__name__
    with pytest.raises(
        ValueError,
        match=rf"stage 1: heads=2, but {name} has no heads; give .*\('hidden', 'grid', 'view'\)$",
    ):
        elastic(**kwargs, training_stages=[dict(heads=2, grid=8), dict()])
    with pytest.raises(ValueError, match=rf'stage 2: window=7, but {name} has no window'):
        elastic(**kwargs, training_stages=[dict(), dict(window=7)])


@pytest.mark.parametrize(
    'elastic, changes, message',
    [
        (ElasticConvNeXt, dict(frozen_stages=1), r'frozen_stages=1 freezes weights'),
        (
            ElasticPoolFormer,
            dict(frozen_stages=0),
            r'frozen_stages=0 freezes the patch embedding.*give frozen_stages=-1',
        ),
        (
            ElasticConvNeXt,
            dict(training_stages=[dict(grid=2), dict()]),
            r'training stage 1: grid=\(2, 2\) leaves no tokens at level 3; give a larger grid, at '
            r'least 4 tokens a side at level 1',
        ),
        (
            ElasticConvNeXt,
            dict(img_size=6, training_stages=None),
            r'img_size=\(6, 6\) of ElasticConvNeXt leaves no tokens at level 3; give larger images',
        ),
        (
            ElasticConvNeXt,
            dict(training_stages=[dict(hidden=(64, 97, 128)), dict()]),
            r'hidden=\(64, 97, 128\), but level 2 has 96 hidden; give 1..96',
        ),
        (
            ElasticPoolFormer,
            dict(training_stages=[dict(grid=7), dict()]),
            r"grid=7 is no centre crop of the 16x16.*or view='scale', which takes any",
        ),
    ],
)
def test_bad_input(elastic, changes, message):
    with pytest.raises(ValueError, match=message):
        elastic(**{**dict(SMALL)[elastic], 'training_stages': 3, **changes})


def test_nothing_of_poolformer_is_frozen_unless_asked():
    kwargs = {key: value for key, value in POOLFORMER.items() if key != 'frozen_stages'}
    assert all(p.requires_grad for p in ElasticPoolFormer(**kwargs).train().parameters())
    embed = ElasticPoolFormer(**kwargs, frozen_stages=0).patch_embed
    assert not any(p.requires_grad for p in embed.parameters())


@both
def test_detectors_start_from_a_classifiers_weights(elastic, kwargs, tmp_path):
    """All of them; the norms of maps that a classifier does not read are new."""
    weights = elastic(**kwargs).state_dict()
    file = tmp_path / 'published.pth'
    torch.save({'state_dict': {f'backbone.{key}': w for key, w in weights.items()}}, file)
    start = dict(type='Pretrained', checkpoint=str(file), prefix='backbone.')
    indices = (0, 1, 2) if elastic is ElasticConvNeXt else (0, 2, 4)
    network = elastic(**{**kwargs, 'out_indices': indices}, init_cfg=start)
    network.init_weights()
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    new = {f'norm{i}.{name}' for i in indices[:-1] for name in ('weight', 'bias')}
    assert loaded.keys() - weights.keys() == new


@both
def test_every_block_has_a_rate_that_recipes_may_set(elastic, kwargs):
    """The plain classes give a block that drops nothing no DropPath."""
    assert rates_of(elastic(**kwargs)) == pytest.approx([0.0, 0.1 / 3, 0.2 / 3, 0.1])
    assert rates_of(elastic(**{**kwargs, 'drop_path_rate': 0.0})) == [0.0] * 4


def outputs(case, stages, init):
    """Before and after growth, without new tokens."""
    backbone = case.build(training_stages=[dict(hidden=s['hidden']) for s in stages] + [dict()])
    backbone.double().set_training_stage(0)
    images = case.images().double()
    before = backbone(images)[-1]
    grow_(backbone, 1, init=init)
    return before, backbone(images)[-1]


def test_half_growth_of_v2_is_exact_to_whole_multiples_only():
    """The mean over units counts each unit as often as any other, or does not."""
    case = convnext('half', **CONVNEXT_V2)
    small, double = WHOLE_MULTIPLES[:2]
    assert distance(*outputs(case, (small, double), 'half')) < 1e-12
    odd = dict(hidden=tuple(units + 1 for units in double['hidden']))
    assert distance(*outputs(case, (small, odd), 'half')) > 1e-4
    assert distance(*outputs(convnext('v1'), (small, odd), 'half')) < 1e-12


@pytest.mark.parametrize('case', [convnext('cp', **CONVNEXT_V2), convnext('cp1')])
def test_gradients_with_activation_checkpoints_are_the_same(case):
    for k in range(3):
        found = []
        for with_cp in (False, True):
            backbone = case.build(with_cp=with_cp).train()
            backbone.set_training_stage(k)
            images = case.images().requires_grad_()
            torch.manual_seed(0)
            backbone(images)[-1].square().sum().backward()
            found.append([images.grad, *(p.grad for p in backbone.parameters())])
        assert all(map(torch.equal, *found))


@pytest.mark.parametrize('case', [convnext('small', **CONVNEXT_V2), poolformer('small')])
def test_a_small_network_says_its_sizes(case):
    """So that it prints, and is exported, as what it is."""
    backbone = case.build()
    backbone.shrink_(0)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels, module.in_channels // module.groups
            assert channels == module.weight.shape[:2]
        if type(module).__name__ == 'GRN':
            assert module.in_channels == len(module.gamma)
