# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Finished weights under timm's names, so that ``timm.create_model`` loads them."""

import re
from collections import OrderedDict

from torch import Tensor

from ..elastic import ElasticBackbone

# A pattern of our key, and timm's key; the first that matches counts, and "" drops the weight.
MLP = (r'ffn\.layers\.0\.0\.', 'mlp.fc1.'), (r'ffn\.layers\.1\.', 'mlp.fc2.')
NAMES = {
    'ElasticVisionTransformer': [
        (r'backbone\.(cls_token|pos_embed)', r'\1'),
        (r'backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
        *((rf'backbone\.layers\.(\d+)\.{ours}', rf'blocks.\1.{theirs}') for ours, theirs in MLP),
        (r'backbone\.layers\.(\d+)\.ln(\d)\.', r'blocks.\1.norm\2.'),
        (r'backbone\.layers\.(\d+)\.attn\.', r'blocks.\1.attn.'),
        (r'backbone\.ln1\.', 'norm.'),
        (r'head\.layers\.head\.', 'head.'),
    ],
    'ElasticSwinTransformer': [
        (r'backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'backbone\.patch_embed\.norm\.', 'patch_embed.norm.'),
        (r'.*\.relative_position_index', ''),
        *(
            (rf'backbone\.stages\.(\d+)\.blocks\.(\d+)\.{ours}', rf'layers.\1.blocks.\2.{theirs}')
            for ours, theirs in (*MLP, (r'attn\.w_msa\.', 'attn.'), (r'norm(\d)\.', r'norm\3.'))
        ),
        (r'backbone\.norm\d\.', 'norm.'),
        (r'head\.fc\.', 'head.fc.'),
    ],
    'ElasticPVTv2': [
        (r'backbone\.levels\.0\.patch_embed\.', 'patch_embed.'),
        (r'backbone\.levels\.(\d+)\.patch_embed\.', r'stages.\1.downsample.'),
        (r'backbone\.levels\.(\d+)\.(blocks|norm)\.', r'stages.\1.\2.'),
        (r'head\.fc\.', 'head.'),
    ],
}
MERGING = re.compile(r'backbone\.stages\.(\d+)\.downsample\.(.+)')


def to_timm(state_dict: dict[str, Tensor], backbone: ElasticBackbone) -> 'OrderedDict[str, Tensor]':
    """A classifier's weights as timm names and orders them.

    Args:
        state_dict: The finished weights of mmpretrain's ``ImageClassifier``.
        backbone: Its backbone.

    Raises:
        ValueError: If timm has no such network: an earlier training stage, another family, or
            a weight that its network does not have.
    """
    family = type(backbone).__name__
    if family not in NAMES or not backbone.is_whole:
        what = family if backbone.is_whole else f'a training stage of {family}'
        raise ValueError(
            f'timm has no network for {what}; give finished weights of one of {tuple(NAMES)}'
        )
    renamed = OrderedDict()
    for key, value in state_dict.items():
        merging = MERGING.fullmatch(key)
        if merging:
            level, name = merging.groups()
            renamed[f'layers.{int(level) + 1}.downsample.{name}'] = _merged(value)
            continue
        for pattern, replacement in NAMES[family]:
            new, count = re.subn(f'^{pattern}', replacement, key)
            if count:
                break
        else:
            raise ValueError(
                f"timm's network for {family} has no weight for {key}; drop --timm, or train "
                'without what has that weight'
            )
        if new:
            renamed[new] = value
    return renamed


def _merged(value: Tensor) -> Tensor:
    """What reads four patches: mmpretrain's order of (channel, row, column), reversed."""
    patches = value.unflatten(-1, (-1, 2, 2))
    return patches.transpose(-1, -3).flatten(-3).contiguous()
