# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""T2T-ViT and DeiT III: what the laws do not say. What they correct is in test_faults.py."""

import pytest
import torch

from bvit_mm import ElasticDeiT3, ElasticT2TViT
from bvit_mm.stage_images import at_stage_size

from .support.cases import DEIT3, T2T, T2T_STAGES

SCALED = [
    dict(heads=2, hidden=288, grid=10, view='scale'),
    dict(heads=4, hidden=576, grid=12, view='scale'),
    dict(),
]


@pytest.mark.parametrize(
    'elastic, options, parameters, gflops',
    [  # with a classifier of 1000 classes
        (ElasticT2TViT, dict(training_stages=3), 21_465_422, (2.2434, 3.4654, 6.1055)),
        (ElasticT2TViT, dict(training_stages=SCALED), 21_465_422, (1.1205, 2.7776, 6.1055)),
        (ElasticDeiT3, dict(arch='small', training_stages=3), 22_059_496, (0.6901, 1.9048, 4.6083)),
    ],
)
def test_costs_and_the_ladder_of_three_stages(elastic, options, parameters, gflops):
    """DeiT III's cost is that of DeiT-S in Table 6; layer scale and positions cost nothing."""
    with torch.device('meta'):
        network = elastic(**options)
    stages = network.training_stages
    assert [stage.grid for stage in stages] == [(10, 10), (12, 12), (14, 14)]
    assert [stage.heads for stage in stages] == [2, 4, 6]
    assert sum(p.numel() for p in network.parameters()) + 1000 * 385 == parameters
    found = [(network.flops(k) + 384_000) / 1e9 for k in range(3)]
    assert found == pytest.approx(gflops, abs=1e-4)


def test_what_scaled_stages_see():
    network = ElasticT2TViT(**T2T, training_stages=[dict(grid=(2, 3), view='scale'), dict()])
    assert network.seen_size(0) == (32, 48)
    assert network.seen_size(0, (128, 128)) == (64, 96)
    assert network.patch_grid((32, 48)) == (2, 3)


def test_centers_of_images_come_whole_from_the_data_workers():
    """What makes the tokens looks at the whole image."""
    network = ElasticT2TViT(**T2T, training_stages=T2T_STAGES)
    with pytest.raises(ValueError, match='patches overlap, so the outermost need what lies around'):
        at_stage_size([], network, 0)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            dict(img_size=(64, 64)),
            r'img_size=\(64, 64\) of ElasticT2TViT must be one number, at le',
        ),
        (
            dict(img_size=8),
            r'img_size=8 of ElasticT2TViT must be one number, at least 16: .*square',
        ),
        (
            dict(img_size=56, training_stages=[dict(heads=1), {}]),
            r'img_size=56 of ElasticT2TViT is no multiple of 16 pixels, the side of a token, .*; '
            r'give a multiple of 16, at least 64, or train the whole network only',
        ),
        (dict(img_size=30), r'img_size=30 of .*; give a multiple of 16, at least 32, or'),
        (
            dict(img_size=100, training_stages=[dict(grid=10), dict(grid=(12, 'x')), {}]),
            r'img_size=100 of .*; give a multiple of 16, at least 192, or',
        ),
        (dict(img_size=30, training_stages=2), r'img_size=30 of .*, at least 32, or'),
        (dict(embed_dims=50), r'a width of 50 is no multiple of num_heads=6'),
        (
            dict(layer_cfgs=[dict(num_heads=n) for n in (6, 3, 6)]),
            r'layer_cfgs give the layers different heads or hidden units',
        ),
        (
            dict(layer_cfgs=dict(num_heads=1, input_dims=48)),
            r'layer_cfgs set input_dims, which add',
        ),
        *(
            (
                dict(layer_cfgs=dict(num_heads=1, input_dims=48), training_stages=None, **form),
                r'gates and widths are of single heads, but layer_cfgs set input_dims',
            )
            for form in (dict(gates=True), dict(gates='dims'), dict(widths=dict(hidden=[9] * 3)))
        ),
        (dict(training_stages=[dict(heads=7), dict()]), r'heads=7, but the model has 6 heads'),
        (
            dict(training_stages=[dict(grid=3), dict()]),
            r'grid=3 is no centre crop of the 4x4 .*scal',
        ),
    ],
)
def test_bad_input_of_t2t_vit(changes, message):
    with pytest.raises(ValueError, match=message):
        ElasticT2TViT(**{**T2T, 'training_stages': [dict(hidden=24, grid=2), dict()], **changes})


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(layer_cfgs=dict(num_fcs=3)), r'layer_cfgs set an MLP other than two linear layers'),
        (dict(training_stages=[dict(heads=4), dict()]), r'heads=4, but the model has 3 heads'),
        (dict(out_type='avg_featmap'), r"avg_featmap.*give 'cls_token', 'featmap' or 'raw'"),
    ],
)
def test_bad_input_of_deit3(changes, message):
    with pytest.raises(ValueError, match=message):
        ElasticDeiT3(**{**DEIT3, 'training_stages': 3, **changes})
