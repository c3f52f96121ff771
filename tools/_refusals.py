# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the tools answer to a config or a value that cannot be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def refusing(refuse: Callable[[str], object]) -> Iterator[None]:
    """Hands a message to ``refuse``, which ends the tool, if what is within cannot be done."""
    try:
        yield
    except (KeyError, ImportError, SyntaxError) as error:  # of a type, a module, a config
        refuse(f'{type(error).__name__}: {error}')
    except (ValueError, TypeError, OSError, MemoryError, AssertionError) as error:
        refuse(str(error))  # mmengine asserts that a device can mix precision
