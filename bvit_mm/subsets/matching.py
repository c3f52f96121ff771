# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Which mini-batches stand for all of them: GradMatch-PB, as functions of tensors.

Killamsetty et al., *GRAD-MATCH: Gradient Matching based Data Subset Selection for Efficient Deep
Model Training*, ICML 2021, per batch: mini-batches and weights w >= 0 whose weighted gradients come
near the sum of all, min over S and w of |sum_{j in S} w_j g_j - sum_j g_j|^2 + ridge |w|^2.
"""

import torch
from torch import Tensor

# Columns of the gradients that are in double precision at a time.
BLOCK = 1024


def sketch_of(classes: int, features: int, width: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """Random signs that shorten gradients of ``classes x (features + 1)`` numbers to ``width``.

    The inner product of two shortened gradients is that of the whole ones on average, whatever
    they are; its standard deviation is below 3 / sqrt(width) of the product of their norms.

    Returns:
        Two matrices, ``width x classes`` and ``width x (features + 1)``, on the CPU; or None if
        the gradients are not longer than ``width``.
    """
    if classes * (features + 1) <= width:
        return None
    generator = torch.Generator().manual_seed(seed)
    shapes = ((width, classes), (width, features + 1))
    left, right = (2.0 * torch.randint(2, shape, generator=generator) - 1 for shape in shapes)
    return left, right


def batch_gradient(
    scores: Tensor,
    targets: Tensor,
    features: Tensor | None = None,
    sketch: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gradient of a mini-batch's mean cross-entropy by the last layer, in closed form.

    By its bias a sample has softmax(z) - y, by its weights the outer product of that with the
    features that enter the layer. Of a mini-batch the outer products are never there one by one.

    Args:
        scores: z, samples x classes, before the softmax.
        targets: y, samples x classes, each row summing to 1: one-hot, or smoothed labels.
        features: samples x features; if None, the gradient is by the bias alone.
        sketch: Of ``sketch_of``; shortens the gradient by the weights and the bias.

    Returns:
        Single precision: ``classes`` numbers without features, ``classes * (features + 1)`` with
        them (those of the bias stand last in the row of each class), or as the sketch says.
    """
    errors = scores.float().softmax(1) - targets.float()
    if features is None:
        return errors.mean(0)
    inputs = torch.cat([features.float(), features.new_ones(len(features), 1).float()], 1)
    if sketch is None:
        return (errors.T @ inputs).flatten() / len(errors)
    left, right = (signs.to(errors) for signs in sketch)
    return ((errors @ left.T) * (inputs @ right.T)).mean(0) / len(left) ** 0.5


def gram_matrix(gradients: Tensor) -> Tensor:
    """Inner products of all pairs of rows in double precision, of a block of columns at a time."""
    gram = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for block in gradients.split(BLOCK, dim=1):
        block = block.double()
        gram.addmm_(block, block.T)
    return gram


def _check_match(count: int, n: int, ridge: float) -> None:
    if not 1 <= count <= n:
        raise ValueError(f'count={count} of {n} mini-batches cannot be chosen; give 1..{n}')
    if not ridge >= 0:
        raise ValueError(f'ridge={ridge} must be at least 0, or weights would be infinite')


def match(
    gram: Tensor,
    products: Tensor,
    square: float,
    count: int,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Non-negative orthogonal matching pursuit of a target by at most ``count`` rows.

    Of the rows not yet chosen, the one with the largest inner product with the residual comes in;
    then the weights of all chosen rows are the best there are, and rows whose weight would not be
    positive leave. That is the active-set method of Lawson and Hanson (*Solving Least Squares
    Problems*, 1974, ch. 23), stopped at ``count`` rows, or when none would lower the objective or
    the residual is small. With as many rows as there are, it is non-negative least squares.

    Args:
        gram: Inner products of the rows, n x n, in double precision.
        products: Of the rows with the target, n.
        square: Squared norm of the target.
        count: Rows to choose.
        ridge: What is charged for the sum of the squared weights, in units of ``gram``.
        tolerance: The norm of a residual that is small, as a share of the target's.

    Returns:
        The numbers of the rows, in the order they came in, and their weights, all positive.

    Raises:
        ValueError: If ``count`` is not in 1..n, or ``ridge`` is negative.
    """
    n = len(gram)
    _check_match(count, n, ridge)
    chosen: list[int] = []
    weights = gram.new_zeros(0)
    columns = gram.new_empty(count, n)  # of the chosen rows, side by side in memory
    factor = gram.new_zeros(count, count)  # Cholesky's, of the chosen rows' Gram matrix + ridge
    is_open = torch.ones(n, dtype=torch.bool, device=gram.device)
    least = 1e-12 * products.abs().max()  # what of an inner product may be rounding
    for _ in range(3 * n):  # each objective is below the last, but for rounding
        size = len(chosen)
        wanted = products[chosen]
        # The weights solve (gram + ridge) w = wanted, so two of the three terms are one.
        residual = square - (weights @ wanted) - ridge * (weights @ weights)
        if size == count or residual <= tolerance**2 * square:
            break
        slopes = products - weights @ columns[:size]
        slopes[~is_open] = -torch.inf
        j = int(slopes.argmax())
        if not slopes[j] > least:
            break
        is_open[j] = False
        if not _enter(j, gram, ridge, chosen, columns, factor):
            continue
        weights = torch.cat([weights, weights.new_zeros(1)])
        count_before = len(chosen)
        chosen, weights = _positive(products, ridge, chosen, weights, columns, factor)
        if len(chosen) < count_before:
            is_open[:] = True  # what was a combination of the chosen may be none any more
            is_open[[*chosen, j]] = False
    return torch.tensor(chosen, dtype=torch.long), weights


def _enter(
    j: int, gram: Tensor, ridge: float, chosen: list[int], columns: Tensor, factor: Tensor
) -> bool:
    """Whether row ``j`` comes in, in place; not if it is a combination of those chosen."""
    size = len(chosen)
    columns[size] = gram[j]
    row = torch.linalg.solve_triangular(
        factor[:size, :size], gram[j, chosen].unsqueeze(1), upper=False
    ).squeeze(1)
    pivot = gram[j, j] + ridge - row @ row
    if pivot <= 1e-12 * gram[j, j]:  # which rounding proposes
        return False
    factor[size, :size], factor[size, size] = row, pivot.sqrt()
    chosen.append(j)
    return True


def _positive(
    products: Tensor,
    ridge: float,
    chosen: list[int],
    weights: Tensor,
    columns: Tensor,
    factor: Tensor,
) -> tuple[list[int], Tensor]:
    """The best positive weights of the chosen rows, and which are left; see ``match``.

    ``columns`` and ``factor`` become those of the rows that are left, in place.
    """
    while True:
        size = len(chosen)
        best = torch.cholesky_solve(
            products[chosen].unsqueeze(1), factor[:size, :size], upper=False
        ).squeeze(1)
        if best.min() > 0:
            return chosen, best
        # As far towards the best weights as none gets negative; those at 0 leave.
        falls = best <= 0
        gaps = (weights - best)[falls].clamp_min(torch.finfo(weights.dtype).tiny)
        weights = weights + (weights[falls] / gaps).min() * (best - weights)
        kept = (~falls | (weights > 1e-14 * weights.max())).nonzero().squeeze(1)
        chosen, weights = [chosen[i] for i in kept.tolist()], weights[kept]
        columns[: len(kept)] = columns[kept]
        inner = columns[: len(kept)][:, chosen]
        inner.diagonal().add_(ridge)
        factor[: len(kept), : len(kept)] = torch.linalg.cholesky(inner)
