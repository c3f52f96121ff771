# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What is active in each training stage, and what a backbone's ``training_stages`` may be."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

# One number, or one for each level of a pyramid.
PerLevel = int | tuple[int, ...]


class TrainingStage(NamedTuple):
    """What is active in one training stage.

    ``grid`` is the rows and columns of tokens, of a pyramid those of its first level; ``window``
    the side of the attention windows, None in a network without them.
    """

    heads: PerLevel
    hidden: PerLevel
    grid: tuple[int, int]
    window: int | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What a training stage of this network sets."""
        return tuple(key for key, value in self._asdict().items() if value is not None)

    def __str__(self) -> str:
        values = self._asdict()
        if self.grid[0] == self.grid[1]:
            values['grid'] = self.grid[0]
        return ', '.join(f'{key}={values[key]}' for key in self.keys)


StagesSpec = int | Sequence[dict[str, Any]] | None


def parse_training_stages(spec: StagesSpec, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    """Reads the ``training_stages`` argument of a backbone.

    Args:
        spec: A dict for each training stage with ``heads`` and ``hidden`` (of a pyramid one
            number a level), ``grid`` (tokens per side, or rows and columns; of a pyramid at its
            first level) and, if the network has windows, ``window``, a key left out being whole;
            or the number K of stages: heads k/K of all, tokens linearly from a half to all (in
            a network with windows, the nearest whole window and as many of them), hidden units
            doubling up to all (Appendix A; for K = 3 it is Table 6, except for the heads of
            PVTv2); or None for the whole network only.
        whole: What the whole network has.

    Raises:
        ValueError: If a stage is no part of the network, smaller than the one before it or the
            same, or if the last is not the whole network.
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
    stages = [_parse_stage(k, given, whole) for k, given in enumerate(spec, start=1)]
    for k, (smaller, larger) in enumerate(pairwise(stages), start=2):
        for name in whole.keys:
            before, now = getattr(smaller, name), getattr(larger, name)
            pairs = zip(before, now) if isinstance(now, tuple) else [(before, now)]
            if any(b < a for a, b in pairs):
                raise ValueError(
                    f'training stage {k}: {name}={now} is less than {before} in training stage '
                    f'{k - 1}; stages may only grow'
                )
        if smaller == larger:
            raise ValueError(
                f'training stage {k}: {larger} is the same as training stage {k - 1}; drop one'
            )
    if stages[-1] != whole:
        raise ValueError(
            f'training stage {len(stages)} is the last and must be the whole network '
            f'({whole}), but has {stages[-1]}'
        )
    return tuple(stages)


def _parse_stage(k: int, given: dict[str, Any], whole: TrainingStage) -> TrainingStage:
    if not isinstance(given, dict):
        raise ValueError(f'training stage {k}: {given!r} must be a dict of {whole.keys}')
    unknown = set(given) - set(whole.keys)
    if unknown:
        raise ValueError(
            f'training stage {k}: {sorted(map(str, unknown))} is not known; give {whole.keys}'
        )
    given = {**whole._asdict(), **given}
    return TrainingStage(
        heads=_units(k, 'heads', given['heads'], whole.heads),
        hidden=_units(k, 'hidden', given['hidden'], whole.hidden),
        grid=_grid(k, given['grid'], whole.grid),
        window=None if whole.window is None else _window(k, given['window'], whole.window),
    )


def _units(k: int, name: str, value: Any, total: PerLevel) -> PerLevel:
    place = f'training stage {k}: {name}={value!r}'
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
    place = f'training stage {k}: {name}={tuple(value)}'
    for level, (units, of_level) in enumerate(zip(value, total), start=1):
        if not is_whole_number(units):
            raise ValueError(f'{place}, but {units!r} of level {level} is not a whole number')
        if not 1 <= units <= of_level:
            raise ValueError(
                f'{place}, but level {level} has {of_level} {name}; give 1..{of_level}'
            )
    return tuple(map(int, value))


def _window(k: int, value: Any, total: int) -> int:
    if not is_whole_number(value) or not 1 <= value <= total:
        raise ValueError(
            f'training stage {k}: window={value!r}, but the model has windows of {total}x{total} '
            f'tokens; give 1..{total}'
        )
    return int(value)


def is_whole_number(value: Any) -> bool:
    """NumPy's are; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _grid(k: int, value: Any, total: tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, Integral) else value
    whole_numbers = (
        isinstance(pair, Sequence) and len(pair) == 2 and all(map(is_whole_number, pair))
    )
    allowed = [list(range(2 - n % 2, n + 1, 2)) for n in total]
    if not whole_numbers or any(n not in fits for n, fits in zip(pair, allowed)):
        choice = (
            allowed[0] if allowed[0] == allowed[1] else f'rows {allowed[0]}, columns {allowed[1]}'
        )
        raise ValueError(
            f'training stage {k}: grid={value!r} is no centre crop of the {total[0]}x{total[1]} '
            f'patch grid (the same number of patches must be left out on both sides); '
            f'give one of {choice}'
        )
    return tuple(map(int, pair))


def _stages_of_number(count: Any, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    if not is_whole_number(count) or count < 1:
        raise ValueError(f'training_stages={count!r} must be a number of stages, at least 1')
    halvings = 2 ** (count - 1)
    for hidden in whole.hidden if isinstance(whole.hidden, tuple) else [whole.hidden]:
        if hidden % halvings:
            raise ValueError(
                f'training_stages={count} doubles the hidden units up to {hidden}, which cannot '
                f'be halved {count - 1} times; give the stages one by one'
            )
    stages: list[dict[str, Any]] = []
    for k in range(1, count + 1):
        tokens = 1.0 if count == 1 else 0.5 + 0.5 * (k - 1) / (count - 1)
        side = tokens**0.5
        stage: dict[str, Any] = {}
        if whole.window is not None:  # as many windows as the whole network has
            stage['window'] = max(1, round(whole.window * side))
            side = stage['window'] / whole.window
        stage.update(
            heads=_each(whole.heads, lambda heads, k=k: max(1, int(heads * k / count + 0.5))),
            hidden=_each(whole.hidden, lambda hidden, k=k: hidden // 2 ** (count - k)),
            grid=tuple(centred(n, n * side) for n in whole.grid),
        )
        stages.append(stage)
    return parse_training_stages(stages, whole)


def _each(units: PerLevel, function: Callable[[int], int]) -> PerLevel:
    return tuple(map(function, units)) if isinstance(units, tuple) else function(units)


def centred(total: int, size: float) -> int:
    """The number nearest to ``size`` that leaves as many of ``total`` out on both sides."""
    return max(total - 2 * round((total - size) / 2), 2 - total % 2)
