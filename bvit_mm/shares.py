# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Shares of a budget become whole epochs of each training stage."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

SUM = 1e-6  # how far from 1 the sum of shares may be
FUZZ = 1e-9  # of rounding, in epochs
BOTH_WAYS = 12  # stages whose lengths are tried rounded up and down: 2,048 plans


def read_shares(shares: Any, k: int, **others: Any) -> tuple[float, ...] | None:
    """The shares of ``k`` training stages, summing to 1; None if there are none.

    Args:
        shares: As a config states them.
        k: The number of stages.
        **others: What else says how long stages are; None where it is not given.

    Raises:
        ValueError: If they are no such shares, or one of the others is given too.
    """
    if shares is None:
        return None
    given = [f'{name}={value!r}' for name, value in others.items() if value is not None]
    if given:
        raise ValueError(
            f'{", ".join(given)} and shares={shares!r} are both given, and each says how long '
            'training stages are; give one of them and set the other to None'
        )
    if isinstance(shares, str) or not isinstance(shares, Sequence) or len(shares) != k:
        raise ValueError(
            f'shares={shares!r} must be a list of {k} numbers, one for each training stage'
        )
    if any(isinstance(s, bool) or not isinstance(s, (int, float)) for s in shares):
        raise ValueError(f'shares={list(shares)} must be numbers that sum to 1')
    if not all(0 < s < math.inf for s in shares):
        raise ValueError(
            f'shares={list(shares)} must be above 0 and finite: each training stage is trained; '
            'leave a stage out of training_stages instead'
        )
    total = math.fsum(shares)
    if abs(total - 1) > SUM + 1e-12:  # six digits of a third do
        raise ValueError(
            f'shares={list(shares)} sum to {total:.6g}, not to 1; give '
            f'{_summing_to_one([s / total for s in shares])}'
        )
    return tuple(s / total for s in shares)


def _summing_to_one(shares: list[float]) -> list[float]:
    """About these, with few digits; the largest makes up for what rounding leaves."""
    short = [float(f'{s:.4g}') for s in shares]
    largest = short.index(max(short))
    short[largest] = round(1 - math.fsum(short[:largest] + short[largest + 1 :]), 12)
    return short


def shared_epochs(gflops: Sequence[float], shares: Sequence[float], cost: float) -> tuple[int, ...]:
    """Whole epochs that spend ``cost``, of which each training stage gets its share.

    The exact length of a stage is what its share pays, or one epoch if it pays less. Each later
    stage is rounded down or up, and the first one gets what is left. Of these plans the best keeps
    the later stages within one epoch of their exact lengths, for any budget that the plan serves;
    then the first one; then it costs most. Nothing of this order depends on the budget, so the cost
    does not fall as the budget grows (docs/planner.md).

    Args:
        gflops: Of each training stage; none falls.
        shares: Of each training stage, summing to 1.
        cost: In GFLOPs x epochs, enough for an epoch of each stage.
    """
    best = min(_plans(gflops, shares, cost, cost))
    if best.later > 1:
        best = min(_plans(gflops, shares, cost, cost - gflops[0]))
    return best.epochs


class _Ranked(NamedTuple):
    """A plan after what makes it good: the least is the best.

    Attributes:
        later: How many epochs some later stage is from its exact length; 1 if it is less.
        first: The same of the first stage.
        cheapness: How little it costs.
        distance: How far it is from the exact plan, all in all.
        epochs: Of each training stage.
    """

    later: float
    first: float
    cheapness: float
    distance: float
    epochs: tuple[int, ...]


def _plans(
    gflops: Sequence[float], shares: Sequence[float], cost: float, least: float
) -> Iterator[_Ranked]:
    """Plans that leave less than an epoch of the first stage, near the exact ones.

    Those near the exact plan of ``cost`` have all whose later stages keep within one epoch; those
    near any from ``least`` to ``cost`` have all there are.
    """
    slack = 1e-12 * cost  # sums are rounded, the budget is exact
    low, high = (exact_epochs(gflops, shares, each) for each in (least, cost))
    lengths = [
        range(_floor(a), _floor(b) + (2 if k <= BOTH_WAYS else 1))
        for k, (a, b) in enumerate(zip(low, high), start=1)
    ]
    for tail in product(*lengths[1:]):
        rest = cost + slack - math.fsum(c * n for c, n in zip(gflops[1:], tail))
        if rest >= gflops[0]:
            yield from _ranked(gflops, shares, (math.floor(rest / gflops[0]), *tail))


def _ranked(
    gflops: Sequence[float], shares: Sequence[float], epochs: tuple[int, ...]
) -> Iterator[_Ranked]:
    """A plan with its rank; nothing if a later stage is not its exact length, rounded.

    It serves budgets from its cost to one epoch of the first stage more.
    """
    cost = math.fsum(c * n for c, n in zip(gflops, epochs))
    begin, end = (exact_epochs(gflops, shares, each) for each in (cost, cost + gflops[0]))
    if len(epochs) <= BOTH_WAYS and any(
        not 0 <= n - _floor(x) <= 1 for n, x in zip(epochs[1:], begin[1:])
    ):
        return
    first, *later = (max(1.0, n - a - FUZZ, b - n - FUZZ) for n, a, b in zip(epochs, begin, end))
    distance = math.fsum((n - x) ** 2 / x for n, x in zip(epochs, begin))
    cheapness = -round(cost / gflops[0], 9)
    yield _Ranked(max(later, default=1.0), first, cheapness, distance, epochs)


def exact_epochs(gflops: Sequence[float], shares: Sequence[float], cost: float) -> list[float]:
    """What ``cost`` pays of each training stage by its share, in epochs, but at least one.

    Stages whose share pays less get one epoch, and the others divide the rest by their shares.
    """
    paid = list(range(len(gflops)))
    while paid:
        rest = cost - math.fsum(c for k, c in enumerate(gflops) if k not in paid)
        scale = rest / math.fsum(shares[k] for k in paid)
        enough = [k for k in paid if scale * shares[k] >= gflops[k]]
        if len(enough) == len(paid):
            return [scale * shares[k] / c if k in enough else 1.0 for k, c in enumerate(gflops)]
        paid = enough
    return [1.0] * len(gflops)


def _floor(epochs: float) -> int:
    return math.floor(epochs + FUZZ)
