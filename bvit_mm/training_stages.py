# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What is active in each training stage, and what a backbone's ``training_stages`` may be."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from numbers import Integral
from typing import Any

from .options import is_whole_number

# One number, or one for each level of a pyramid.
PerLevel = int | tuple[int, ...]


class TrainingStage:
    """What is active in one training stage: a value for each axis that the network has.

    The values are attributes. A stage never changes; stages with equal values are equal.

    Args:
        **values: What is active, by the names of ``AXES``. ``heads``, ``hidden`` and ``window``
            (the side of the attention windows) are one number, or one for each level of a
            pyramid; ``grid`` is the rows and columns of tokens, of a pyramid those of its first
            level; ``view`` is how a smaller grid sees an image (``VIEWS``). A network without
            heads, or without windows, has no such value.

    Raises:
        ValueError: If there is no such axis.
    """

    def __init__(self, **values: Any) -> None:
        unknown = sorted(set(values) - set(AXES))
        if unknown:
            raise ValueError(
                f'a training stage with {unknown} is not known here, only with {tuple(AXES)}; '
                'if a newer version of bvit_mm wrote it, use that version'
            )
        vars(self).update({name: values[name] for name in AXES if name in values})

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> 'TrainingStage':
        """Reads what ``as_dict`` gave; None, in old checkpoints, is an axis that was not there."""
        return cls(**{name: value for name, value in record.items() if value is not None})

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        return dict(vars(self))

    @property
    def keys(self) -> tuple[str, ...]:
        """What a training stage of this network sets."""
        return tuple(vars(self))

    def __getattr__(self, name: str) -> Any:  # only of what is not there
        raise AttributeError(f'this training stage has no {name!r}, but {tuple(vars(self))}')

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f'{name!r} of a training stage cannot be set; make another stage')

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingStage) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).items()))

    def __str__(self) -> str:
        texts = {name: AXES[name].text(value) for name, value in vars(self).items()}
        return ', '.join(f'{name}={text}' for name, text in texts.items() if text is not None)

    def __repr__(self) -> str:
        return f'TrainingStage({self})'


@dataclass(frozen=True)
class Axis:
    """One thing that a training stage sets; a row of ``AXES``.

    Attributes:
        read: Returns what a stage has from what a config gives. It takes the name of the axis,
            all values of the stage by the names of their axes, and the whole network, and raises
            ValueError if they do not fit.
        default: Returns what stage k (1-based) of K has. It takes k, K and the whole network.
        label: The heading of the column in tables.
        cell: Returns what tables show of a value.
        text: Returns what messages show of a value; None, and the value is not worth a word.
        grows: Whether no stage may have less than the one before it.
    """

    read: Callable[[str, Mapping[str, Any], TrainingStage], Any]
    default: Callable[[int, int, TrainingStage], Any]
    label: str
    cell: Callable[[Any], PerLevel | str] = lambda value: value
    text: Callable[[Any], Any] = lambda value: value
    grows: bool = True


StagesSpec = int | Sequence[dict[str, Any]] | None


def parse_training_stages(
    spec: StagesSpec,
    whole: TrainingStage,
    free: Collection[str] = (),
    network: str = 'the network',
) -> tuple[TrainingStage, ...]:
    """Reads the ``training_stages`` argument of a backbone.

    Args:
        spec: A dict for each training stage with what the network has of ``heads`` and
            ``hidden`` (of a pyramid one number a level), ``grid`` (tokens per side, or rows and
            columns; of a pyramid at its first level), ``view`` (of a smaller grid: ``'crop'``, the
            default, or ``'scale'``) and ``window`` (one number, or one a level), a key left out
            being whole;
            or the number K of stages: heads k/K of all, tokens linearly from a half to all (in
            a network with windows, the nearest whole window and as many of them), hidden units
            doubling up to all (Appendix A; for K = 3 it is Table 6, except for the heads of
            PVTv2); or None for the whole network only. Two stages may be the same
            (``check_distinct``).
        whole: What the whole network has.
        free: Axes that have no weights in this network: a stage may have less than the one before.
        network: What messages call it.

    Raises:
        ValueError: If a stage is no part of the network or smaller than the one before it, or if
            the last is not the whole network.
    """
    if spec is None:
        return (whole,)
    if isinstance(spec, (Integral, float)):
        return _stages_of_number(spec, whole)
    if isinstance(spec, (str, dict)) or not isinstance(spec, Sequence) or not spec:
        keys = ', '.join(f'{key}=...' for key in whole.keys)
        raise ValueError(
            f'training_stages={spec!r} must be a number of stages or a list of dict({keys})'
        )
    stages = [_parse_stage(k, given, whole, network) for k, given in enumerate(spec, start=1)]
    for k, (smaller, larger) in enumerate(pairwise(stages), start=2):
        for name in (n for n in whole.keys if AXES[n].grows and n not in free):
            before, now = getattr(smaller, name), getattr(larger, name)
            levels = max(len(per_level(each, 1)) for each in (before, now))
            if any(b < a for a, b in zip(per_level(before, levels), per_level(now, levels))):
                raise ValueError(
                    f'training stage {k}: {name}={now} is less than {before} in training stage '
                    f'{k - 1}; stages may only grow'
                )
    if stages[-1] != whole:
        raise ValueError(
            f'training stage {len(stages)} is the last and must be the whole network '
            f'({whole}), but has {stages[-1]}'
        )
    return tuple(stages)


def check_distinct(stages: Sequence[TrainingStage], recipes: Sequence[object] = ()) -> None:
    """Checks that each training stage differs from the one before, in its shape or its recipe.

    Args:
        stages: The training stages of a backbone.
        recipes: How each of them is trained; if none are given, all are trained alike.

    Raises:
        ValueError: If two consecutive stages are the same.
    """
    recipes = recipes or [None] * len(stages)
    for k, (before, now) in enumerate(pairwise(zip(stages, recipes, strict=True)), start=2):
        if before == now:
            raise ValueError(
                f'training stage {k}: {now[0]} is the same as training stage {k - 1}; drop one'
            )


def _parse_stage(
    k: int, given: dict[str, Any], whole: TrainingStage, network: str
) -> TrainingStage:
    if not isinstance(given, dict):
        raise ValueError(f'training stage {k}: {given!r} must be a dict of {whole.keys}')
    unknown = set(given) - set(whole.keys)
    missing = [name for name in AXES if name in unknown]
    if missing:
        raise ValueError(
            f'training stage {k}: {missing[0]}={given[missing[0]]!r}, but {network} has no '
            f'{missing[0]}; give what it has: {whole.keys}'
        )
    if unknown:
        raise ValueError(
            f'training stage {k}: {sorted(map(str, unknown))} is not known; give {whole.keys}'
        )
    try:
        return _completed(given, whole)
    except ValueError as error:
        raise ValueError(f'training stage {k}: {error}') from None


def _completed(given: Mapping[str, Any], whole: TrainingStage) -> TrainingStage:
    given = {**whole.as_dict(), **given}
    return TrainingStage(**{name: AXES[name].read(name, given, whole) for name in given})


def stage_of_record(record: dict[str, Any], whole: TrainingStage) -> TrainingStage:
    """The training stage that ``as_dict`` gave; axes newer than the record are at their default.

    Args:
        record: Of a stage, maybe of another network.
        whole: What the whole network has.

    Raises:
        ValueError: If it has an axis that is not known.
    """
    stage = TrainingStage.from_dict(record)
    try:
        return _completed(stage.as_dict(), whole)
    except ValueError:  # of another network
        return stage


def _stages_of_number(count: Any, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    if not is_whole_number(count) or count < 1:
        raise ValueError(f'training_stages={count!r} must be a number of stages, at least 1')
    stages = [
        {name: AXES[name].default(k, count, whole) for name in whole.keys}
        for k in range(1, count + 1)
    ]
    return parse_training_stages(stages, whole)


def per_level(value: PerLevel, levels: int) -> tuple[int, ...]:
    """One number for each level, from one number for all of them or for each."""
    return value if isinstance(value, tuple) else (value,) * levels


def alike(values: tuple[int, ...]) -> PerLevel:
    """One number if all levels have the same, else one for each."""
    return values[0] if len(set(values)) == 1 else values


def _each(units: PerLevel, function: Callable[[int], int]) -> PerLevel:
    return tuple(map(function, units)) if isinstance(units, tuple) else function(units)


def _read_units(name: str, given: Mapping[str, Any], whole: TrainingStage) -> PerLevel:
    value = given[name]
    place, total = f'{name}={value!r}', getattr(whole, name)
    if isinstance(total, int):
        if not is_whole_number(value):
            raise ValueError(f'{place} is not a whole number of {name}')
        if not 1 <= value <= total:
            raise ValueError(f'{place}, but the model has {total} {name}; give 1..{total}')
        return int(value)
    if not isinstance(value, (tuple, list)) or len(value) != len(total):
        raise ValueError(
            f'{place} must be one number for each of {len(total)} levels, such as {total}'
        )
    place = f'{name}={tuple(value)}'
    for level, (units, of_level) in enumerate(zip(value, total), start=1):
        if not is_whole_number(units):
            raise ValueError(f'{place}, but {units!r} of level {level} is not a whole number')
        if not 1 <= units <= of_level:
            raise ValueError(
                f'{place}, but level {level} has {of_level} {name}; give 1..{of_level}'
            )
    return tuple(map(int, value))


def _read_window(name: str, given: Mapping[str, Any], whole: TrainingStage) -> PerLevel:
    value = given[name]
    total = whole.window
    levels = len(per_level(total if isinstance(total, tuple) else whole.hidden, 1))
    if isinstance(value, (tuple, list)) and len(value) != levels:
        raise ValueError(
            f'{name}={value!r} must be one number, or one for each of {levels} levels, such as '
            f'{per_level(total, levels)}'
        )
    sides = per_level(tuple(value) if isinstance(value, list) else value, levels)
    for level, (side, of_level) in enumerate(zip(sides, per_level(total, levels)), start=1):
        if not is_whole_number(side) or not 1 <= side <= of_level:
            is_one = not isinstance(value, (tuple, list)) and not isinstance(total, tuple)
            raise ValueError(
                f'{name}={value!r}, but {"the model" if is_one else f"level {level}"} has windows '
                f'of {of_level}x{of_level} tokens; give 1..{of_level}'
            )
    return alike(tuple(map(int, sides)))


def _read_grid(name: str, given: Mapping[str, Any], whole: TrainingStage) -> tuple[int, int]:
    value, total = given[name], whole.grid
    pair = (value, value) if isinstance(value, Integral) else value
    whole_numbers = (
        isinstance(pair, Sequence) and len(pair) == 2 and all(map(is_whole_number, pair))
    )
    place = f'{name}={value!r}'
    if given.get('view') == 'scale':
        if not whole_numbers or any(not 1 <= n <= of_all for n, of_all in zip(pair, total)):
            raise ValueError(
                f'{place} is no number of patches, or of rows and columns of them, of images '
                f"scaled down (view='scale'); give 1..{_square_as_one(total)}"
            )
    else:
        allowed = [list(range(2 - n % 2, n + 1, 2)) for n in total]
        if not whole_numbers or any(n not in fits for n, fits in zip(pair, allowed)):
            choice = (
                allowed[0]
                if allowed[0] == allowed[1]
                else f'rows {allowed[0]}, columns {allowed[1]}'
            )
            raise ValueError(
                f'{place} is no centre crop of the {total[0]}x{total[1]} '
                f'patch grid (the same number of patches must be left out on both sides); '
                f'give one of {choice}'
                + (", or view='scale', which takes any" if 'view' in whole.keys else '')
            )
    rows, columns = map(int, pair)
    return rows, columns


def _read_view(name: str, given: Mapping[str, Any], whole: TrainingStage) -> str:
    value = given[name]
    if value not in (*VIEWS, 'whole'):
        raise ValueError(f'{name}={value!r} is not known; give one of {VIEWS}')
    if _read_grid('grid', given, whole) == whole.grid:
        return 'whole'
    return 'crop' if value == 'whole' else value


def _default_heads(k: int, count: int, whole: TrainingStage) -> PerLevel:
    return _each(whole.heads, lambda heads: max(1, int(heads * k / count + 0.5)))


def _default_hidden(k: int, count: int, whole: TrainingStage) -> PerLevel:
    for hidden in per_level(whole.hidden, 1):
        if hidden % 2 ** (count - 1):
            raise ValueError(
                f'training_stages={count} doubles the hidden units up to {hidden}, which cannot '
                f'be halved {count - 1} times; give the stages one by one'
            )
    return _each(whole.hidden, lambda hidden: hidden // 2 ** (count - k))


def _default_window(k: int, count: int, whole: TrainingStage) -> PerLevel:
    side = _share_of_tokens(k, count) ** 0.5
    return _each(whole.window, lambda window: max(1, round(window * side)))


def _default_grid(k: int, count: int, whole: TrainingStage) -> tuple[int, int]:
    side = _share_of_tokens(k, count) ** 0.5
    if 'window' in whole.keys:  # as many windows as the whole network has
        window, of_all = (
            per_level(each, 1)[0] for each in (_default_window(k, count, whole), whole.window)
        )
        side = window / of_all
    rows, columns = (centered(n, n * side) for n in whole.grid)
    return rows, columns


def _share_of_tokens(k: int, count: int) -> float:
    return 1.0 if count == 1 else 0.5 + 0.5 * (k - 1) / (count - 1)


def centered(total: int, size: float) -> int:
    """The number nearest to ``size`` that leaves as many of ``total`` out on both sides."""
    return max(total - 2 * round((total - size) / 2), 2 - total % 2)


def _square_as_one(grid: tuple[int, int]) -> int | tuple[int, int]:
    return grid[0] if grid[0] == grid[1] else grid


# How a stage with fewer tokens than the whole network sees an image: its center, or all of it
# scaled down. One with all tokens sees it 'whole'.
VIEWS = ('crop', 'scale')


# What a training stage may set; a network sets those that it has. Tables and messages list them
# in this order.
AXES: dict[str, Axis] = dict(
    heads=Axis(_read_units, _default_heads, label='heads'),
    hidden=Axis(_read_units, _default_hidden, label='hidden'),
    grid=Axis(_read_grid, _default_grid, label='tokens', cell=prod, text=_square_as_one),
    view=Axis(
        _read_view,
        lambda k, count, whole: 'whole',  # of a smaller grid that is its default, its center
        label='view',
        text=lambda view: view if view == 'scale' else None,
        grows=False,
    ),
    window=Axis(_read_window, _default_window, label='window'),
    widths=Axis(  # of a slimmed network: how many units each module has, by axis
        lambda name, given, whole: given[name],
        lambda k, count, whole: (),
        label='slimmed',
        text=lambda widths: {axis: list(numbers) for axis, numbers in widths} or None,
        grows=False,
    ),
)
