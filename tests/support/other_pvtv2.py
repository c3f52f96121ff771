# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""PVTv2 of other libraries, with the weights of ours: what test_pvtv2.py compares it with."""

import torch
from torch import nn


def mmdet_pvtv2(backbone):
    """mmdet's ``PyramidVisionTransformerV2`` (there is no linear one), and its keys of ours.

    All its norms have eps=1e-6; the official ones of patch embeddings and reductions 1e-5.
    """
    from mmdet.models.backbones import PyramidVisionTransformerV2

    settings = backbone.arch_settings
    plain = PyramidVisionTransformerV2(
        embed_dims=settings['embed_dims'][0] // settings['num_heads'][0],
        num_layers=settings['depths'],
        num_heads=settings['num_heads'],
        sr_ratios=settings['sr_ratios'],
        mlp_ratios=settings['mlp_ratios'],
        drop_path_rate=max(m.drop_prob for m in backbone.modules() if hasattr(m, 'drop_prob')),
        out_indices=backbone.out_indices,
    )
    for name, module in plain.named_modules():
        if isinstance(module, nn.LayerNorm) and ('.attn.norm' in name or name.endswith('.0.norm')):
            module.eps = 1e-5
    renamed = {}
    for name, value in backbone.state_dict().items():
        _, level, part, rest = name.split('.', 3)
        name = f'layers.{level}.{dict(patch_embed=0, blocks=1, norm=2)[part]}.{rest}'
        if part == 'blocks' and '.attn.q.' in name:
            kv = backbone.state_dict()[f'levels.{level}.blocks.{rest.replace(".q.", ".kv.")}']
            value, name = torch.cat([value, kv]), name.replace('.q.', '.attn.in_proj_')
        elif '.attn.kv.' in name:
            continue
        name = name.replace('.attn.proj.', '.attn.attn.out_proj.').replace(
            '0.proj.', '0.projection.'
        )
        for ours, theirs in (('fc1', 0), ('dwconv', 1), ('fc2', 4)):
            if f'.mlp.{ours}.' in name:
                name = name.replace(f'.mlp.{ours}.', f'.ffn.layers.{theirs}.')
                if name.endswith('weight') and value.dim() == 2:
                    value = value[..., None, None]
        renamed[name] = value
    plain.load_state_dict(renamed, strict=True)
    return plain


def timm_pvtv2(backbone, linear):
    """timm's ``PyramidVisionTransformerV2``, without its classifier."""
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    settings = backbone.arch_settings
    plain = PyramidVisionTransformerV2(
        depths=settings['depths'],
        embed_dims=settings['embed_dims'],
        num_heads=settings['num_heads'],
        sr_ratios=settings['sr_ratios'],
        mlp_ratios=settings['mlp_ratios'],
        linear=linear,
        num_classes=0,
    )
    renamed = {}
    for name, value in backbone.state_dict().items():
        _, level, rest = name.split('.', 2)
        if rest.startswith('patch_embed.'):
            rest = rest.removeprefix('patch_embed.')
            place = 'patch_embed' if level == '0' else f'stages.{level}.downsample'
            renamed[f'{place}.{rest}'] = value
        else:
            renamed[f'stages.{level}.{rest}'] = value
    plain.load_state_dict(renamed, strict=True)
    return plain


def official_keys(arch_settings, linear, classes=1000):
    """Names and shapes of the official weights (whai362/PVT, classification/pvt_v2.py)."""
    channels, shapes = 3, {}
    for i, (width, depth, ratio, sr) in enumerate(
        zip(*(arch_settings[n] for n in ('embed_dims', 'depths', 'mlp_ratios', 'sr_ratios'))), 1
    ):
        patch, hidden = 7 if i == 1 else 3, ratio * width
        _linear(shapes, f'patch_embed{i}.proj', (width, channels, patch, patch))
        _linear(shapes, f'patch_embed{i}.norm', (width,))
        for j in range(depth):
            block = f'block{i}.{j}.'
            _linear(shapes, block + 'norm1', (width,))
            _linear(shapes, block + 'norm2', (width,))
            _linear(shapes, block + 'attn.q', (width, width))
            _linear(shapes, block + 'attn.kv', (2 * width, width))
            _linear(shapes, block + 'attn.proj', (width, width))
            if linear or sr > 1:
                kernel = 1 if linear else sr
                _linear(shapes, block + 'attn.sr', (width, width, kernel, kernel))
                _linear(shapes, block + 'attn.norm', (width,))
            _linear(shapes, block + 'mlp.fc1', (hidden, width))
            _linear(shapes, block + 'mlp.dwconv.dwconv', (hidden, 1, 3, 3))
            _linear(shapes, block + 'mlp.fc2', (width, hidden))
        _linear(shapes, f'norm{i}', (width,))
        channels = width
    _linear(shapes, 'head', (classes, channels))
    return shapes


def _linear(shapes, name, weight):
    shapes[name + '.weight'] = weight
    shapes[name + '.bias'] = weight[:1]
