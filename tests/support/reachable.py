# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the garbage collector can reach from an object, and how it differs later.

It sees what no list of attributes names: closures, slots, what C code refers to. Written against
bvit_mm.running.snapshot, and with nothing of it.
"""

import gc
import hashlib
import random
import types

import numpy as np
import torch

OPAQUE = (type, types.ModuleType, types.CodeType, types.FrameType)


def fingerprint(*roots, without=()):
    """A signature of each object that can be reached from ``roots``, by identity.

    Args:
        without: Objects that may change.
    """
    seen = {id(each): (each, None) for each in without}
    ahead = list(roots)
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, OPAQUE) or is_global(thing):
            continue
        referents = refers_to(thing)
        seen[id(thing)] = thing, signature(thing, referents)
        ahead += referents
    return seen


def changes_since(before):
    """Objects of a fingerprint that are no longer as they were."""
    found = []
    for thing, old in before.values():
        if old is None:
            continue
        now = signature(thing, refers_to(thing))
        if now != old:
            found.append(f'{type(thing).__module__}.{type(thing).__name__}: {old} -> {now}'[:400])
    return found


def refers_to(thing):
    getattr(thing, '__dict__', None)  # Python makes it only when it is asked for
    return [each for each in gc.get_referents(thing) if not isinstance(each, OPAQUE)]


def is_global(thing):
    """The globals of a module, which its functions refer to."""
    return isinstance(thing, dict) and '__builtins__' in thing


def signature(thing, referents):
    """Values of what has a value, the identity of what an object refers to."""
    if isinstance(thing, torch.Tensor):
        grad = thing.grad if thing.is_leaf else None
        return number(thing), tuple(thing.shape), id(grad) if grad is not None else None
    if isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
        return hashlib.sha1(np.ascontiguousarray(thing).view(np.uint8)).hexdigest()
    if isinstance(thing, torch.Generator):
        return number(thing.get_state())
    if isinstance(thing, random.Random):
        return hash(thing.getstate())
    if isinstance(thing, np.random.RandomState):
        return str(thing.get_state())
    if isinstance(thing, np.random.BitGenerator):
        return str(thing.state)
    if isinstance(thing, (int, float, complex, str, bytes, np.generic)):
        return repr(thing)
    if isinstance(thing, dict):
        return [(id(key), value_of(value)) for key, value in thing.items()]
    if isinstance(thing, (set, frozenset)):  # whose order depends on the past and on the process
        return sorted((value_of(each) for each in referents), key=str)
    return [value_of(each) for each in referents]


def value_of(thing):
    """Numbers and text are the same if they are equal."""
    plain = isinstance(thing, (int, float, complex, str, bytes, type(None)))
    return repr(thing)[:80] if plain else id(thing)


def number(tensor):
    return hashlib.sha1(tensor.detach().cpu().numpy().tobytes()).hexdigest()
