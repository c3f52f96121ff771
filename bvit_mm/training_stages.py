# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What is active in each training stage, and what a backbone's ``training_stages`` may be."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple


class TrainingStage(NamedTuple):
    """What is active in one training stage: heads, hidden units, rows and columns of tokens."""

    heads: int
    hidden: int
    grid: tuple[int, int]

    def __str__(self) -> str:
        grid = self.grid[0] if self.grid[0] == self.grid[1] else self.grid
        return f'heads={self.heads}, hidden={self.hidden}, grid={grid}'


StagesSpec = int | Sequence[dict[str, Any]] | None


def parse_training_stages(spec: StagesSpec, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    """Reads the ``training_stages`` argument of a backbone.

    Args:
        spec: A dict for each training stage with ``heads``, ``hidden`` and ``grid`` (tokens per
            side, or rows and columns), a key left out being whole; or the number K of stages:
            heads k/K of all, tokens linearly from a half to all, hidden units doubling up to all
            (Appendix A; for K = 3 it is Table 6); or None for the whole network only.
        whole: What the whole network has.

    Raises:
        ValueError: If a stage is no part of the network, smaller than the one before it or the
            same, or if the last is not the whole network.
    """
    if spec is None:
        return (whole,)
    if isinstance(spec, (int, float)):
        return _stages_of_number(spec, whole)
    if isinstance(spec, (str, dict)) or not isinstance(spec, Sequence) or not spec:
        raise ValueError(
            f'training_stages={spec!r} must be a number of stages or a list of '
            'dict(heads=..., hidden=..., grid=...)'
        )
    stages = [_parse_stage(k, given, whole) for k, given in enumerate(spec, start=1)]
    for k, (smaller, larger) in enumerate(pairwise(stages), start=2):
        for name, before, now in zip(whole._fields, smaller, larger):
            pairs = zip(before, now) if name == 'grid' else [(before, now)]
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
        raise ValueError(f'training stage {k}: {given!r} must be a dict of {whole._fields}')
    unknown = set(given) - set(whole._fields)
    if unknown:
        raise ValueError(
            f'training stage {k}: {sorted(unknown)} is not known; give {whole._fields}'
        )
    return TrainingStage(
        heads=_units(k, 'heads', given.get('heads', whole.heads), whole.heads),
        hidden=_units(k, 'hidden', given.get('hidden', whole.hidden), whole.hidden),
        grid=_grid(k, given.get('grid', whole.grid), whole.grid),
    )


def _units(k: int, name: str, value: Any, total: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'training stage {k}: {name}={value!r} is not a whole number of {name}')
    if not 1 <= value <= total:
        raise ValueError(
            f'training stage {k}: {name}={value}, but the model has {total} {name}; give 1..{total}'
        )
    return value


def _grid(k: int, value: Any, total: tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    whole_numbers = (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
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
    return tuple(pair)


def _stages_of_number(count: Any, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'training_stages={count!r} must be a number of stages, at least 1')
    halvings = 2 ** (count - 1)
    if whole.hidden % halvings:
        raise ValueError(
            f'training_stages={count} doubles the hidden units up to {whole.hidden}, which cannot '
            f'be halved {count - 1} times; give the stages one by one'
        )
    stages: list[dict[str, Any]] = []
    for k in range(1, count + 1):
        tokens = 1.0 if count == 1 else 0.5 + 0.5 * (k - 1) / (count - 1)
        stages.append(
            dict(
                heads=max(1, int(whole.heads * k / count + 0.5)),
                hidden=whole.hidden // 2 ** (count - k),
                grid=tuple(centred(n, n * tokens**0.5) for n in whole.grid),
            )
        )
    return parse_training_stages(stages, whole)


def centred(total: int, size: float) -> int:
    """The number nearest to ``size`` that leaves as many of ``total`` out on both sides."""
    return max(total - 2 * round((total - size) / 2), 2 - total % 2)
