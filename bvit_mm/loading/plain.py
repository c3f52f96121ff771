# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Pipelines that need no bvit_mm, for those who have none."""

from collections.abc import Sequence
from typing import Any

from ..config_types import class_of
from ..registry import TRANSFORMS
from .augmenting import RandAugment, RandomFlip
from .decoding import LoadImageFromFile
from .resizing import RandomResizedCrop, Resize, ResizeEdge

# What mmpretrain calls each, and how it computes the same.
PLAIN: dict[type, dict[str, str]] = {
    LoadImageFromFile: dict(type='LoadImageFromFile'),
    RandAugment: dict(type='RandAugment'),
    RandomFlip: dict(type='RandomFlip'),
    RandomResizedCrop: dict(type='RandomResizedCrop', backend='pillow'),
    Resize: dict(type='Resize', backend='pillow'),
    ResizeEdge: dict(type='ResizeEdge', backend='pillow'),
}


def plain_pipeline(pipeline: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pipeline with mmpretrain's own transforms in place of ours, slower."""
    steps = []
    for step in pipeline:
        kind = class_of(step, TRANSFORMS)
        steps.append(step if kind is None else {**step, **PLAIN.get(kind, {})})
    return steps
