# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Attention whose units are the dimensions of its heads, ViT-Slim's finer unit."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import flops
from .elastic_modules import ElasticModule, ElasticMultiheadAttention, UnitSlot
from .widths import Width, count


class HeadDimAttention(ElasticMultiheadAttention):
    """mmpretrain's multi-head self-attention of which single dimensions of heads can go.

    A dimension is a row of q, k and v and what the projection reads of it. Its gate scales the row
    of q and those weights of the projection, so at 0 nothing of the dimension is left. The scale
    of the softmax stays that of whole heads.

    Heads that keep different numbers of dimensions are filled up with zeros to the widest, for
    the fused attention. A head that keeps none is gone.

    Attributes:
        head_widths: How many dimensions each head has, the first ones, if they differ from whole
            heads. Once it is cut for good, of the heads that are left.
    """

    slots = (
        UnitSlot('qkv.weight', 0, 'dims', blocks=3, scaled_blocks=1),
        UnitSlot('qkv.bias', 0, 'dims', blocks=3, scaled_blocks=1),
        UnitSlot('proj.weight', 1, 'dims', out=True),
    )
    axes: ClassVar = dict(dims='embed_dims')
    head_widths: tuple[int, ...] | None = None

    def whole_width(self, axis: str) -> Width:
        if self.head_widths is not None and self.is_whole:  # cut for good
            return self.head_widths
        return (self.head_dims,) * self.num_heads

    def width(self, axis: str) -> Width:
        return self.active[axis] if self.head_widths is None or self.is_whole else self.head_widths

    def activate(self, axis: str, width: Width) -> None:
        self.active[axis], self.head_widths = count(width), None
        if not isinstance(width, int):
            left = tuple(n for n in width if n) if self.is_whole else width
            self.head_widths = None if set(left) == {self.head_dims} else left

    def width_of(self, units: Sequence[int]) -> Width:
        if self.head_widths is not None and self.is_whole:
            raise ValueError(
                f'heads that were cut to {list(self.head_widths)} dimensions cannot be cut again; '
                'cut the whole network to what is to be left'
            )
        found = Counter(unit // self.head_dims for unit in units)
        return tuple(found[head] for head in range(self.num_heads))

    def sorted_units(self, first: Sequence[int]) -> list[int]:
        """All dimensions, some before the others of their heads."""
        chosen = set(first)
        units = range(self.total('dims'))
        return sorted(units, key=lambda unit: (unit // self.head_dims, unit not in chosen))

    @property
    def active_heads(self) -> int:
        return self.active['dims'] // self.head_dims

    def shrink_(self) -> None:
        widths = self.head_widths or (self.head_dims,) * self.active_heads
        ElasticModule.shrink_(self)  # whose units are not heads here
        left = tuple(n for n in widths if n)
        self.num_heads = len(left)
        self.head_widths = None if set(left) == {self.head_dims} else left

    def flops(self, tokens: int, width: int, active: Width) -> int:
        """Multiply-adds of one image; products have the width of the widest head in each.

        Args:
            tokens: How many there are.
            width: Of the embedding.
            active: The dimensions that it computes with.
        """
        inner = count(active)
        padded = inner if isinstance(active, int) else max(active) * sum(n > 0 for n in active)
        return flops.attention(tokens, tokens, width, inner) + 2 * tokens**2 * (padded - inner)

    def forward(self, x: Tensor) -> Tensor:
        if self.head_widths is None:
            return super().forward(x)
        widths = [n for n in self.head_widths if n]
        qkv = self.active_linear('qkv', x).unflatten(-1, (3, -1))
        q, k, v = padded_heads(qkv, widths).permute(3, 1, 0, 2, 4)
        drop = self.attn_drop if self.training else 0.0
        # The scale is not that of the dimensions that are left.
        x = self.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.head_dims**-0.5)
        x = torch.cat([head[..., :n] for head, n in zip(x.unbind(1), widths)], dim=-1)
        return self.out_drop(self.gamma1(self.proj_drop(self.active_linear('proj', x))))


def padded_heads(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Heads as wide as the widest, with zeros: (..., dimensions) to (heads, ..., dimensions).

    Args:
        x: All heads, side by side.
        widths: How many dimensions each has.
    """
    heads = x.split(list(widths), dim=-1)
    return torch.stack([F.pad(head, (0, max(widths) - n)) for head, n in zip(heads, widths)])
