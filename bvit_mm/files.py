# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Files that are written whole or not at all, so that a kill never leaves half a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yields a path beside ``file``; what is written there replaces the file.

    The path is gone afterwards, also if writing it failed.
    """
    partial = file.with_name(f'{file.name}.partial')
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file, and replaces the one that there was."""
    with replaced(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
