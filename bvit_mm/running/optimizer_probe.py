# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What an optimizer keeps of a parameter, found out by trying it on one of its own.

Growth gives new units state as an optimizer has it at its start. Zero is right for moments, wrong
for averages and copies of the weights. Names do not tell them apart; two tries with other weights
and the same gradients do.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .randomness import kept_random_state
from .snapshot import walk

STEPS = 4  # some optimizers begin later than with their first step
# How much of a difference in weights is found in state: of moments nothing, of averages all.
INDEPENDENT, FOLLOWS = 0.1, 0.9
SCHEDULED = ('lr', 'weight_decay')  # what differs between groups that are otherwise alike
ABSENT = object()  # a counter that only the first step brings


class OptimizerTraits(NamedTuple):
    """What growth must know of an optimizer.

    Attributes:
        averages: Names of state that follows the weights, such as an average of them.
        counters: What its parameter groups count, and where that begins.
    """

    averages: frozenset[str]
    counters: dict[str, Any]


class _CannotServe(Exception):
    """Says why."""


class _Trial(NamedTuple):
    """An optimizer and its only parameter."""

    optimizer: Optimizer
    param: nn.Parameter

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.param]

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[0]

    def step(self, gradients: Sequence[Tensor], first: int = 0) -> None:
        for number, gradient in enumerate(gradients, start=first):
            torch.manual_seed(number)  # for those that draw
            self.param.grad = gradient.clone()
            type(self.optimizer).step(self.optimizer)


def probe_optimizer(optimizer: Optimizer) -> OptimizerTraits:
    """Tries an optimizer on parameters of its own, as it is set up for each kind of parameter.

    Raises:
        ValueError: If growth cannot serve it: it wraps another one, cannot be stepped on a single
            parameter, or keeps state elsewhere than in ``state``, of another shape or kind than
            the parameter, or mixed of weights and gradients; or if its state dict is not enough
            to go on from.
    """
    weights: set[str] = set()
    counters: dict[str, Any] = {}
    try:
        _check_alone(optimizer)
        for options, like in _kinds(optimizer):
            with kept_random_state():
                traits = _probe(optimizer, options, like)
            weights |= traits.averages
            counters |= traits.counters
    except _CannotServe as problem:
        raise ValueError(
            f'optimizer {type(optimizer).__name__} {problem}, so growth cannot serve it; use one '
            'with moments shaped like the parameters, such as AdamW, Adam or SGD'
        ) from None
    return OptimizerTraits(frozenset(weights), counters)


def _check_alone(optimizer: Optimizer) -> None:
    own = {key: value for key, value in vars(optimizer).items() if key != 'param_groups'}
    others = walk(own, without=[optimizer])
    inner = [thing for _, thing in others if isinstance(thing, Optimizer)]
    if inner:
        raise _CannotServe(f'wraps another one ({type(inner[0]).__name__}) with state of its own')


def _kinds(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Options and a parameter for each way in which the optimizer is set up.

    The largest parameter of each number of dimensions, because some treat it otherwise.
    """
    largest: dict[str, tuple[dict[str, Any], Tensor]] = {}
    for group in optimizer.param_groups:
        options = {k: v for k, v in group.items() if k not in ('params', 'param_names')}
        told = {k: options.get(k) for k in optimizer.defaults if k not in SCHEDULED}
        for param in group['params']:
            kind = f'{told} {param.dim()}'
            if kind not in largest or param.numel() > largest[kind][1].numel():
                largest[kind] = options, param
    yield from largest.values()


def _probe(optimizer: Optimizer, options: dict[str, Any], like: Tensor) -> OptimizerTraits:
    numbers = torch.Generator().manual_seed(0)
    shape = list(like.shape)
    if len(shape) > 1 and shape[0] == shape[1] > 1:
        shape[0] -= 1  # a square parameter has the shape of what whitens its rows
    start, *gradients = (torch.randn(shape, generator=numbers).to(like) for _ in range(STEPS + 1))
    try:
        trial, other = (_new(optimizer, options, weights) for weights in (start, -start))
        before = copy.deepcopy(_without_params(trial.group))
        kept = {id(tensor): tensor.clone() for _, tensor in _elsewhere(trial)}
        trial.step(gradients)
        other.step(gradients)
    except Exception as error:  # whatever a third-party optimizer raises
        raise _CannotServe(f'cannot be stepped on a single parameter ({error})') from None
    _check_state(trial, kept)
    _check_resumes(optimizer, options, start, gradients, trial)
    now = _without_params(trial.group)
    counted = [key for key in now if key not in SCHEDULED and not _same(before.get(key), now[key])]
    return OptimizerTraits(
        frozenset(name for name in trial.state if _follows_weights(name, trial, other)),
        {key: optimizer.defaults.get(key, ABSENT) for key in counted},
    )


def _new(optimizer: Optimizer, options: dict[str, Any], weights: Tensor) -> _Trial:
    """An optimizer like the given one, with nothing of it, before its first step."""
    param = nn.Parameter(weights.clone())
    new = object.__new__(type(optimizer))  # deepcopy drops what subclasses have
    own = {k: v for k, v in vars(optimizer).items() if k not in ('state', 'param_groups', 'step')}
    hooks = [key for key in own if key.endswith('_hooks')]
    own.update((key, type(own[key])()) for key in hooks)  # the user's, not to be called for this
    new.__dict__.update(copy.deepcopy(own, {id(optimizer): new}))
    options = copy.deepcopy(options)
    if 'lr' in optimizer.defaults:
        options['lr'] = optimizer.defaults['lr']  # that of a warm-up may be zero
    if 'weight_decay' in options:
        options['weight_decay'] = 0.0  # it may be added to gradients, and so to moments
    new.state = defaultdict(dict)
    new.param_groups = [{**options, 'params': [param]}]
    return _Trial(new, param)


def _check_state(trial: _Trial, kept: dict[int, Tensor]) -> None:
    """State must be numbers, or real numbers in the parameter's shape, and stand in ``state``.

    Args:
        trial: After its steps.
        kept: By identity, what tensors were elsewhere before them.
    """
    odd = {k: _shape(v) for k, v in trial.state.items() if _is_odd(v, trial.param)}
    if odd or set(trial.optimizer.state) - {trial.param}:
        raise _CannotServe(f'keeps state of another shape or kind than the parameter ({odd})')
    written = [
        place
        for place, tensor in _elsewhere(trial)
        if id(tensor) not in kept or not torch.equal(tensor, kept[id(tensor)])
    ]
    if written:
        raise _CannotServe(f'keeps state outside of its state ({", ".join(written[:3])})')


def _elsewhere(trial: _Trial) -> Iterator[tuple[str, Tensor]]:
    """Tensors that an optimizer has in attributes and groups, and where."""
    own = {k: v for k, v in vars(trial.optimizer).items() if k not in ('state', 'param_groups')}
    own['param_groups'] = _without_params(trial.group)
    passed = [trial.optimizer, trial.param, trial.param.grad]
    for place, thing in walk(own, without=passed):
        if isinstance(thing, Tensor) and thing.numel() > 1:
            yield place, thing


def _is_odd(value: Any, param: Tensor) -> bool:
    tensors = [thing for _, thing in walk([value]) if isinstance(thing, Tensor)]
    if not isinstance(value, Tensor):
        return any(tensor.numel() > 1 for tensor in tensors)
    if value.numel() <= 1:
        return False
    return value.shape != param.shape or not value.is_floating_point()


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _check_resumes(
    optimizer: Optimizer,
    options: dict[str, Any],
    start: Tensor,
    gradients: Sequence[Tensor],
    whole: _Trial,
) -> None:
    """Stopped, saved as a state dict and gone on with, it must get to the same weights."""
    half = len(gradients) // 2
    try:
        stopped = _new(optimizer, options, start)
        stopped.step(gradients[:half])
        resumed = _new(optimizer, options, stopped.param.detach())
        resumed.optimizer.load_state_dict(copy.deepcopy(stopped.optimizer.state_dict()))
        resumed.step(gradients[half:], first=half)
    except Exception as error:
        raise _CannotServe(f'does not go on from its own state dict ({error})') from None
    if not torch.equal(resumed.param, whole.param):
        raise _CannotServe('does not go on from its state dict as if it had not been stopped')


def _follows_weights(name: str, trial: _Trial, other: _Trial) -> bool:
    value = trial.state[name]
    if not isinstance(value, Tensor) or value.shape != trial.param.shape or value.numel() == 1:
        return False
    weights = (trial.param - other.param).detach().flatten().double()
    state = (value - other.state[name]).detach().flatten().double()
    share = (state @ weights / (weights @ weights)).item()
    if abs(share) > INDEPENDENT and not share > FOLLOWS:
        raise _CannotServe(f'keeps {name!r} in its state, which mixes weights with gradients')
    return share > FOLLOWS


def _without_params(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != 'params'}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return a == b


def forget_(optimizer: Optimizer, counters: dict[str, Any]) -> None:
    """Lets groups that count begin anew, with all of their parameters' state, in place."""
    for group in optimizer.param_groups:
        for name, begin in counters.items():
            if begin is ABSENT:
                group.pop(name, None)
            else:
                group[name] = copy.deepcopy(begin)
        for param in group['params'] if counters else []:
            optimizer.state[param].clear()
