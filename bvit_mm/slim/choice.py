# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Which heads, or dimensions of heads, and hidden units a slimmed network keeps for its budget.

Pure Python on purpose, like the planner: the same scores give the same choice on every machine.
One list ranks all units, and a budget keeps the longest prefix of it that it pays. So a larger
budget keeps all that a smaller one keeps, and one search gives networks of many sizes.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import accumulate

from ..options import at_least, is_whole_number

Unit = tuple[int, int]  # the numbers of a module and of a unit in it, 0-based


@dataclass(frozen=True)
class Units:
    """The units of one module along one axis.

    Attributes:
        kind: What they are: ``'heads'``, their ``'dims'``, or ``'hidden'``.
        cost: Multiply-adds of one image that one unit takes, above 0.
        scores: How important each unit is, larger being more so; finite and at least 0.
        groups: In how many groups of equal size they lie, such as dimensions in heads.
        padded: What each unit takes besides, counted as if each group that is there had as many
            as the largest.
    """

    kind: str
    cost: int
    scores: tuple[float, ...]
    groups: int = 1
    padded: int = 0

    def cost_of(self, units: Iterable[int]) -> int:
        """Multiply-adds of one image that some of them take."""
        return sum(self.costs_of(units))

    def costs_of(self, units: Iterable[int]) -> Iterator[int]:
        """What some of them take, one after the other: each besides those before it."""
        size, found, before = len(self.scores) // self.groups, Counter[int](), 0
        for unit in units:
            found[unit // size] += 1
            filled = max(found.values()) * len(found) if self.padded else 0
            yield self.cost + self.padded * (filled - before)
            before = filled


def read_flops(value: float | str, whole: int) -> int:
    """Reads what a slimmed network may cost, as multiply-adds of one image.

    Decimals are read exactly, so 0.7 and ``'0.7'`` are the same budget everywhere.

    Args:
        value: A share of the whole network up to 1, as a number or text, or text:
            ``'2.8 GFLOPs'``.
        whole: Multiply-adds of one image of the whole network, classifier included.

    Raises:
        ValueError: If it is no number, not above 0, or more than the whole network costs.
    """
    text = str(value).strip().lower()
    absolute = text.endswith('gflops')
    allowed = (
        'give a share of the whole network up to 1, or GFLOPs of one image, as text, up to '
        f"'{whole / 1e9!r} GFLOPs'"
    )
    try:
        number = Decimal(text.removesuffix('gflops').strip())
    except InvalidOperation:
        number = Decimal('nan')
    if not number.is_finite():
        raise ValueError(f'flops={value!r} is not a budget; {allowed}')
    kind, unit = ('cost', 10**9) if absolute else ('share', whole)
    if not 0 < number <= Decimal(whole) / unit:
        raise ValueError(
            f'flops={value!r} must be a {kind} above 0 and up to {whole / unit!r}; {allowed}'
        )
    return int(number * unit)


def _by_share(kind: Sequence[tuple[Units, float]]) -> list[float]:
    """The place of each unit in its kind, as a share of the kind."""
    return [place / len(kind) for place in range(len(kind))]


def _by_cost(kind: Sequence[tuple[Units, float]]) -> list[float]:
    """Minus the share that each unit has of its kind's squared scores, over that of its cost.

    So neither kind is worth more than the other as a whole. With scores over their root mean
    square instead, an average hidden unit would be worth an average head, which costs DeiT-S as
    much as 160 of them, and heads would always go first.
    """
    top = max((score for _, score in kind), default=0) or 1.0  # squares neither overflow nor vanish
    squares = [(score / top) * (score / top) for _, score in kind]
    costs = [units.cost + units.padded for units, _ in kind]
    mean = (math.fsum(squares) or 1.0) / sum(costs)
    return [-square / cost / mean for square, cost in zip(squares, costs)]


# What orders all units, least first: functions of all units of one kind, the best first, each with
# its score. Within a module, no unit may come before a better one.
ORDERS: dict[str, Callable[[Sequence[tuple[Units, float]]], list[float]]] = {
    'share': _by_share,
    'cost': _by_cost,
}


def ranked(modules: Sequence[Units], by: str, multiple: int = 1) -> list[Unit]:
    """All units, those most worth keeping first.

    What each module keeps at any budget stands first: its best head, or dimension of a head, or
    its best ``multiple`` hidden units. Equals stand by kind, then by module and unit.

    Args:
        modules: The units of each module.
        by: ``'share'`` compares the places that units have in their kind, over all modules. So
            the same share of heads and of hidden units is kept, as ViT-Slim does. ``'cost'``
            compares squared scores over costs.
        multiple: What the number of hidden units of a module is a multiple of.

    Raises:
        ValueError: If there is no such order, or a score is no such number.
    """
    if by not in ORDERS:
        raise ValueError(f'by={by!r} is not known; give one of {tuple(ORDERS)}')
    _check_scores(modules)
    ranks = []
    for kind in sorted({module.kind for module in modules}):
        units = sorted(
            (place >= _step(module, multiple), -module.scores[unit], i, unit)
            for i, module in enumerate(modules)
            if module.kind == kind
            for place, unit in enumerate(_best_first(module))
        )
        orders = ORDERS[by]([(modules[i], -score) for _, score, i, _ in units])
        ranks += [(late, order, i, unit) for order, (late, _, i, unit) in zip(orders, units)]
    # Sorting keeps the order of equals.
    return [(i, unit) for _, _, i, unit in sorted(ranks, key=lambda rank: rank[:2])]


def choose(
    modules: Sequence[Units],
    fixed: int,
    budget: int,
    by: str = 'share',
    fill: bool = False,
    multiple: int = 1,
    only: str | None = None,
) -> list[tuple[int, ...]]:
    """The units that each module keeps, best first.

    They cost no more than the budget. What is left of it is less than a unit that is left out
    costs. Of a larger budget each module keeps the same units and maybe more, but for ``fill``.

    Args:
        modules: The units of each module.
        fixed: Multiply-adds of one image that no unit takes, classifier included.
        budget: Multiply-adds of one image that the slimmed network may take (``read_flops``).
        by: The order of units (``ranked``).
        fill: Spends what is left on the hidden units that still fit, in that order.
        multiple: Rounds the hidden units of a module down to a multiple of it, except where all
            are kept.
        only: The only kind that is cut; None cuts each.

    Raises:
        ValueError: If the options do not fit together, or no choice has such a cost.
    """
    _check_options(modules, fill, multiple, only)
    is_free = [only in (None, module.kind) for module in modules]
    best = [_best_first(module) for module in modules]
    least = [
        units[: _step(module, multiple)] if free else units
        for module, units, free in zip(modules, best, is_free)
    ]
    whole, minimum = (fixed + _cost(modules, units) for units in (best, least))
    if not minimum <= budget <= whole:
        raise ValueError(_out_of_reach(budget, minimum, whole, multiple, only))
    order = [unit for unit in ranked(modules, by, multiple) if is_free[unit[0]]]
    kept = [[] if free else units for units, free in zip(best, is_free)]
    left = budget - fixed - _cost(modules, kept)
    costs = _costs(modules, order)
    prefix = bisect_right(list(accumulate(costs)), left)
    for place, (cost, (i, unit)) in enumerate(zip(costs, order)):
        if place < prefix or (fill and modules[i].kind == 'hidden' and cost <= left):
            kept[i].append(unit)
            left -= cost
    return [
        tuple(units if len(units) == total else units[: len(units) - len(units) % step])
        for units, total, step in zip(kept, map(len, best), (_step(m, multiple) for m in modules))
    ]


def _best_first(module: Units) -> list[int]:
    """Its units by score; equals by number."""
    return sorted(range(len(module.scores)), key=lambda unit: -module.scores[unit])


def _step(module: Units, multiple: int) -> int:
    """What the number of kept units is a multiple of."""
    return multiple if module.kind == 'hidden' else 1


def _cost(modules: Sequence[Units], kept: Iterable[Sequence[int]]) -> int:
    """Multiply-adds of some units of each module."""
    return sum(module.cost_of(units) for module, units in zip(modules, kept))


def _costs(modules: Sequence[Units], order: Sequence[Unit]) -> list[int]:
    """What each unit takes besides those before it."""
    of_module: list[list[int]] = [[] for _ in modules]
    for i, unit in order:
        of_module[i].append(unit)
    costs = [module.costs_of(units) for module, units in zip(modules, of_module)]
    return [next(costs[i]) for i, _ in order]


def _check_scores(modules: Sequence[Units]) -> None:
    for i, module in enumerate(modules, start=1):
        for unit, score in enumerate(module.scores, start=1):
            if not 0 <= score < math.inf:
                raise ValueError(
                    f'module {i}: unit {unit} of {len(module.scores)} ({module.kind}) has the '
                    f'score {score}; scores must be finite and at least 0: take a checkpoint '
                    'whose weights are finite'
                )


def _check_options(modules: Sequence[Units], fill: bool, multiple: int, only: str | None) -> None:
    kinds = sorted({module.kind for module in modules})
    if only is not None and only not in kinds:
        raise ValueError(f'only={only!r} is no kind of unit here; give one of {tuple(kinds)}')
    if not is_whole_number(multiple) or multiple < 1:
        raise ValueError(f'multiple={multiple!r} must be a whole number, at least 1')
    if fill and multiple > 1:
        raise ValueError(
            f'fill=True adds single hidden units, but multiple={multiple} keeps multiples of '
            'them; give one of the two'
        )
    if only not in (None, 'hidden') and (fill or multiple > 1):
        option = 'fill=True' if fill else f'multiple={multiple}'
        raise ValueError(
            f'{option} is about hidden units, but only={only!r} keeps all of them; give one of '
            'the two'
        )


def _out_of_reach(budget: int, minimum: int, whole: int, multiple: int, only: str | None) -> str:
    """Says what a budget may be."""
    if budget > whole:
        return (
            f'a budget of {budget / 1e9:.6g} GFLOPs is more than the whole network costs '
            f'({whole / 1e9:.6g}); give a share up to 1'
        )
    fewest = f'{multiple} hidden units' if multiple > 1 else 'one unit'
    others = f', only={only!r}' if only else ''
    return (
        f'a budget of {budget / 1e9:.6g} GFLOPs is less than the smallest choice costs: '
        f'{minimum / 1e9:.6g} GFLOPs, {minimum / whole:.2g} of the whole network '
        f'({fewest} a module{others}); give at least {at_least(minimum / whole)}'
    )
