# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Numbers in options: what they must be, and figures of advice that are accepted if followed."""

from decimal import ROUND_CEILING, Context, Decimal
from numbers import Integral
from typing import Any


def at_least(value: float, digits: int = 2) -> str:
    """The smallest number of so many significant digits that is not below ``value``, above 0."""
    exact = Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value))
    return f'{float(exact):.{digits}g}'


def check_epochs(name: str, value: int, least: int = 1) -> None:
    """Raises ValueError unless it is a whole number of epochs, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        each = ', one for each training stage' if least > 1 else ''
        raise ValueError(
            f'{name}={value!r} must be a whole number of epochs, at least {least}{each}'
        )


def is_whole_number(value: Any) -> bool:
    """NumPy's are; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)
