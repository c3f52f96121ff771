# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Configs in checkpoints, read as data.

mmengine saves a config as Python text, and reads it again by running it. What it writes are only
literals and ``dict(...)``, which ``ast`` reads as well. A config of literals can still name any
function as a ``type``, which a registry would import and call; so what is to be built must be
registered.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import import_modules_from_strings

from .safe_files import UnsafeFileError, is_trusted, tell_trusted, trusting

TYPES = {kind.__name__: kind for kind in (bool, bytes, dict, float, int, list, set, str, tuple)}
NUMBERS = {name: float(name) for name in ('inf', 'nan')}
# By the endings by which mmengine takes them.
PROGRAMS = {
    'pkl': 'is a pickle, which may be a program',
    'pickle': 'is a pickle, which may be a program',
    'yaml': 'is YAML, which mmengine reads as a program',
    'yml': 'is YAML, which mmengine reads as a program',
    'py': 'is a program',
}
EVALUATED = ('dtype', 'warp_mode')  # by mmpretrain and mmdet, as Python
NEVER = {
    'trust_remote_code': 'runs what is downloaded',
    'sys_path': 'says where programs are imported from',
    'codebook_init_path': 'is read by torch itself, not as data',
    'queue_path': 'is read by torch itself, not as data',
    'hierarchy_file': 'may be a pickle, whatever it is called',
    'tag_list': 'is a pickle, whatever it is called',
    'tag_list_chinese': 'is a pickle, whatever it is called',
}


def read_config(text: str, file: str | Path) -> Config:
    """The config that mmengine saved as text; modules of ``custom_imports`` are imported.

    Args:
        text: What ``Config.pretty_text`` wrote.
        file: Where it stands, for messages, and because it may be trusted (``safe_files``).

    Raises:
        UnsafeFileError: A ValueError, if there is more than data in it.
        ValueError: If it is no config.
    """
    if is_trusted(file):
        tell_trusted(file)
        return Config.fromstring(text, file_format='.py')
    try:
        cfg = Config(_values(ast.parse(text), file))
    except UnsafeFileError:
        raise
    except (SyntaxError, TypeError, ValueError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'{file} has a config that cannot be read ({type(error).__name__}: {error}); give a '
            'file that mmengine has saved'
        ) from None
    if 'custom_imports' in cfg:
        _import(cfg.custom_imports, file)
    return cfg


def _import(custom_imports: Any, file: str | Path) -> None:
    """Imports what ``custom_imports`` of a config name; a ValueError names it if it cannot."""
    place = f'{file}: custom_imports={custom_imports!r} of its config'
    wanted = dict(custom_imports) if isinstance(custom_imports, dict) else {}
    names = wanted.get('imports')
    names = [names] if isinstance(names, str) else names
    if (
        wanted.keys() - {'imports', 'allow_failed_imports'}
        or not isinstance(names, (list, tuple))
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(
            f"{place} is no dict(imports=['a.module'], allow_failed_imports=False); "
            'give a file that mmengine has saved'
        )
    try:
        import_modules_from_strings(list(names), bool(wanted.get('allow_failed_imports')))
    except ImportError as error:
        raise ValueError(
            f'{place} cannot be imported ({error}); install it, or put its folder into PYTHONPATH'
        ) from error


def check_buildable(cfg: Any, file: str | Path) -> None:
    """Looks at a part of such a config before it is built.

    Args:
        cfg: A model, a data set, or whatever else a registry builds.
        file: The checkpoint that it is from.

    Raises:
        UnsafeFileError: A ValueError, if it names a ``type`` that no registry has, or something
            to read that may be a program.
    """
    if is_trusted(file):
        return
    for place, key, value in _parts(cfg, 'config'):
        reason = _why_not(key, value)
        if reason is None:
            continue
        trust = (
            f'if you know who made it and trust them, {trusting(file)} in the environment builds it'
        )
        if key != 'type':
            advice = f'give another file, or {trust}'
        elif isinstance(value, str) and '.' in value:  # of a config in pure Python, it may be yours
            advice = f'{trust}, or import its module first, as custom_imports do'
        else:
            advice = f'give a file whose custom_imports register it, or {trust}'
        raise UnsafeFileError(
            f'{file}: {place}={value!r} of its config {reason}, so it is not built; {advice}'
        )


def _why_not(key: str, value: Any) -> str | None:
    """Why a value is not built with; None if nothing is known against it."""
    nested = isinstance(value, (dict, list, tuple, set))
    if key == 'type' and not nested and not _is_registered(value):
        return 'is not registered, and a registry would import it and call it'
    if key in NEVER and value:
        return NEVER[key]
    if not isinstance(value, str):
        return None
    if key in EVALUATED and not all(part.isidentifier() for part in value.split('.')):
        return 'would be run, for it is no plain name'
    if '(' in value and ('__' in value or 'import' in value):
        return 'looks like a program, which some classes run'
    return PROGRAMS.get(value.split('.')[-1])


def _values(module: ast.Module, file: str | Path) -> dict[str, Any]:
    """What lines of ``name = literal`` say."""
    values = {}
    for line in module.body:
        if not isinstance(line, ast.Assign) or len(line.targets) != 1:
            raise _refused(line, file)
        (name,) = line.targets
        if not isinstance(name, ast.Name):
            raise _refused(line, file)
        values[name.id] = _value(line.value, file)
    return values


def _value(node: ast.expr, file: str | Path) -> Any:
    """What an expression of literals stands for."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in TYPES | NUMBERS:
        return (TYPES | NUMBERS)[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, file)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(each, file) for each in node.elts)
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]
        if len(keys) == len(node.keys):  # else of **
            return {_value(k, file): _value(v, file) for k, v in zip(keys, node.values)}
    if _is_call(node, 'set') and not node.args:
        return set()  # which has no literal
    if _is_call(node, 'range') and 1 <= len(node.args) <= 3:
        return range(*(_value(each, file) for each in node.args))
    if _is_plain_dict(node):
        parts = [_value(each, file) for each in node.args]
        return dict(*parts, **{str(each.arg): _value(each.value, file) for each in node.keywords})
    raise _refused(node, file)


def _is_call(node: ast.expr, name: str) -> TypeGuard[ast.Call]:
    """Whether it is ``name(...)`` without keywords."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
        and not node.keywords
    )


def _is_plain_dict(node: ast.expr) -> TypeGuard[ast.Call]:
    """Whether it is ``dict(key=..., ...)``, or ``dict({...})`` as mmengine writes other keys."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and all(isinstance(each, ast.Dict) for each in node.args)
        and all(each.arg is not None for each in node.keywords)
    )


def _refused(node: ast.stmt | ast.expr, file: str | Path) -> UnsafeFileError:
    text = ' '.join(ast.unparse(node).split())
    return UnsafeFileError(
        f'{file} has a config that is not only data: {text[:80]!r} in line {node.lineno} would be '
        'run, so it is not read. Give another file; if you know who made it and trust them, '
        f'{trusting(file)} in the environment runs it'
    )


def _parts(cfg: Any, place: str, key: str = '') -> Iterator[tuple[str, str, Any]]:
    """All values of a nested config, those that hold others included, with place and key."""
    yield place, key, cfg
    if isinstance(cfg, dict):
        for name, value in cfg.items():
            yield from _parts(value, f'{place}.{name}', str(name))
    elif isinstance(cfg, (list, tuple, set)):
        for number, value in enumerate(cfg):
            yield from _parts(value, f'{place}[{number}]')


def _is_registered(kind: Any) -> bool:
    """Whether a registry finds a type without importing what it is called after."""
    if isinstance(kind, str) and kind.isidentifier():
        return find_spec(kind) is None  # there is no module of that name
    scope = kind.partition('.')[0] if isinstance(kind, str) else None
    if scope == kind:  # such as torchvision/ToTensor, as mmpretrain calls it
        scope = 'mmpretrain'
    names, objects = set(), []
    for registry in _registries():
        if registry.scope == scope:
            registry.import_from_location()
        names |= {f'{registry.scope}.{name}' for name in registry.module_dict}
        names |= {name for name in registry.module_dict if '.' not in name}
        objects += registry.module_dict.values()
    return kind in names or any(each is _imported(kind) for each in objects)


def _registries() -> Iterator[Registry]:
    """All of mmengine's and of the packages that are imported."""
    modules = [
        module for name, module in sys.modules.items() if module and name.endswith('.registry')
    ]
    found = [each for module in modules for each in vars(module).values()]
    waiting = [each for each in found if isinstance(each, Registry)]
    seen = set()
    while waiting:
        registry = waiting.pop()
        if id(registry) not in seen:
            seen.add(id(registry))
            waiting += registry.children.values()
            yield registry


def _imported(kind: Any) -> Any:
    """What ``module.name`` stands for, of a module that is imported already; a class is itself."""
    if not isinstance(kind, str):
        return kind
    module, _, name = kind.rpartition('.')
    return getattr(sys.modules.get(module), name, kind)
