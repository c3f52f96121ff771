# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the pyramids written here share: how they read their arguments, and count layers."""

import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from mmengine.utils import to_2tuple

from ..options import is_whole_number

Arch = dict[str, tuple[int, ...]]


def check_flags(of: str, **flags: bool) -> None:
    """Raises ValueError unless arguments of the class ``of`` are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f'{name}={value!r} of {of} must be True or False')


def check_rates(of: str, **rates: float) -> None:
    """Raises ValueError unless arguments of the class ``of`` are rates of drop-out."""
    for name, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(f'{name}={rate!r} of {of} must be a number in [0, 1)')


def whole_numbers(of: str, name: str, values: Any, count: int | None = None) -> tuple[int, ...]:
    """``count`` whole numbers from 1 on, an argument of the class ``of``.

    Raises:
        ValueError: If they are something else.
    """
    wanted = 'one for each level' if count is None else f'{count} in all'
    if (
        not isinstance(values, (tuple, list))
        or not values
        or (count is not None and len(values) != count)
        or not all(is_whole_number(n) and n > 0 for n in values)
    ):
        raise ValueError(f'{name}={values!r} of {of} must be whole numbers from 1 on, {wanted}')
    return tuple(map(int, values))


def parse_arch(of: str, arch: Any, archs: Mapping[str, Arch]) -> Arch:
    """An architecture by its name, or given as those of ``archs`` are: one number a level.

    Raises:
        ValueError: If it is not known, or its widths are no multiples of its ``num_heads``.
    """
    names = tuple(next(iter(archs.values())))
    if isinstance(arch, str) and arch in archs:
        arch = archs[arch]
    elif not isinstance(arch, dict) or set(arch) != set(names):
        raise ValueError(
            f'arch={arch!r} of {of} must be one of {tuple(archs)} or a dict of {names}'
        )
    count = len(whole_numbers(of, 'depths', arch['depths']))
    settings = {name: whole_numbers(of, name, arch[name], count) for name in names}
    for i, (width, heads) in enumerate(zip(settings['embed_dims'], settings['num_heads'])):
        if width % heads:
            raise ValueError(
                f'level {i + 1} of {of}: embed_dims={width} is no multiple of num_heads={heads}'
            )
    return settings


def parse_size(of: str, img_size: Any) -> tuple[int, int]:
    """Height and width of images, from one number or two.

    Raises:
        ValueError: If they are something else.
    """
    rows, columns = whole_numbers(of, 'img_size', to_2tuple(img_size), 2)
    return rows, columns


def parse_out_indices(of: str, out_indices: Any, levels: int) -> tuple[int, ...]:
    """Levels whose maps are returned.

    Raises:
        ValueError: If they are none of ``levels``, 0-based.
    """
    if (
        not isinstance(out_indices, (tuple, list))
        or not out_indices
        or not all(is_whole_number(i) and 0 <= i < levels for i in out_indices)
    ):
        raise ValueError(f'out_indices={out_indices!r} of {of} must be levels from 0..{levels - 1}')
    return tuple(out_indices)


def layer_depth(param_name: str, prefix: str, depths: Sequence[int]) -> tuple[int, int]:
    """The layer that a parameter belongs to, for learning rates that decay layer by layer.

    Layers count as in mmpretrain's ``SwinTransformer``: 0 is the first patch embedding, then
    come the blocks of all levels. The patch embedding of a later level, and the norm before
    it, belong to the block before them. The last norm is of the last layer, like the head.

    Args:
        param_name: Of a parameter of the whole model.
        prefix: What names of the backbone's parameters begin with there.
        depths: The number of blocks of each level.

    Returns:
        The layer, 0-based, and the number of layers.
    """
    layers = sum(depths) + 2
    name = param_name.removeprefix(prefix)
    match = re.match(r'levels\.(\d+)\.(?:(?:patch_)?embed|norm|blocks\.(\d+))\.', name)
    if match is None or not param_name.startswith(prefix):
        return layers - 1, layers
    level = int(match[1])
    before = sum(depths[:level])
    if match[2]:
        return before + int(match[2]) + 1, layers
    if '.norm.' not in match[0]:
        return before, layers
    return before + depths[level] + (level == len(depths) - 1), layers
