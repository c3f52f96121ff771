# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""GradMatch-PB against autograd, SciPy's nnls, explicit vectors and a search over all subsets."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import nn

from bvit_mm.subsets.matching import batch_gradient, gram_matrix, match, sketch_of
from bvit_mm.testing.closeness import assert_near, distance


def rows_of(seed, n, d, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matched(rows, target, count, ridge=0.0, **options):
    return match(rows @ rows.T, rows @ target, float(target @ target), count, ridge, **options)


def objective(rows, target, chosen, weights, ridge):
    rest = target - weights @ rows[chosen]
    return float(rest @ rest + ridge * (weights @ weights))


def best_weights(rows, target, chosen, ridge):
    """SciPy's, of the same problem: the ridge is one more row for each weight."""
    chosen = torch.tensor([int(j) for j in chosen], dtype=torch.long)
    tall = np.vstack([rows[chosen].T.numpy(), ridge**0.5 * np.eye(len(chosen))])
    return torch.from_numpy(nnls(tall, np.concatenate([target.numpy(), np.zeros(len(chosen))]))[0])


def least(rows, target, count, ridge):
    """The objective of the best subset of at most ``count`` rows, by trying all."""
    return min(
        objective(rows, target, list(some), best_weights(rows, target, some, ridge), ridge)
        for some in combinations(range(len(rows)), count)
    )


# Gradients.


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('with_features', [False, True])
def test_gradient_is_what_autograd_computes(smoothing, with_features):
    layer = nn.Linear(5, 4)
    features, labels = rows_of(1, 6, 5, torch.float32), torch.tensor([0, 3, 1, 1, 2, 0])
    scores = layer(features)
    nn.functional.cross_entropy(scores, labels, label_smoothing=smoothing).backward()
    targets = nn.functional.one_hot(labels, 4) * (1 - smoothing) + smoothing / 4
    ours = batch_gradient(scores.detach(), targets, features if with_features else None)
    theirs = layer.bias.grad
    if with_features:
        theirs = torch.cat([layer.weight.grad, theirs.unsqueeze(1)], 1).flatten()
    assert_near(ours, theirs)


def test_short_gradients_are_not_sketched():
    assert sketch_of(10, 9, 100, seed=0) is None
    left, right = sketch_of(10, 9, 99, seed=0)
    assert left.shape == (99, 10) and right.shape == (99, 10)
    assert {*left.unique().tolist(), *right.unique().tolist()} == {-1.0, 1.0}


def test_sketch_keeps_inner_products():
    """On average over seeds they are the exact ones, and each within what is promised."""
    scores, features = rows_of(2, 32, 40, torch.float32), rows_of(3, 32, 30, torch.float32)
    targets = nn.functional.one_hot(torch.arange(32) % 40, 40)
    parts = [slice(i, i + 4) for i in range(0, 32, 4)]
    whole = torch.stack([batch_gradient(scores[p], targets[p], features[p]) for p in parts])
    exact, norms = gram_matrix(whole), whole.norm(dim=1).double()
    errors = []
    for seed in range(40):
        sketch = sketch_of(40, 30, 256, seed)
        short = [batch_gradient(scores[p], targets[p], features[p], sketch) for p in parts]
        errors.append((gram_matrix(torch.stack(short)) - exact) / torch.outer(norms, norms))
    errors = torch.stack(errors)
    deviation = 3 / 256**0.5
    assert errors.pow(2).mean(0).sqrt().max() < deviation
    assert errors.mean(0).abs().max() < 4 * deviation / 40**0.5
    again = batch_gradient(scores, targets, features, sketch_of(40, 30, 256, seed=39))
    assert torch.equal(again, batch_gradient(scores, targets, features, sketch))


def test_gram_matrix_by_blocks(monkeypatch):
    rows = rows_of(4, 7, 50, torch.float32)
    monkeypatch.setattr('bvit_mm.subsets.matching.BLOCK', 8)
    exact = rows.double() @ rows.double().T
    assert_near(gram_matrix(rows), exact)


# Matching pursuit.


@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('ridge', [0.0, 0.5])
def test_orthonormal_rows_give_the_best_subset(count, ridge):
    """There, greedy is exact: the rows with the largest positive inner products."""
    rows = torch.linalg.qr(rows_of(5, 6, 6))[0]
    target = rows_of(6, 1, 6)[0]
    chosen, weights = matched(rows, target, count, ridge)
    best = least(rows, target, count, ridge)
    assert objective(rows, target, chosen, weights, ridge) == pytest.approx(best)
    products = rows @ target
    assert chosen.tolist() == products.argsort(descending=True)[:count].tolist()
    assert torch.allclose(weights, products[chosen] / (1 + ridge))


@pytest.mark.parametrize('seed', range(10))
def test_one_of_rows_of_equal_length_is_the_best_one(seed):
    """Of rows of other lengths, the largest inner product need not be the best."""
    rows = nn.functional.normalize(rows_of(seed, 8, 5), dim=1)
    target = rows.sum(0)
    chosen, weights = matched(rows, target, 1, 0.1)
    best = least(rows, target, 1, 0.1)
    assert objective(rows, target, chosen, weights, 0.1) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    d=st.integers(1, 12),
    ridge=st.sampled_from([0.0, 0.01, 0.5, 10.0]),
    share=st.floats(0.05, 1),
    lean=st.floats(0, 2),
)
def test_what_is_chosen(seed, n, d, ridge, share, lean):
    """Positive weights, the best for these rows; nothing is gained by another one, if it ended."""
    rows = rows_of(seed, n, d) + lean
    target, count = rows.sum(0), max(1, int(share * n))
    chosen, weights = matched(rows, target, count, ridge)
    assert len(chosen) == len(set(chosen.tolist())) == len(weights) <= count
    assert (weights > 0).all()
    scale = float(target @ target)
    # Equations multiply the rounding of what is given by their condition number.
    equations = rows[chosen] @ rows[chosen].T + ridge * torch.eye(len(chosen))
    rounding = 100 * torch.finfo(torch.float64).eps * torch.linalg.cond(equations)
    assert distance(weights, best_weights(rows, target, chosen, ridge)) <= rounding
    ours = objective(rows, target, chosen, weights, ridge)
    assert ours <= scale * (1 + 1e-9)
    whole = best_weights(rows, target, range(n), ridge)
    floor = objective(rows, target, list(range(n)), whole, ridge)
    assert ours >= floor - 1e-9 * scale
    if len(chosen) < count or count == n:  # it ended by itself: the solution for all rows
        assert ours <= floor + 1e-9 * scale
    again = matched(rows, target, count, ridge)
    assert torch.equal(chosen, again[0]) and torch.equal(weights, again[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ridge=st.sampled_from([0.0, 0.3]), lean=st.floats(0, 1))
def test_each_choice_is_the_steepest(seed, ridge, lean):
    """With residuals from the vectors themselves. Rows that leave end what one can retrace."""
    rows = rows_of(seed, 9, 14) + lean
    target = rows.sum(0)
    before = torch.tensor([], dtype=torch.long), torch.zeros(0, dtype=torch.float64)
    for count in range(1, 10):
        chosen, weights = matched(rows, target, count, ridge)
        if chosen[:-1].tolist() != before[0].tolist():
            break
        slopes = rows @ (target - before[1] @ rows[before[0]])
        slopes[before[0]] = -torch.inf
        assert chosen[-1] == slopes.argmax()
        before = chosen, weights


def test_against_all_subsets():
    """Never below the best of all; how often equal and near it is stated in docs/baselines.md."""
    counts = dict(equal=0, near=0)
    total = 200
    for seed in range(total):
        rows = rows_of(seed, 8, 6) + 0.3
        target = rows.sum(0)
        chosen, weights = matched(rows, target, 3, 0.1)
        ours, best = objective(rows, target, chosen, weights, 0.1), least(rows, target, 3, 0.1)
        assert ours >= best * (1 - 1e-9)
        counts['equal'] += ours <= best * (1 + 1e-9)
        counts['near'] += ours <= best + 0.05 * float(target @ target)
    assert counts['equal'] == pytest.approx(70, abs=5) and counts['near'] == pytest.approx(
        158, abs=5
    )


def test_rows_leave():
    """A row that was best alone is worth nothing beside two others."""
    rows = torch.tensor([[1.0, 1.0, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([1.0, 1.0, -0.3], dtype=torch.float64)
    assert matched(rows, target, 1)[0].tolist() == [0]
    chosen, weights = matched(rows, target, 3)
    assert sorted(chosen.tolist()) == [1, 2] and weights.tolist() == pytest.approx([1, 1])


def test_ends_when_the_target_is_met():
    rows = torch.eye(4, dtype=torch.float64)
    target = torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    chosen, weights = matched(rows, target, 4)
    assert chosen.tolist() == [0, 1] and weights.tolist() == [2, 1]
    assert matched(rows, target, 4, tolerance=0.5)[0].tolist() == [0]
    assert matched(rows, -target, 4)[0].tolist() == []  # only negative weights would serve


def test_equal_rows_and_rows_of_zeros():
    rows = torch.ones(5, 3, dtype=torch.float64)
    rows[0] = 0
    chosen, weights = matched(rows, rows.sum(0), 5, tolerance=0.0)
    assert len(chosen) == 1 and weights.tolist() == pytest.approx([4])
    chosen, weights = matched(rows, rows.sum(0), 5, ridge=1.0)
    assert len(chosen) == 4  # with a ridge, equal rows share the weight
    assert weights.tolist() == pytest.approx([12 / 13] * 4)


@pytest.mark.parametrize(
    'count, ridge, message',
    [
        (0, 0.0, r'count=0 of 4 mini-batches cannot be chosen; give 1\.\.4'),
        (5, 0.0, r'count=5 of 4 mini-batches cannot be chosen; give 1\.\.4'),
        (2, -1.0, r'ridge=-1.0 must be at least 0'),
        (2, float('nan'), r'ridge=nan must be at least 0'),
    ],
)
def test_wrong_inputs(count, ridge, message):
    rows = torch.eye(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        matched(rows, rows.sum(0), count, ridge)
