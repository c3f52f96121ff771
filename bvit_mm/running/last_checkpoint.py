# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The checkpoint that a run goes on from: the last one that is whole."""

import os
import re
import string
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.fileio import FileClient, get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.runner import find_latest_checkpoint

from ..files import write_whole
from ..reading.safe_files import UnsafeFileError
from ..reading.weights import read_checkpoint

INTERRUPTED = 'interrupted.pth'
LAST = 'last_checkpoint'
TEMPLATES = (INTERRUPTED, 'epoch_{}.pth', 'iter_{}.pth')


def savers(hooks: Iterable[Hook]) -> list[CheckpointHook]:
    """The hooks that save checkpoints."""
    return [hook for hook in hooks if isinstance(hook, CheckpointHook)]


def last_whole_checkpoint(
    work_dir: str | Path, hooks: Iterable[Hook] = ()
) -> tuple[str, dict[str, Any]] | None:
    """Path and content of the checkpoint to resume, None if none was ever saved.

    The one that mmengine noted as the last; if the process was killed while it wrote that, or
    note or file is lost or damaged, the newest other one that is whole. A message says so.

    Args:
        work_dir: Of the run.
        hooks: Of the run; its ``CheckpointHook``s say what checkpoints are called, and where
            they lie.

    Raises:
        UnsafeFileError: A ValueError, if one is not only data (``safe_files``).
        ValueError: If there are checkpoints and none of them can be read, or none is called as
            the hooks call them, or none can be noted.
    """
    work_dir, savers = str(work_dir), [h for h in hooks if isinstance(h, CheckpointHook)]
    last, problems = _noted(Path(work_dir))
    if last and '://' in last:  # in a store that only mmengine can look into
        return last, read_checkpoint(last, advice='give --resume an earlier one')
    found = _found(work_dir, savers, last)
    if found and not last and not problems:
        problems.append(f'{Path(work_dir, LAST)} does not exist')
    noted = [last] if last else []  # a folder that was moved has its files, under another path
    noted += [file for file in found if last and os.path.basename(file) == os.path.basename(last)]
    for file in dict.fromkeys([*noted, *found]):
        try:
            checkpoint = _read_whole(file)
        except UnsafeFileError:
            raise
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        if problems:
            MMLogger.get_current_instance().warning(
                f'{"; ".join(problems)}. Going on from {file}, which is whole'
            )
        return file, checkpoint
    others = _others(work_dir, savers, found)
    if problems or others:
        raise ValueError(_advice(work_dir, problems, others))
    return None


def folder_of(hook: CheckpointHook, work_dir: str) -> str:
    """Where a hook will save, which it finds out only when training begins."""
    if hook.out_dir is None or str(hook.out_dir) == work_dir:
        return work_dir
    name = os.path.basename(work_dir.rstrip(os.sep))
    return _store(hook).join_path(str(hook.out_dir), name)


def check_savers(hooks: Iterable[Hook], work_dir: str | Path) -> None:
    """Raises ValueError if a ``CheckpointHook`` cannot save; mmengine finds out after an epoch."""
    for hook in hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        try:
            hook.filename_tmpl.format(1)
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(
                f'filename_tmpl={hook.filename_tmpl!r} of CheckpointHook takes no number '
                f"({type(error).__name__}: {error}); give one such as 'epoch_{{}}.pth'"
            ) from None
        try:
            folder_of(hook, str(work_dir))
        except (KeyError, ValueError, AttributeError, TypeError, ImportError) as error:
            raise ValueError(
                f'out_dir={str(hook.out_dir)!r} of CheckpointHook is nowhere that mmengine writes '
                f'to ({type(error).__name__}: {error}); give a folder'
            ) from None


def _store(hook: CheckpointHook) -> Any:
    """What reads and writes the hook's folder: a disk, or a store in the net."""
    folder = str(hook.out_dir)
    if hook.file_client_args is not None:  # its older name
        return FileClient.infer_client(hook.file_client_args, folder)
    return get_file_backend(folder, backend_args=hook.backend_args)


def _found(work_dir: str, savers: list[CheckpointHook], last: str | None) -> list[str]:
    """Files that are called as checkpoints of the run are, the newest first.

    In a store, which does not tell times, that is the one with the highest number.
    """
    templates = {*TEMPLATES, *(hook.filename_tmpl for hook in savers)}
    folders = {work_dir, *([os.path.dirname(last)] if last else [])}
    ages = {}
    for folder in (*folders, *(folder_of(hook, work_dir) for hook in savers)):
        if '://' in folder:
            continue
        for template in templates:
            for file in Path(folder, template).parent.glob('*'):
                number = _number(template, os.path.relpath(file, folder))
                if number is not None and file.is_file():
                    ages[str(file)] = file.stat().st_mtime_ns, number
    stored = {}
    for hook in savers:
        folder = folder_of(hook, work_dir)
        if '://' in folder:
            store = _store(hook)
            for name in store.list_dir_or_file(folder, list_dir=False):
                number = _number(hook.filename_tmpl, name)
                if number is not None:
                    stored[store.join_path(folder, name)] = number
    return [
        f for files in (stored, ages) for f in sorted(files, key=files.__getitem__, reverse=True)
    ]


def _number(template: str, name: str) -> int | None:
    """The epoch or iteration in the name of a file; None if it is called otherwise."""
    if name == template:
        return 0
    parts = string.Formatter().parse(template)
    pattern = ''.join(
        re.escape(text) + r'\s*(\d+)' * (field is not None) for text, field, *_ in parts
    )
    match = re.fullmatch(pattern, name)
    if not match or len(match.groups()) != 1 or template.format(int(match[1])) != name:
        return None
    return int(match[1])


def _others(work_dir: str, savers: list[CheckpointHook], found: list[str]) -> list[str]:
    """Checkpoints of a budgeted run that are called otherwise, those to resume from first."""
    ages = {}
    for folder in {work_dir, *(folder_of(hook, work_dir) for hook in savers)}:
        for file in Path(folder).glob('*'):
            if str(file) in found or not zipfile.is_zipfile(file):
                continue
            try:
                checkpoint = _read_whole(str(file))
            except (ValueError, FileNotFoundError):
                continue
            meta = checkpoint.get('meta')
            saved = meta.get('bvit_mm') if isinstance(meta, dict) else None
            if isinstance(saved, dict) and 'batches_done' in saved:
                ages[str(file)] = 'optimizer' in checkpoint, file.stat().st_mtime_ns
    return sorted(ages, key=ages.__getitem__, reverse=True)


def _advice(work_dir: str, problems: list[str], others: list[str]) -> str:
    """What is wrong, and what to do."""
    if not others:
        return (
            f'{work_dir} has no checkpoint that is whole: {"; ".join(problems)}. Name one that is '
            '(--resume FILE), or train without resume in another work_dir'
        )
    why = f' ({"; ".join(problems)})' if problems else ''
    names = ', '.join(os.path.basename(file) for file in others)
    return (
        f'{work_dir} has no checkpoint that --resume finds{why}, but {names} of a budgeted run. '
        f'Name the one to go on from, such as --resume {others[0]}, or train without resume in '
        'another work_dir'
    )


def write_last(work_dir: str | Path, file: str | Path) -> None:
    """Notes a file as the last checkpoint, so that a kill leaves the old note or the new one."""
    write_whole(Path(work_dir) / LAST, str(file))


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


def _read_whole(file: str) -> dict[str, Any]:
    if '://' not in file and not Path(file).is_file():
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
