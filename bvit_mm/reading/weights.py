# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Weights from checkpoint files; those that do not fit are refused, not half loaded."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .safe_files import UnsafeFileError

SHOWN = 3  # keys in a message


def read_checkpoint(file: str, advice: str = 'give another file') -> dict[str, Any]:
    """A checkpoint, its tensors on the CPU; file, address or whatever mmengine reads.

    Args:
        file: The checkpoint.
        advice: What to do if it cannot be read.

    Raises:
        FileNotFoundError: If it does not exist.
        UnsafeFileError: A ValueError, if there is more than data in it (``safe_files``).
        ValueError: If it is damaged, or no checkpoint.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(file), map_location='cpu')
    except (FileNotFoundError, UnsafeFileError):
        raise
    except Exception as error:  # torch raises many kinds for a file cut short, or of another kind
        reason = str(error).splitlines()[0] if str(error) else 'no reason given'
        raise ValueError(
            f'{file} cannot be read as a checkpoint, it is damaged or something else '
            f'({type(error).__name__}: {reason}); {advice}'
        ) from error
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ValueError(f'{file} holds a {type(checkpoint).__name__}, no checkpoint; {advice}')
    return checkpoint


def cut_prefix(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What begins with ``prefix``, without it, its metadata (the training stage) as well."""
    part = OrderedDict(
        (key.removeprefix(prefix), value)
        for key, value in state_dict.items()
        if key.startswith(prefix)
    )
    name = prefix.removesuffix('.')
    metadata = OrderedDict(
        (key.removeprefix(name).removeprefix('.'), value)
        for key, value in getattr(state_dict, '_metadata', {}).items()
        if f'{key}.'.startswith(prefix)
    )
    vars(part)['_metadata'] = metadata  # as torch keeps it
    return part


def load_strictly(
    module: nn.Module, state_dict: dict[str, Tensor], place: str, new: Collection[str] = ()
) -> None:
    """Loads weights that must all be there and fit.

    Args:
        module: What to load them into.
        state_dict: The weights.
        place: Where they are from, for the message.
        new: Keys that may be missing, or be there though the module has no such.

    Raises:
        ValueError: If a key is missing, not known, or of another shape, or the weights are of a
            training stage that ``module`` does not have.
    """
    name = type(module).__name__
    shapes, reason = [], []
    try:
        missing, unknown = module.load_state_dict(state_dict, strict=False)
    except ValueError as error:  # of another training stage
        raise ValueError(f'{place}: {error}') from None
    except Exception as error:  # torch's, or any kind that the class's own hooks raise
        ours, theirs = module.state_dict(), state_dict
        missing = [key for key in ours if key not in theirs]
        unknown = [key for key in theirs if key not in ours]
        first, *others = str(error).splitlines() or ['']
        if first.startswith('Error(s) in loading state_dict'):
            shapes = [line.strip() for line in others]
        else:
            reason = [f'{type(error).__name__}: {first}']
    missing, unknown = ([key for key in keys if key not in new] for keys in (missing, unknown))
    problems = [
        f'{len(items)} {what} ({", ".join(items[:SHOWN])}{", ..." * (len(items) > SHOWN)})'
        for what, items in (
            ('keys are missing', missing),
            ('keys are not known', unknown),
            ('do not fit', shapes),
            ('error while they were fitted', reason),
        )
        if items
    ]
    if problems:
        raise ValueError(
            f'{place} does not fit {name}: {"; ".join(problems)}. Give weights of the same '
            'network, or the config that they were trained with'
        )


def load_pretrained(
    module: nn.Module, file: str, prefix: str | None = None, new: Collection[str] = ()
) -> None:
    """Loads what ``init_cfg=dict(type='Pretrained', ...)`` names, strictly.

    Args:
        module: Usually a backbone.
        file: A checkpoint, of which averaged weights count if it has them as timm does
            (``state_dict_ema``), or a bare state dict.
        prefix: Of the module's keys in the file, such as ``'backbone.'``.
        new: Keys that may be missing, or be there though the module has no such.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or does not fit.
    """
    try:
        checkpoint = read_checkpoint(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{file} does not exist, the weights that {type(module).__name__} is to start from; '
            "give another as its init_cfg['checkpoint'] (for the configs of bvit_mm, "
            'CHECKPOINT=FILE in the environment), or init_cfg=None'
        ) from None
    state_dict = checkpoint.get('state_dict_ema', checkpoint.get('state_dict', checkpoint))
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        part = cut_prefix(state_dict, prefix)
        if not part:
            raise ValueError(
                f'{file} has no key that begins with {prefix!r}, but such as '
                f'{next(iter(state_dict))!r}; give a prefix that it has, or another file'
            )
        state_dict = part
    load_strictly(module, state_dict, str(file), new)
