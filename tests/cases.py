# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One row a backbone: the laws in test_laws.py are parametrised over this table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from bvit_mm import ElasticVisionTransformer

from .plain_vit import PlainViT


@dataclass
class Case:
    """A small elastic backbone, the plain class it must equal, and independent small networks."""

    name: str
    elastic: type
    plain: type
    small: Callable[..., nn.Module]
    stages: Any
    kwargs: dict = field(default_factory=dict)

    def build(self, seed=0, **changes):
        """An elastic backbone in eval mode, every weight drawn at random."""
        torch.manual_seed(seed)
        kwargs = {'training_stages': self.stages, **self.kwargs, **changes}
        return randomised(self.elastic(**kwargs))

    def build_plain(self, seed=0):
        torch.manual_seed(seed)
        return randomised(self.plain(**self.kwargs))

    def images(self, batch=2, seed=1):
        size = self.kwargs['img_size']
        height, width = size if isinstance(size, tuple) else (size, size)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, height, width, generator=generator)


def randomised(model):
    """Draws what is zero or one at the start too, so that nothing is equal by accident."""
    for param in model.parameters():
        param.data.add_(0.1 * torch.randn_like(param))
    model.eval()
    return model


VIT = dict(
    arch=dict(embed_dims=48, num_layers=3, num_heads=6, feedforward_channels=96),
    img_size=32,
    patch_size=4,
    drop_path_rate=0.1,
)
VIT_STAGES = [
    dict(heads=2, hidden=24, grid=4),
    dict(heads=4, hidden=48, grid=6),
    dict(heads=6, hidden=96, grid=8),
]


def vit(name, stages=VIT_STAGES, **changes):
    return Case(
        f'vit-{name}',
        ElasticVisionTransformer,
        VisionTransformer,
        PlainViT,
        stages,
        {**VIT, **changes},
    )


CASES = [
    vit('base'),
    vit('number', stages=3),
    vit('two', stages=2),
    vit('four', stages=4),
    vit('uneven', stages=[dict(heads=4, hidden=35, grid=6), dict(heads=5, hidden=96), dict()]),
    vit('no-bias', qkv_bias=False, layer_scale_init_value=0.5),
    vit('no-cls', with_cls_token=False, out_type='avg_featmap'),
    vit('featmap', out_type='featmap'),
    vit('raw', out_type='raw'),
    vit('outputs', out_indices=[0, 2]),
    vit('pre-norm', pre_norm=True, patch_cfg=dict(norm_cfg=None)),
    vit('deit-tiny', stages=3, arch='deit-tiny', img_size=224, patch_size=16),
    vit('deit-small', stages=3, arch='deit-small', img_size=224, patch_size=16),
    vit(
        'oblong',
        stages=[dict(heads=3, hidden=48, grid=(4, 3)), dict(grid=(4, 5)), dict()],
        img_size=(24, 28),
    ),
]
