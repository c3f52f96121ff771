# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What redundancy is measured on."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from bvit_mm.testing.case import randomized

from .plain_cswin import PlainCSWin
from .plain_pvtv2 import PlainPVTv2
from .plain_swin import PlainSwin
from .plain_vit import PlainViT
from .runs import FAMILIES, config

PLAIN = dict(vit=PlainViT, pvtv2=PlainPVTv2, swin=PlainSwin, cswin=PlainCSWin)


every_family = pytest.mark.parametrize('family', PLAIN)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def classifier(family='vit', **changes):
    """A tiny classifier with weights that are nowhere zero, and images for it."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(config('unused', **FAMILIES[family], **changes).model)
    return randomized(model), [
        list(draw(3, 3, 16, 16, dtype=torch.float32)),
        [torch.ones(3, 16, 16)],
    ]


SWITCH = dict(type='bvit_mm.StageSwitchHook')


MEASURE = dict(type='bvit_mm.RedundancyHook', num_images=6)
