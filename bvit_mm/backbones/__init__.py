# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Elastic backbones, one file a family."""

from .convnext import ElasticConvNeXt
from .cswin import ElasticCSWin
from .deit3 import ElasticDeiT3
from .poolformer import ElasticPoolFormer
from .pvtv2 import ElasticPVTv2
from .swin import ElasticSwinTransformer
from .swinv2 import ElasticSwinTransformerV2
from .t2t_vit import ElasticT2TViT
from .vit import ElasticVisionTransformer

__all__ = [
    'ElasticCSWin',
    'ElasticConvNeXt',
    'ElasticDeiT3',
    'ElasticPVTv2',
    'ElasticPoolFormer',
    'ElasticSwinTransformer',
    'ElasticSwinTransformerV2',
    'ElasticT2TViT',
    'ElasticVisionTransformer',
]
