# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Which tokens a stage keeps, written without bvit_mm, for the plain networks of all families."""


def kept_tokens(grid, full_grid):
    """The numbers of the central tokens of a map, row by row."""
    rows, columns = full_grid
    top, left = (rows - grid[0]) // 2, (columns - grid[1]) // 2
    return [(top + r) * columns + left + c for r in range(grid[0]) for c in range(grid[1])]
