# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The rule that counts FLOPs, the one that gives the paper's numbers (docs/paper.md).

One FLOP is one multiply-add. Linear layers, convolutions and both products of the attention
count, without biases; an affine layer norm, or group norm, is 5 an element, adaptive pooling 1 an
input element; everything else is free.
"""

from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import nn


def norm(tokens: int, width: int) -> int:
    """An affine layer norm, or group norm."""
    return 5 * tokens * width


def attention(queries: int, keys: int, width: int, inner: int) -> int:
    """q, k, v, both products and the output projection.

    Args:
        queries: Tokens that ask.
        keys: Tokens that are asked, all of them by each query.
        width: Of the embedding.
        inner: Active heads x their dimension.
    """
    return 2 * (queries + keys) * width * inner + 2 * queries * keys * inner


def mlp(tokens: int, width: int, hidden: int) -> int:
    """Two linear layers."""
    return 2 * tokens * width * hidden


def linears(module: nn.Module, tokens: int) -> int:
    """All linear layers of a module, for so many tokens."""
    return tokens * sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def conv(module: nn.Conv2d, grid: tuple[int, int]) -> int:
    """A convolution whose output has the size ``grid``."""
    return grid[0] * grid[1] * module.weight.numel()


def conv_grid(module: nn.Conv2d | nn.Unfold, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a convolution makes of an image or map of this height and width."""
    names = 'kernel_size', 'stride', 'padding', 'dilation'
    sides = zip(size, *(to_2tuple(getattr(module, name)) for name in names))
    return tuple(
        (n + 2 * pad - dil * (kernel - 1) - 1) // step + 1 for n, kernel, step, pad, dil in sides
    )


def conv_size(module: nn.Conv2d | nn.Unfold, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of which a convolution makes a map of this size.

    Where several sizes do, whole steps: 16 pixels for a patch of 16.
    """
    names = 'kernel_size', 'stride', 'padding', 'dilation'
    height, width = (
        (n - 1) * step + max(step, dil * (kernel - 1) + 1 - 2 * pad)
        for n, kernel, step, pad, dil in zip(
            grid, *(to_2tuple(getattr(module, name)) for name in names)
        )
    )
    return height, width


def patch_grid(module: BaseModule, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a ``PatchEmbed`` or ``PatchMerging`` makes, padding included."""
    if module.adaptive_padding:
        padding = module.adaptive_padding.get_pad_shape(size)
        size = tuple(n + more for n, more in zip(size, padding))
    return conv_grid(module.sampler if hasattr(module, 'sampler') else module.projection, size)
