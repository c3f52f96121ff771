# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Files of weights are read as data: a program in them is refused, not run.

A checkpoint is a pickle, and a pickle may call any function. mmengine takes every pickle: where
torch's safe unpickler refuses one it reads the file again without it, and the names that it allows
the safe one include ``getattr``, which alone leads from a class to the whole interpreter. So all
ways by which mmengine reads a checkpoint are guarded here, once this package is imported.
"""

import argparse
import codecs
import contextlib
import functools
import os
import pathlib
import pickle
import re
import shlex
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import _weights_only_unpickler

from ..mmengine_gaps import checkpoint_loaders, history_methods

TRUST = 'BVIT_MM_TRUST'
# Before, torch ran TorchScript in spite of weights_only, and took no names of one's own.
TORCH_IS_SAFE = digit_version(torch.__version__) >= digit_version('2.6.0')
READ = torch.serialization.load  # torch.load may have been replaced by one that takes programs
CONTAINERS = (bytearray, complex, frozenset, set, slice)
METHODS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}
_one_at_a_time = threading.RLock()


class UnsafeFileError(ValueError):
    """A file holds more than data."""


def is_trusted(file: str | Path) -> bool:
    """Whether the environment says that this file may run: ``BVIT_MM_TRUST=FILE``."""
    trusted = os.environ.get(TRUST)
    if not trusted:
        return False
    # With ~, as mmengine's loader takes it.
    paths = [Path(os.path.expanduser(each)).resolve() for each in (file, trusted)]
    return str(file) == trusted or paths[0] == paths[1]


def trusting(file: str | Path) -> str:
    """What to write before a command so that it trusts a file."""
    return f'{TRUST}={shlex.quote(str(file))}'


def tell_trusted(file: str | Path) -> None:
    """Says that a file is trusted."""
    MMLogger.get_current_instance().warning(f'{file} may run programs: {TRUST} names it')


def load_plain(file: Any, map_location: Any = None) -> Any:
    """``torch.load`` of plain data: tensors, containers, and what mmengine's checkpoints hold.

    Args:
        file: A path, or an open file.
        map_location: As of ``torch.load``.

    Raises:
        UnpicklingError: If there is more in it.
    """
    with _statistics_kept():
        return (_load_by_torch if TORCH_IS_SAFE else _load_restricted)(file, map_location)


@contextlib.contextmanager
def _statistics_kept() -> Iterator[None]:
    """A history buffer that is read adds the methods in its state to those of all buffers."""
    methods = history_methods()
    before = dict(methods)
    try:
        yield
    finally:
        methods.clear()
        methods.update(before)


def _method(owner: type, name: str) -> Callable:
    """All that ``getattr`` does in a checkpoint: it names methods that mmengine keeps in states."""
    if name not in METHODS.get(owner, ()):
        raise pickle.UnpicklingError(f'GLOBAL getattr of {name!r}')
    return getattr(owner, name)


def allowed_globals() -> dict[str, Any]:
    """What a checkpoint may name beside torch's own, by name."""
    names = {
        'builtins.getattr': _method,
        **{f'builtins.{kind.__name__}': kind for kind in CONTAINERS},
        'collections.Counter': Counter,
        '_codecs.encode': codecs.encode,  # for bytes
        **{f'{owner.__module__}.{owner.__name__}': owner for owner in METHODS},
        'mmengine.config.config.ConfigDict': ConfigDict,  # in the data's metainfo
        'argparse.Namespace': argparse.Namespace,  # in older checkpoints of other programs
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
    }
    for path in (pathlib.PosixPath, pathlib.PurePosixPath):
        for module in {'pathlib', path.__module__}:  # the latter is another since Python 3.13
            names[f'{module}.{path.__name__}'] = path
    for core in ('numpy.core', 'numpy._core'):  # before numpy 2, and since
        names[f'{core}.multiarray._reconstruct'] = np.empty(0).__reduce__()[0]
        names[f'{core}.multiarray.scalar'] = np.float64(0).__reduce__()[0]
    for code in np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?SU':
        kind = type(np.dtype(code))
        names[f'{kind.__module__}.{kind.__qualname__}'] = kind
    for method in history_methods().values():  # those that were registered here
        names[f'{method.__module__}.{method.__qualname__}'] = method
    return names


def _load_by_torch(file: Any, map_location: Any) -> Any:
    serialization = torch.serialization
    before = serialization.get_safe_globals()
    # A user's own classes stay allowed; mmengine's loader adds the bare getattr.
    kept = [each for each in before if each is not getattr]
    ours = [(value, name) for name, value in allowed_globals().items()]
    serialization.clear_safe_globals()
    serialization.add_safe_globals([*kept, *ours])
    try:
        return READ(file, map_location=map_location, weights_only=True)
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


class _Restricted(pickle.Unpickler):
    """Finds only names that are allowed."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace('__builtin__', 'builtins')  # as pickles of protocol 2 call it
        names = {**_weights_only_unpickler._get_allowed_globals(), **allowed_globals()}
        try:
            return names[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name}') from None


def _load_restricted(file: Any, map_location: Any) -> Any:
    """The same for a torch whose own safe unpickler is not enough."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise pickle.UnpicklingError('GLOBAL TorchScript')
    if hasattr(file, 'seek'):
        file.seek(0)
    restricted = SimpleNamespace(
        __name__='restricted',
        Unpickler=_Restricted,
        load=lambda opened, **options: _Restricted(opened, **options).load(),
        UnpicklingError=pickle.UnpicklingError,
    )
    return READ(file, map_location=map_location, pickle_module=restricted, weights_only=False)


def _load_guarded(name: str, file: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """In the place of ``torch.load`` while a checkpoint called ``name`` is read."""
    if is_trusted(name):
        tell_trusted(name)
        return READ(file, map_location=map_location, weights_only=False)
    try:
        content = load_plain(file, map_location)
        meta = content.get('meta') if isinstance(content, dict) else None
        if isinstance(meta, dict):
            meta.pop('config', None)  # resuming would run it; mmengine itself writes `cfg`
        return content
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = _why_refused(error, file)
    raise UnsafeFileError(
        f'{name} is not only data ({reason}), so it is not read: a program may be in it. Give '
        'another file; if you know who made it and trust them with your account, '
        f'{trusting(name)} in the environment reads it all the same'
    )


def _why_refused(error: Exception, file: Any) -> str:
    """What a file holds that is not read; raises what says of it that it is damaged."""
    text = str(error)
    if 'TorchScript' in text:
        return 'it is a program of TorchScript'
    if not isinstance(error, pickle.UnpicklingError):
        raise error
    if found := re.search(r'GLOBAL ([\w.]+)', text):
        return f'it would run {found[1]}'
    text = text.rpartition('WeightsUnpickler error: ')[2].strip().splitlines()[0]
    if zipfile.is_zipfile(file):
        return text
    raise pickle.UnpicklingError(text) from None


def guarded(loader: Callable[..., Any]) -> Callable[..., Any]:
    """One of mmengine's loaders of checkpoints, reading plain data only."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        with _one_at_a_time:
            before, thread = torch.load, threading.get_ident()

            def read(*of: Any, **options: Any) -> Any:
                if threading.get_ident() != thread:  # that reads a file of its own meanwhile
                    return before(*of, **options)
                return _load_guarded(filename, *of, **options)

            torch.load = read
            try:
                return loader(filename, *args, **kwargs)
            finally:
                torch.load = before

    return load


for _prefix, _loader in checkpoint_loaders().items():
    CheckpointLoader.register_scheme(_prefix, guarded(_loader), force=True)
