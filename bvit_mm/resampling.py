# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images and maps of weights at another size, bicubic and antialiased.

Weights are resized by matrices: torch's own kernel sums their gradients in any order on a GPU, and
a resumed run would not be the same run.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) of another height and width."""
    if tuple(images.shape[-2:]) == size:
        return images
    exact = images if images.dtype == torch.float64 else images.float()
    return F.interpolate(exact, size, mode='bicubic', antialias=True).to(images)


def resized_map(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of weights (rows, columns, C) of other rows and columns.

    Antialiasing lets every weight count, so that every weight has a gradient.
    """
    rows, columns = (
        _kept_matrix(total, n, weights.device, weights.dtype)
        for total, n in zip(weights.shape, size)
    )
    # products and sums, which mixed precision leaves as they are
    weights = (rows[:, :, None, None] * weights).sum(1)
    return (columns[:, :, None] * weights[:, None]).sum(2)


def resizing_matrix(total: int, size: int) -> Tensor:
    """What each of ``size`` points reads of ``total`` ones in a row: (size, total), float64."""
    points = torch.eye(total, dtype=torch.float64, device='cpu')[None, None]
    return F.interpolate(points, (size, total), mode='bicubic', antialias=True)[0, 0]


def _kept_matrix(total: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    matrix = _made_once(total, size, device, dtype)
    if type(matrix) is not Tensor:  # made while the network was being exported
        _made_once.cache_clear()
    return matrix


@functools.lru_cache(maxsize=64)
def _made_once(total: int, size: int, *to: Any) -> Tensor:
    with torch.inference_mode(False):  # so that it may serve training too
        return resizing_matrix(total, size).to(*to)
