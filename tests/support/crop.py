# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a stage sees of an image, without bvit_mm, for the plain networks of all families."""

import torch.nn.functional as F
from torchvision.transforms.functional import center_crop


def kept_tokens(grid, full_grid):
    """The numbers of the central tokens of a map, row by row."""
    rows, columns = full_grid
    top, left = (rows - grid[0]) // 2, (columns - grid[1]) // 2
    return [(top + r) * columns + left + c for r in range(grid[0]) for c in range(grid[1])]


def scaled(images, grid, full_grid):
    """Images scaled down as their grid is, by torch's own kernel."""
    size = [n * g // full for n, g, full in zip(images.shape[2:], grid, full_grid)]
    return F.interpolate(images, size, mode='bicubic', antialias=True)


def scaled_map(flat, full_grid, grid):
    """A map of weights (rows * columns, C), row by row, scaled down by torch's own kernel."""
    channels_first = flat.T.unflatten(1, full_grid)[None]
    smaller = F.interpolate(channels_first, grid, mode='bicubic', antialias=True)
    return smaller[0].flatten(1).T


def cut_map(x, grid):
    """The center of a map (B, C, rows, columns), by torchvision."""
    return center_crop(x, list(grid))
