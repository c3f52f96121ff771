# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Elastic backbones, one file a family."""

from .vit import ElasticVisionTransformer

__all__ = ['ElasticVisionTransformer']
