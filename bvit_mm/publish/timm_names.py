# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Finished weights under timm's names, so that ``timm.create_model`` loads them."""

import re
from collections import OrderedDict

from torch import Tensor

from .. import backbones
from ..elastic import ElasticBackbone


def to_timm(state_dict: dict[str, Tensor], backbone: ElasticBackbone) -> 'OrderedDict[str, Tensor]':
    """A classifier's weights as timm names and orders them.

    Args:
        state_dict: The finished weights of mmpretrain's ``ImageClassifier``.
        backbone: Its backbone.

    Raises:
        ValueError: If timm has no such network: an earlier training stage, a slimmed network,
            another family, or a weight that its network does not have.
    """
    family = type(backbone).__name__
    if not backbone.timm_names or not backbone.is_whole:
        what = family if backbone.is_whole else f'a training stage of {family}'
        known = tuple(name for name in backbones.__all__ if getattr(backbones, name).timm_names)
        raise ValueError(f'timm has no network for {what}; give finished weights of one of {known}')
    if backbone.widths is not None:
        raise ValueError(
            f'timm has no network for a slimmed {family}: all of its blocks are alike there; drop '
            '--timm, or let tools/slim.py --padded keep the shapes of the whole network'
        )
    renamed = OrderedDict()
    for key, value in state_dict.items():
        for pattern, replacement in backbone.timm_names:
            new, count = re.subn(f'^{pattern}', replacement, key)
            if count:
                break
        else:
            raise ValueError(
                f"timm's network for {family} has no weight for {key}; drop --timm, or train "
                'without what has that weight'
            )
        if new:
            renamed[new] = backbone.timm_value(key, value)
    return renamed
