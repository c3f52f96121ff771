# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the ``type`` of a config is, whichever way it is written."""

from types import FunctionType
from typing import Any

from mmengine.registry import Registry


def class_of(config: Any, registry: Registry) -> type | None:
    """The class that a config builds.

    Its ``type`` may be the class itself, of a config in Python's own style; its registered
    name, with a scope or within one; or its full name, of such a config after it was written
    down.

    Args:
        config: A dict with ``type``.
        registry: That of ``config``.

    Returns:
        The class; None if ``config`` is no dict, or names no class that is known.
    """
    kind = config.get('type') if isinstance(config, dict) else None
    if isinstance(kind, str):
        try:
            kind = registry.get(kind)
        except RuntimeError:  # of a module that is not there
            kind = None
    return kind if isinstance(kind, type) else None


def builds(config: Any, registry: Registry, wanted: type | str) -> bool:
    """Whether a config builds a class, or one that is derived from it.

    Args:
        config: As of ``class_of``.
        registry: That of ``config``.
        wanted: The class, or its registered name.
    """
    found = class_of(config, registry)
    wanted = registry.get(wanted) if isinstance(wanted, str) else wanted
    return found is not None and issubclass(found, wanted)


def type_name(config: dict[str, Any]) -> str:
    """The ``type`` of a config as messages tell it."""
    kind = config.get('type')
    return getattr(kind, '__name__', str(kind))


def in_words(value: Any) -> Any:
    """A config, or a part of one, with full names in place of classes and functions.

    mmengine writes down those that are loaded without quotes, as text that cannot be read again.

    Raises:
        ValueError: If something is defined within a function, where no name leads to it.
    """
    if isinstance(value, dict):
        return {key: in_words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(in_words(item) for item in value)
    if not isinstance(value, (type, FunctionType)):
        return value
    if '<' in value.__qualname__:
        raise ValueError(
            f'{value.__qualname__} cannot be written into a config; define it at the top of a '
            'module'
        )
    return f'{value.__module__}.{value.__qualname__}'
