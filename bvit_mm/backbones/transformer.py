# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What families share whose layers are alike: an ``attn`` of heads and an ``ffn`` of hidden units.

The layers are those of mmpretrain's ``VisionTransformer`` and ``T2T_ViT``.
"""

from collections.abc import Iterable
from typing import Any

from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from .. import flops
from ..elastic import center_crop
from ..elastic_modules import (
    ElasticFFN,
    ElasticMultiheadAttention,
    Units,
    elasticize_,
    is_plain_ffn,
)
from ..head_dims import HeadDimAttention
from ..resampling import resized_map
from ..training_stages import TrainingStage


def elasticize_layers_(layers: Iterable[Any]) -> None:
    """Makes the attention and the MLP of each layer elastic, but for MLPs of another kind."""
    for layer in layers:
        elasticize_(layer.attn, ElasticMultiheadAttention)
        if is_plain_ffn(layer.ffn):
            elasticize_(layer.ffn, ElasticFFN)


def check_layers(
    layers: Iterable[Any], width: int, whole: TrainingStage, reason: str | None = None
) -> None:
    """Checks that training stages can split all layers alike.

    Args:
        layers: The layers, elastic.
        width: Of the tokens.
        whole: What the whole network has.
        reason: Why the network cannot be split, if the layers can.

    Raises:
        ValueError: If they cannot.
    """
    if not all(is_plain_ffn(layer.ffn) for layer in layers):
        reason = 'layer_cfgs set an MLP other than two linear layers (ffn_type, num_fcs)'
    elif any(
        (layer.attn.num_heads, layer.ffn.feedforward_channels) != (whole.heads, whole.hidden)
        for layer in layers
    ):
        reason = 'layer_cfgs give the layers different heads or hidden units'
    elif width % whole.heads:
        reason = f'a width of {width} is no multiple of num_heads={whole.heads}'
    if reason:
        raise ValueError(
            f'training_stages split every layer alike, but {reason}; '
            'drop that, or train the whole network only (training_stages=None)'
        )


def units_of_layers(layers: Iterable[Any], stage: TrainingStage) -> Units:
    """The elastic modules of layers, with their units in a training stage."""
    for layer in layers:
        if isinstance(layer.attn, HeadDimAttention):
            yield layer.attn, 'dims', stage.heads * layer.attn.head_dims
        else:
            yield layer.attn, 'heads', stage.heads
        if isinstance(layer.ffn, ElasticFFN):
            yield layer.ffn, 'hidden', stage.hidden


def flops_of_layers(layers: Iterable[Any], units: Units, tokens: int, width: int) -> int:
    """Multiply-adds of layers with so many tokens, both norms included."""
    total = 0
    for module, _, active in units:
        if isinstance(module, HeadDimAttention):
            total += module.flops(tokens, width, active)
        elif isinstance(module, ElasticMultiheadAttention):
            total += flops.attention(tokens, tokens, width, active * module.head_dims)
        else:
            total += flops.mlp(tokens, width, active)
    for layer in layers:
        total += 2 * flops.norm(tokens, width)
        if not isinstance(layer.ffn, ElasticFFN):
            total += flops.linears(layer.ffn, tokens)
    return total


def placed(
    backbone: Any, x: Tensor, grid: tuple[int, int], pos: Tensor
) -> tuple[Tensor, tuple[int, int]]:
    """Patch tokens with their positions, as the training stage has them, and their grid.

    Args:
        backbone: The backbone, with mmpretrain's ``patch_resolution`` and ``interpolate_mode``.
        x: All patch tokens of what it has seen: (B, rows x columns, C).
        grid: Their rows and columns.
        pos: Positions of the patch tokens of the whole network: (1, tokens, C).
    """
    resolution = tuple(backbone.patch_resolution)
    if backbone.view(backbone.training_stage) == 'scale':
        return x + resized_map(pos[0].unflatten(0, resolution), grid).flatten(0, 1), grid
    whole = backbone.grid_of_all(grid)
    pos = resize_pos_embed(pos, resolution, whole, backbone.interpolate_mode, 0)
    crop = backbone.active_grid(whole, backbone.training_stage)
    return center_crop(x, grid, crop) + center_crop(pos, whole, crop), crop
