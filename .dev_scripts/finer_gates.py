# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Networks with gates of tokens as well, and their cuts: for ``slim_finer.py``."""

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvit_mm import flops
from bvit_mm.cost import classifier_flops
from bvit_mm.head_dims import HeadDimAttention
from bvit_mm.slim.choice import Unit, Units, ranked
from bvit_mm.slim.cutting import scores, slim_
from bvit_mm.slim.hook import penalty

WEIGHT = 0.23  # of the mean gate of each kind, as of SlimHook
FLOOR = 1e-4  # of the gates of tokens, whose logarithm is taken


def add_token_gates_(backbone: Any) -> None:
    """Gives each patch token a gate in each layer: a factor of the attention it gets from there on.

    Attention is normalized after it. So tokens with gates of 0 are absent, exactly: nobody reads
    them in this layer and all later ones. ViT-Slim scales what layers read of a token instead,
    which leaves it a key. The class token has no gate.
    """
    patches = math.prod(backbone.patch_resolution)
    backbone.token_gate = nn.Parameter(torch.ones(len(backbone.layers), patches))
    for i, layer in enumerate(backbone.layers):
        layer.attn.scaled_dot_product_attention = partial(gated_attention, backbone, i)


def presence(gates: Tensor) -> Tensor:
    """How much of each token there is in each layer, 0 to 1: never more than in the one before."""
    return gates.abs().clamp(FLOOR, 1).cumprod(0)


def gated_attention(
    backbone: Any, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0
) -> Tensor:
    """Attention of a layer in which each token counts as much as it is present."""
    logs = F.pad(presence(backbone.token_gate)[layer].log(), (1, 0))
    return F.scaled_dot_product_attention(q, k, v, logs.expand(q.shape[-2], -1), dropout_p)


def select_tokens_(backbone: Any, kept: Sequence[set[int]]) -> None:
    """Has each layer compute with some positions only, in place; each set is part of the last."""
    present = range(math.prod(backbone.patch_resolution))
    for layer, positions in zip(backbone.layers, kept):
        layer.attn.scaled_dot_product_attention = F.scaled_dot_product_attention
        index = [i for i, position in enumerate(present, start=1) if position in positions]
        layer.register_forward_pre_hook(partial(selected, torch.tensor([0, *index])))
        present = sorted(positions)
    del backbone.token_gate


def selected(index: Tensor, _layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """What a layer is given of its tokens: a hook of torch."""
    return (args[0].index_select(1, index),)


def positions_of(backbone: Any, kept: Sequence[Sequence[int]]) -> list[set[int]]:
    """The positions of each layer, of what modules keep; those that an earlier one drops are gone.

    Args:
        backbone: The backbone.
        kept: Units of attention and MLP of each layer in turn, and then maybe its positions.
    """
    layers = len(backbone.layers)
    present, found = set(range(math.prod(backbone.patch_resolution))), []
    for positions in kept[2 * layers :] or [present] * layers:
        present = present & set(positions)
        found.append(present)
    return found


def flops_of(model: nn.Module, kept: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of one image in the network that is cut to some units, classifier included."""
    backbone = model.backbone
    width, total = backbone.embed_dims, classifier_flops(model)
    total += flops.conv(backbone.patch_embed.projection, tuple(backbone.patch_resolution))
    tokens = 0
    for i, (layer, positions) in enumerate(zip(backbone.layers, positions_of(backbone, kept))):
        heads, hidden, tokens = kept[2 * i], kept[2 * i + 1], 1 + len(positions)
        if isinstance(layer.attn, HeadDimAttention):
            total += layer.attn.flops(tokens, width, layer.attn.width_of(heads))
        else:
            total += flops.attention(tokens, tokens, width, len(heads) * layer.attn.head_dims)
        total += flops.mlp(tokens, width, len(hidden)) + 2 * flops.norm(tokens, width)
    return total + flops.norm(tokens, width)


def units_of(backbone: Any, permutation: Tensor | None) -> list[Units]:
    """All units with their scores; by share, nobody asks for costs."""
    found = [Units(axis, 1, tuple(scores(m).tolist())) for m, axis in backbone.read_units()]
    if hasattr(backbone, 'token_gate'):
        tokens = presence(backbone.token_gate.detach())
        tokens = tokens if permutation is None else tokens[:, permutation]
        found += [Units('tokens', 1, tuple(of_layer)) for of_layer in tokens.tolist()]
    return found


def choose(
    units: Sequence[Units], cost: Callable[[Sequence[Sequence[int]]], int], budget: float
) -> list[list[int]]:
    """``slim.choice.choose`` by share, with ``fill``, for costs that are no sum over units."""
    order = ranked(units, 'share')

    def kept(taken: Sequence[Unit]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in units]
        for i, unit in taken:
            found[i].append(unit)
        return found

    least = len(units)  # one of each module
    fits = bisect_right(
        range(least, len(order)), budget, key=lambda prefix: cost(kept(order[:prefix]))
    )
    taken = order[: least + fits - 1]
    for unit in order[len(taken) :]:
        if units[unit[0]].kind == 'hidden' and cost(kept([*taken, unit])) <= budget:
            taken.append(unit)
    return kept(taken)


def cut_(model: nn.Module, kept: Sequence[Sequence[int]]) -> None:
    """Becomes the network of some units, in place, whose gates are folded; those of tokens gone."""
    backbone = model.backbone
    if hasattr(backbone, 'token_gate'):
        select_tokens_(backbone, positions_of(backbone, kept))
    slim_(backbone, kept[: len(backbone.read_units())])


def with_gates(model: nn.Module, kind: str) -> nn.Module:
    """A copy of the whole network with the gates of a variant."""
    model = copy.deepcopy(model)
    if kind == 'dims':
        model.backbone.split_heads_()
    for module, _ in model.backbone.read_units():
        module.add_gates_()
    if kind == 'tokens':
        add_token_gates_(model.backbone)
    return model


def gate_loss(backbone: Any) -> Tensor:
    """The penalty of the search: of ``SlimHook``, and as much for the mean gate of tokens."""
    total = penalty(backbone, WEIGHT, WEIGHT)
    if hasattr(backbone, 'token_gate'):
        total = total + WEIGHT * backbone.token_gate.abs().mean()
    return total
