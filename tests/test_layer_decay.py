# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Learning rates that decay layer by layer, as mmpretrain's constructor of optimizers has them."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier
from torch import nn

from .support.cases import CASES

LAST = 99  # a layer after all others
CASE = {case.name: case for case in CASES}
NO_DECAY = 'cls_token', 'pos_embed', 'relative_position_bias_table'


def vit_layers(backbone):
    yield from (
        (0, part) for part in (backbone.patch_embed, backbone.cls_token, backbone.pos_embed)
    )
    yield from enumerate(backbone.layers, start=1)
    yield LAST, backbone.ln1


def swin_layers(backbone):
    layer = 0
    yield layer, backbone.patch_embed
    for level in backbone.stages:
        for block in level.blocks:
            layer += 1
            yield layer, block
        if level.downsample is not None:
            yield layer, level.downsample
    yield LAST, backbone.norm2


def pyramid_layers(backbone):
    layer = 0
    for level in backbone.levels:
        yield layer, level.patch_embed if hasattr(level, 'patch_embed') else level.embed
        for block in level.blocks:
            layer += 1
            yield layer, block
        if hasattr(level, 'norm'):
            yield LAST if level is backbone.levels[-1] else layer, level.norm


def swinv2_layers(backbone):
    layer = 0
    yield layer, backbone.patch_embed
    for i, level in enumerate(backbone.stages):
        if level.downsample is not None:
            yield layer, level.downsample
        for block in level.blocks:
            layer += 1
            yield layer, block
        yield LAST if i == 2 else layer, getattr(backbone, f'norm{i}')


LAYERS = dict(
    vit=vit_layers,
    swin=swin_layers,
    swinv2=swinv2_layers,
    pvtv2=pyramid_layers,
    cswin=pyramid_layers,
)


def groups(backbone):
    """Name, layer, share of the learning rate, learning rate and weight decay of all groups."""
    model = ImageClassifier(backbone, head=dict(type='LinearClsHead', num_classes=2, in_channels=9))
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=dict(
                layer_decay_rate=0.75,
                norm_decay_mult=0.0,
                bias_decay_mult=0.0,
                custom_keys={key: dict(decay_mult=0.0) for key in NO_DECAY},
            ),
        ),
    )
    names = {param: name for name, param in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        (param,) = group['params']
        assert names[param] == group['param_name']
        keys = 'layer_id', 'lr_scale', 'lr', 'weight_decay'
        found[group['param_name']] = tuple(group[key] for key in keys)
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize(
    'name', ['vit-base', 'swin-base', 'swinv2-outputs', 'pvtv2-base', 'cswin-outputs']
)
@pytest.mark.parametrize('changes', [dict(), dict(only_stage=0)], ids=['whole', 'one stage'])
def test_groups_follow_the_layers(name, changes):
    backbone = CASE[name].build(**changes)
    parts = list(LAYERS[name.split('-')[0]](backbone))
    last = max(layer for layer, _ in parts if layer != LAST) + 1
    layer_of = {}
    for layer, part in parts:
        params = [part] if isinstance(part, nn.Parameter) else part.parameters()
        layer_of.update(dict.fromkeys(params, min(layer, last)))
    found = groups(backbone)
    for param_name, param in backbone.named_parameters():
        layer = layer_of[param]
        scale = 0.75 ** (last - layer)
        decays = param.ndim > 1 and not param_name.endswith(NO_DECAY)
        expected = layer, scale, 1e-3 * scale, 0.05 * decays
        assert found.pop(f'backbone.{param_name}') == expected, param_name
    assert found == {
        'head.fc.weight': (last, 1.0, 1e-3, 0.05),
        'head.fc.bias': (last, 1.0, 1e-3, 0.0),
    }


@pytest.mark.parametrize(
    'name', ['vit-base', 'vit-no-cls', 'swin-base', 'swin-outputs', 'convnext-base']
)
def test_groups_are_those_of_the_plain_class(name):
    assert groups(CASE[name].build()) == groups(CASE[name].build_plain())


def test_names_that_are_not_of_the_backbone_are_of_the_last_layer():
    for name in ('pvtv2-base', 'vit-base', 'swin-base', 'swinv2-base', 'cswin-base'):
        backbone = CASE[name].build()
        _, count = backbone.get_layer_depth('head.fc.weight', 'backbone.')
        assert backbone.get_layer_depth('head.fc.weight', 'backbone.')[0] == count - 1
        assert backbone.get_layer_depth('unknown.weight')[0] == count - 1
        assert backbone.get_layer_depth('levels.0.blocks.0.fc1.weight', 'backbone.')[0] == count - 1


def test_a_plain_class_without_layers_is_refused_by_mmpretrain():
    """As docs/add_a_backbone.md says of its example."""
    with pytest.raises(NotImplementedError, match='get_layer_depth'):
        groups(CASE['riformer'].build())
