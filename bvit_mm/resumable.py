# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The checkpoint that a run goes on from: the last one that is whole."""

import zipfile
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import find_latest_checkpoint

from .weights import read_checkpoint

INTERRUPTED = 'interrupted.pth'
LAST = 'last_checkpoint'
PATTERNS = ('epoch_*.pth', 'iter_*.pth', INTERRUPTED)


def last_whole_checkpoint(work_dir: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Path and content of the checkpoint to resume in a folder, None if none was ever saved.

    The one that mmengine wrote down as the last; if the process was killed while it wrote that,
    or the file is damaged, the newest other one that is whole. A message says so.

    Raises:
        ValueError: If there are checkpoints and none of them can be read, or none can be noted.
    """
    work_dir = Path(work_dir)
    last, problems = _noted(work_dir)
    if last and '://' in last:  # in a store that only mmengine can look into
        return last, read_checkpoint(last, advice='give --resume an earlier one')
    folders = {work_dir, Path(last).parent} if last else {work_dir}  # the hook's out_dir
    others = {f for folder in folders for pattern in PATTERNS for f in folder.glob(pattern)}
    others = sorted(others, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    # A folder that was moved has its files, under another path.
    moved = [work_dir / Path(last).name] if last else []
    for file in dict.fromkeys([*([Path(last)] if last else []), *moved, *others]):
        if file in moved and str(file) != last and not file.is_file():
            continue
        try:
            checkpoint = _read_whole(file)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        if problems:
            MMLogger.get_current_instance().warning(
                f'{"; ".join(problems)}. Going on from {file}, which is whole'
            )
        return str(file), checkpoint
    if problems:
        raise ValueError(
            f'{work_dir} has no checkpoint that is whole: {"; ".join(problems)}. '
            'Train without resume in another work_dir'
        )
    return None


def write_last(work_dir: str | Path, file: str | Path) -> None:
    """Notes a file as the last checkpoint, so that a kill leaves the old note or the new one."""
    partial = Path(work_dir) / f'{LAST}.partial'
    partial.write_text(str(file))
    partial.replace(partial.with_name(LAST))


def _noted(work_dir: Path) -> tuple[str | None, list[str]]:
    """The checkpoint that mmengine wrote down as the last, and what is wrong with its note."""
    note = work_dir / LAST
    if note.is_dir():
        raise ValueError(f'{note} is a folder, where the last checkpoint is noted; remove it')
    try:
        last = find_latest_checkpoint(str(work_dir))
        if last is not None and not last.strip():
            return None, [f'{note} is empty']
        if last and '://' not in last:
            Path(last).is_file()  # a name that is too long is found out here
    except (OSError, ValueError) as error:  # bytes that are no text, or no rights
        return None, [f'{note} cannot be read ({type(error).__name__})']
    return last, []


def _read_whole(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f'{file} does not exist')
    if zipfile.is_zipfile(file):  # torch does not compare all check sums
        with zipfile.ZipFile(file) as archive:
            try:
                damaged = archive.testzip()
            except (zipfile.BadZipFile, EOFError) as error:
                damaged = str(error)
        if damaged:
            raise ValueError(f'{file} is damaged ({damaged})')
    checkpoint = read_checkpoint(file, advice='remove it')
    if 'state_dict' not in checkpoint:
        raise ValueError(f'{file} is no checkpoint of a run')
    return checkpoint
