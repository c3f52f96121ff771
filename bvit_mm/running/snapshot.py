# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Whatever can be reached from some objects, kept and put back in place.

Trying a stage, or looking at a loss, runs other people's code: optimizers, losses, samplers. It may
write anywhere, so nothing here is a list of known fields. Attributes and containers are walked as
they are, and put back with the identity that they had. Code is not followed: what only a function
or a bound method refers to stays as it became.
"""

import random
import re
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import cache, partial
from logging import Logger
from queue import Queue
from threading import Condition, Thread
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

ATOMS = (type(None), bool, int, float, complex, str, bytes)
CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, partial, Enum, Logger)
# Others may be using them at this moment, or they have no state to keep.
SHARED = (Thread, Condition, Queue, random.SystemRandom)
PASSED_BY = (*CODE, *SHARED)

Place = tuple[str, Any]


@contextmanager
def unchanged(*roots: Any, without: Iterable[Any] = ()) -> Iterator[None]:
    """Whatever happens within leaves all that can be reached from ``roots`` as it was.

    Tensors are kept on the CPU, and written back where they lie. Iterators that have begun cannot
    be turned back; ``lasting_iterators`` finds them.

    Args:
        *roots: Where to begin.
        without: Objects that are passed by, with what only they refer to.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    things = walk(*roots, without=without)
    restorers = [restore for _, thing in things for restore in _keep(thing, storages)]
    try:
        yield
    finally:
        with torch.no_grad(), ExitStack() as all_of_them:  # also if one of them fails
            for restore in reversed(restorers):
                all_of_them.callback(restore)


def walk(*roots: Any, without: Iterable[Any] = ()) -> Iterator[Place]:
    """Each object that can be reached from ``roots``, once, and where it is."""
    ahead: list[Place] = [('', root) for root in reversed(roots)]
    # Holding an object keeps its number from another's use.
    seen: dict[int, Any] = {id(thing): thing for thing in without}
    while ahead:
        place, thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, PASSED_BY):
            continue
        seen[id(thing)] = thing
        yield place, thing
        for name, child in _children(thing):
            if not isinstance(child, ATOMS):
                ahead.append((f'{place}[{name}]' if isinstance(name, int) else place + name, child))


def lasting_iterators(*roots: Any, without: Iterable[Any] = ()) -> list[str]:
    """Where there are iterators that only go forward, such as ``.indices`` of a sampler."""
    places = [
        place
        for place, thing in walk(*roots, without=without)
        if isinstance(thing, Iterator) and not hasattr(thing, '__dict__')
    ]
    return [re.sub(r"(?:\._modules|^)\['(\w+)'\]", r'.\1', place) for place in places]


def _children(thing: Any) -> Iterator[tuple[str | int, Any]]:
    """What an object refers to; numbers are places in it, which are many."""
    if isinstance(thing, torch.jit.ScriptModule):  # its attributes are not those of Python
        yield from ((f'.{name}', tensor) for name, tensor in thing.named_parameters())
        yield from ((f'.{name}', tensor) for name, tensor in thing.named_buffers())
        return
    if isinstance(thing, dict):
        for key, value in list(_base(thing).items(thing)):
            yield '[...]', key
            yield f'[{key!r}]' if isinstance(key, ATOMS) else '[...]', value
    elif isinstance(thing, (list, tuple, deque, set, frozenset)):
        yield from enumerate(list(thing))
    elif isinstance(thing, Tensor) and thing.is_leaf:
        yield '.grad', thing.grad
    elif isinstance(thing, np.ndarray) and thing.dtype.hasobject:
        yield '[...]', list(thing.flat)
    for name in _slots(thing):
        yield f'.{name}', getattr(thing, name, None)
    attributes = getattr(thing, '__dict__', None)
    if isinstance(attributes, dict):
        yield '', attributes  # itself, to be refilled
        for name, value in list(attributes.items()):
            yield f'.{name}', value


def _slots(thing: Any) -> tuple[str, ...]:
    """Names of the slots of an object, private ones as Python calls them."""
    kind: Any = type(thing)
    return _slots_of(kind)


@cache  # thousands of objects are of a few classes
def _slots_of(kind: type) -> tuple[str, ...]:
    found = []
    for each in kind.__mro__:
        names = vars(each).get('__slots__', ())
        for name in (names,) if isinstance(names, str) else names:
            is_private = name.startswith('__') and not name.endswith('__')
            name = f'_{each.__name__.lstrip("_")}{name}' if is_private else name
            if type(vars(each).get(name)) is MemberDescriptorType:
                found.append(name)
    return tuple(found)


def _keep(thing: Any, storages: dict[int, torch.UntypedStorage]) -> Iterator[Callable[[], Any]]:
    """What puts an object back as it is now; what it refers to is kept by itself."""
    if isinstance(thing, Tensor):
        yield from _keep_tensor(thing, storages)
    elif isinstance(thing, np.ndarray):
        if thing.flags.writeable:
            yield partial(_rewrite, thing, np.array(thing))
    elif isinstance(thing, (dict, list, deque, set, bytearray, array)):
        yield partial(_refill, thing, _content(thing))
    elif isinstance(thing, torch.Generator):
        yield partial(thing.set_state, thing.get_state())
    elif isinstance(thing, random.Random):
        yield partial(thing.setstate, thing.getstate())
    elif isinstance(thing, np.random.RandomState):
        yield partial(thing.set_state, thing.get_state())
    elif isinstance(thing, (np.random.Generator, np.random.BitGenerator)):
        numbers: Any = getattr(thing, 'bit_generator', thing)
        yield partial(setattr, numbers, 'state', numbers.state)
    else:
        for name in _slots(thing):
            if hasattr(thing, name):
                yield partial(object.__setattr__, thing, name, getattr(thing, name))
            else:
                yield partial(_unset, thing, name)


def _keep_tensor(
    tensor: Tensor, storages: dict[int, torch.UntypedStorage]
) -> Iterator[Callable[[], Any]]:
    """Its numbers are kept once for all tensors that share them."""
    if tensor.is_meta or is_lazy(tensor):
        return
    if tensor.layout is not torch.strided:
        yield partial(tensor.copy_, tensor.detach().clone())
        return
    yield partial(_point, tensor, tensor.detach(), tensor.grad if tensor.is_leaf else None)
    storage = tensor.untyped_storage()
    if storage.size() and storage.data_ptr() not in storages:
        storages[storage.data_ptr()] = storage
        yield partial(_rewrite_storage, storage, storage.cpu().clone())


def _rewrite(numbers: np.ndarray, kept: np.ndarray) -> None:
    """Only what changed is written: an array may be a file, or memory that others read."""
    if numbers.dtype.hasobject or numbers.tobytes() != kept.tobytes():
        np.copyto(numbers, kept)


def _rewrite_storage(storage: torch.UntypedStorage, kept: torch.UntypedStorage) -> None:
    """As ``_rewrite``; an accelerator's memory is no file, and comparing costs as much."""
    if storage.device.type != 'cpu' or not torch.equal(_bytes(storage), _bytes(kept)):
        storage.copy_(kept)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _unset(thing: Any, name: str) -> None:
    """Leaves a slot empty."""
    if hasattr(thing, name):
        object.__delattr__(thing, name)


def _point(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Lets a tensor be of the numbers that it was of, with the gradient that it had."""
    if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
        tensor.data = data
    if tensor.is_leaf and tensor.grad is not grad:
        tensor.grad = grad


def _base(thing: dict) -> type[dict]:
    """Whose methods read and write a dict as it is, whatever its class makes of that."""
    return OrderedDict if isinstance(thing, OrderedDict) else dict


def _content(thing: Any) -> list[Any]:
    return list(_base(thing).items(thing)) if isinstance(thing, dict) else list(thing)


def _refill(thing: Any, content: list[Any]) -> None:
    """Gives a container its content again; one that has it is left alone, others may read it."""
    now = _content(thing)
    if isinstance(thing, dict):
        entries: list[list[Any]] = [
            [(id(key), id(value)) for key, value in each] for each in (now, content)
        ]
    else:
        entries = [list(map(id, each)) for each in (now, content)]
    if entries[0] == entries[1] or (isinstance(thing, bytearray) and now == content):
        return
    if isinstance(thing, dict):
        _base(thing).clear(thing)
        for key, value in content:
            _base(thing).__setitem__(thing, key, value)
        return
    if isinstance(thing, array):
        del thing[:]
    else:
        thing.clear()
    (thing.update if isinstance(thing, set) else thing.extend)(content)
