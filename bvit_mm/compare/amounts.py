# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What each run of a comparison may spend: a share of the full cost, or a time."""

from collections.abc import Iterable

from ..hours import parse_duration

Amount = float | str  # a time as text, such as '20min'


def read_amounts(texts: Iterable[Amount]) -> list[Amount]:
    """Shares of the full cost, or times in the words of ``time_text``, each once.

    Raises:
        ValueError: If something is neither, or if there are both.
    """
    texts = list(texts)
    amounts = list(dict.fromkeys(map(_read, texts)))
    if len({isinstance(amount, str) for amount in amounts}) > 1:
        raise ValueError(
            f'--budgets {" ".join(map(str, texts))} are shares of the full cost and times; runs '
            'are compared at equal cost or at equal time, so give one kind'
        )
    return amounts


def _read(text: Amount) -> Amount:
    seconds = parse_duration(text)
    if seconds is not None:
        return time_text(seconds)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(
            f'--budgets {text} must be shares of the full cost, above 0, up to 1, or times such '
            'as 20min'
        )
    return share


def time_text(seconds: float) -> str:
    """A time in its largest whole unit: the same text, however it was written."""
    for unit, name in ((3600, 'h'), (60, 'min')):
        if seconds % unit == 0:
            return f'{seconds / unit:.0f}{name}'
    return f'{seconds:.10g}s'


def is_time(amount: Amount) -> bool:
    """Whether it is a time."""
    return isinstance(amount, str)


def size_of(amount: Amount) -> float:
    """A number to sort and add: a share of the full cost, or seconds."""
    seconds = parse_duration(amount)
    return float(amount) if seconds is None else seconds


def amount_text(amount: Amount) -> str:
    """How tables call it."""
    return amount if isinstance(amount, str) else f'{100 * amount:g} %'
