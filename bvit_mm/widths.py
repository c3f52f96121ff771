# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How many units each module of a slimmed network has: what ``widths`` may be, and how it reads."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .options import is_whole_number

Widths = dict[str, tuple[int, ...]]  # by axis, one number a module


def read_widths(widths: Any, totals: Mapping[str, Sequence[int]]) -> Widths:
    """The units of each module, by axis, from what a config states.

    Args:
        widths: ``dict(heads=[...], hidden=[...])``, one number a module, in lists within a list if
            that is how levels are told apart. An axis that is left out is whole.
        totals: How many units each module has, by axis.

    Raises:
        ValueError: If they are no such numbers.
    """
    if not isinstance(widths, dict) or not widths or set(widths) - set(totals):
        keys = ', '.join(f'{axis}=[...]' for axis in totals)
        raise ValueError(
            f'widths={widths!r} must be dict({keys}), one number for each module; an axis left '
            'out is whole'
        )
    found = {axis: tuple(numbers) for axis, numbers in totals.items()}
    for axis, given in widths.items():
        numbers, total = _flat(given), totals[axis]
        if len(numbers) != len(total):
            raise ValueError(
                f'widths: {axis} has {len(numbers)} numbers, but the network has {len(total)} '
                f'modules with {axis}; give one number for each, such as {list(total)}'
            )
        for i, (units, of_module) in enumerate(zip(numbers, total), start=1):
            if not is_whole_number(units) or not 1 <= units <= of_module:
                raise ValueError(
                    f'widths: {axis}={units!r} of module {i} is not possible; it has {of_module} '
                    f'{axis}, give 1..{of_module}'
                )
        found[axis] = tuple(map(int, numbers))
    return found


def _flat(given: Any) -> list[Any]:
    if isinstance(given, (list, tuple)):
        return [each for part in given for each in _flat(part)]
    return [given]


def of_cut_axes(widths: Widths, totals: Widths) -> Widths | None:
    """The numbers of those axes along which units are gone; None if all are there."""
    return {axis: widths[axis] for axis in widths if widths[axis] != totals[axis]} or None


def by_level(numbers: Sequence[int], levels: Sequence[int]) -> list[list[int]]:
    """Numbers of modules in a list for each level.

    Args:
        numbers: One of each module.
        levels: Which level each module is in; none falls.
    """
    groups = groupby(zip(levels, numbers), key=lambda pair: pair[0])
    return [[number for _, number in group] for _, group in groups]
