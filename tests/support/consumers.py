# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Networks of the table that other programs have too, and those programs' networks."""

import copy
from importlib import import_module

from . import cases
from .runs import FAMILIES


def side(family):
    """Of the images that a family's network is built for."""
    return cases.FAMILIES[family].kwargs['img_size']


def timms(family):
    """timm's network for a family, of four classes."""
    path, options = cases.TIMM[family]
    module, name = path.split('.')
    return getattr(import_module(f'timm.models.{module}'), name)(**options, num_classes=4)


def pipeline(family):
    """How an image is read."""
    resize = dict(type='bvit_mm.Resize', scale=(side(family), side(family)))
    return [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]


def changes_of(family):
    """Changes of ``runs.config`` that give a network which timm has, if it has the family."""
    changes = copy.deepcopy(FAMILIES[family])
    changes['custom_imports'] = dict(
        imports=['bvit_mm', 'tests.support.runs'], allow_failed_imports=False
    )
    changes['val_dataloader.dataset.pipeline'] = pipeline(family)
    backbone = changes['model.backbone']
    if family == 'swin':  # a second block in the last level, whose windows may shift
        backbone['arch'] = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4])
    if family == 'pvtv2':  # timm has other paddings than ours for small kernels
        backbone.update(patch_sizes=(7, 3), strides=(4, 2))
    if family == 'convnext':  # timm's has four levels
        backbone['stem_patch_size'] = 1
        backbone['arch'] = dict(depths=[1] * 4, channels=[8, 16, 24, 32])
        backbone['out_indices'] = (3,)
    return changes
