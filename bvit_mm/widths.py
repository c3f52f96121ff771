# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How many units each module of a slimmed network has: what ``widths`` may be, and how it reads."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .options import is_whole_number

# How many units a module has. Of units in groups, such as the dimensions of heads, it is one number
# a group: units within a group do not stand for those of another.
Width = int | tuple[int, ...]
Widths = dict[str, tuple[Width, ...]]  # by axis, one a module


def count(width: Width) -> int:
    """How many units there are in all."""
    return width if isinstance(width, int) else sum(width)


def groups_of(width: Width) -> tuple[int, ...]:
    """How many units there are in each group; units without groups are one."""
    return (width,) if isinstance(width, int) else width


def plain_widths(widths: Sequence[Width]) -> list[Any]:
    """As a config states them: lists and numbers."""
    return [width if isinstance(width, int) else list(width) for width in widths]


def units_of_width(width: Width, total: int) -> list[int]:
    """The numbers of the units that a module has: the first ones, or the first ones of each group.

    Args:
        width: How many there are.
        total: The number of all units of the module, in groups of equal size.
    """
    groups = groups_of(width)
    size = total // len(groups)
    return [group * size + unit for group, n in enumerate(groups) for unit in range(n)]


def read_widths(widths: Any, totals: Mapping[str, Sequence[Width]]) -> Widths:
    """The units of each module, by axis, from what a config states.

    Args:
        widths: ``dict(heads=[...], hidden=[...])``, one number a module, in lists within a list if
            that is how levels are told apart; of ``dims``, a list of one number a head for each
            module. An axis that is left out is whole.
        totals: How many units each module has, by axis.

    Raises:
        ValueError: If they are no such numbers.
    """
    if not isinstance(widths, dict) or not widths or set(widths) - set(totals):
        keys = ', '.join(f'{axis}=[...]' for axis in totals)
        raise ValueError(
            f'widths={widths!r} must be dict({keys}), one number for each module, of dims a list '
            'of one number a head; an axis left out is whole'
        )
    found = {axis: tuple(numbers) for axis, numbers in totals.items()}
    for axis, given in widths.items():
        total = totals[axis]
        grouped = any(isinstance(each, tuple) for each in total)
        numbers = list(given) if grouped and isinstance(given, (list, tuple)) else _flat(given)
        if len(numbers) != len(total):
            raise ValueError(
                f'widths: {axis} is given for {len(numbers)} modules, but the network has '
                f'{len(total)} with {axis}; give each its own, such as {plain_widths(total)}'
            )
        pairs = enumerate(zip(numbers, total), start=1)
        found[axis] = tuple(_read_width(axis, i, given, total) for i, (given, total) in pairs)
    return found


def _read_width(axis: str, i: int, given: Any, total: Width) -> Width:
    """What module ``i`` (1-based) has, of so many units."""
    if isinstance(total, int):
        if not is_whole_number(given) or not 1 <= given <= total:
            raise ValueError(
                f'widths: {axis}={given!r} of module {i} is not possible; it has {total} {axis}, '
                f'give 1..{total}'
            )
        return int(given)
    is_list = isinstance(given, (list, tuple)) and len(given) == len(total)
    if not is_list or not all(
        is_whole_number(n) and 0 <= n <= most for n, most in zip(given, total)
    ):
        raise ValueError(
            f'widths: {axis}={given!r} of module {i} is not possible; give a number for each of '
            f'its {len(total)} heads, at most {list(total)}'
        )
    if not any(given):
        raise ValueError(f'widths: {axis}={given!r} of module {i} leaves nothing; keep one or more')
    return tuple(map(int, given))


def _flat(given: Any) -> list[Any]:
    if isinstance(given, (list, tuple)):
        return [each for part in given for each in _flat(part)]
    return [given]


def of_cut_axes(widths: Widths, totals: Widths) -> Widths | None:
    """The numbers of those axes along which units are gone; None if all are there."""
    return {axis: widths[axis] for axis in widths if widths[axis] != totals[axis]} or None


def by_level(numbers: Sequence[Width], levels: Sequence[int]) -> list[list[Width]]:
    """Numbers of modules in a list for each level.

    Args:
        numbers: One of each module.
        levels: Which level each module is in; none falls.
    """
    groups = groupby(zip(levels, numbers), key=lambda pair: pair[0])
    return [[number for _, number in group] for _, group in groups]
