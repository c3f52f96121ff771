# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Growth: what new heads and hidden units start from when a training stage begins.

Functions on tensors; ``StageSwitchHook`` decides when. Unit ``old + i`` is grown from unit
``i mod old``; the units there were stay as they are (Section 4.2, Fig. 5, Table 11).
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .elastic import ElasticBackbone, Slot
from .mmengine_gaps import initialize_anew

INITS = ('copy', 'random', 'half', 'noise')
MOMENTS = ('drop', 'copy', 'drop_all', 'corrected')

# Standard deviation of 'noise', as a share of the copied weights' own.
NOISE = 0.01


def check_growth(init: str, moments: str) -> None:
    """Raises ValueError if there is no such initialiser or rule for moments."""
    for name, value, known in (('init', init, INITS), ('moments', moments, MOMENTS)):
        if value not in known:
            raise ValueError(f'{name}={value!r} is not known; give one of {known}')


@torch.no_grad()
def grow_(
    backbone: ElasticBackbone,
    stage: int,
    init: str = 'copy',
    moments: str = 'drop',
    states: Mapping[nn.Parameter, dict[str, Any]] | None = None,
    averages: Mapping[nn.Parameter, Collection[str]] | None = None,
    twins: Sequence[ElasticBackbone] = (),
    fresh: ElasticBackbone | None = None,
    seed: int = 0,
) -> None:
    """Grows a backbone in place from its training stage to a later one, and activates that.

    Args:
        backbone: The backbone that is trained.
        stage: The training stage to grow to, 0-based.
        init: New weights are a ``'copy'``; ``'random'``, those of ``fresh``; a copy with
            ``'noise'``; or copied with the weights that read a unit divided by
            how often there is one (``'half'``), which leaves the function as it was [1].
        moments: Optimizer moments of new units are zero (``'drop'``) or a ``'copy'``;
            ``'drop_all'`` forgets all state of a parameter that grows, its steps as well;
            ``'corrected'`` is ``'drop'`` with the new units counting their own steps
            (``correct_bias_``), for Adam and AdamW.
        states: The optimizer's state of each parameter.
        averages: Names of state that follows the weights (``probe_optimizer``). It grows as they
            do; unless copied, that of new units begins with their weights, as a first step would.
        twins: Backbones that follow this one, such as its exponential moving average.
        fresh: The backbone of ``drawn_anew(model)``, for ``'random'``.
        seed: Draws the noise; the same on every rank.

    Raises:
        ValueError: If the stage is before the present one, an option is not known, or
            ``'random'`` has no ``fresh``.

    [1] Chen et al., Net2Net: Accelerating Learning via Knowledge Transfer, 2016.
    """
    check_growth(init, moments)
    if stage < backbone.training_stage:
        raise ValueError(
            f'training stage {stage + 1} is before training stage {backbone.training_stage + 1}, '
            'which the backbone is at; a backbone only grows'
        )
    if init == 'random' and fresh is None:
        raise ValueError("init='random' needs fresh, the backbone of drawn_anew(model)")
    generator = torch.Generator().manual_seed(seed)
    relatives = (fresh or backbone, *twins)
    for (module, new), *others in zip(*(b.units(stage) for b in (backbone, *relatives))):
        old = module.active_units
        if new == old:
            continue
        fresh_parameters, *twin_parameters = (dict(m.named_parameters()) for m, _ in others)
        for slot, param in module.elastic_parameters():
            units = _Units(slot, param.shape[slot.dim], module.total_units, old, new)
            noise = torch.randn(param.shape, generator=generator) if init == 'noise' else None
            for weight in (param, *(p[slot.param] for p in twin_parameters)):
                grow_weight_(weight, units, init, fresh_parameters[slot.param], noise)
            if param.grad is not None:  # accumulated so far; old units keep theirs
                grow_moment_(param.grad, units, moments == 'copy')
            state = (states or {}).get(param, {})
            if moments == 'drop_all':
                state.clear()  # the next step begins it anew
            for name, value in state.items():
                if not isinstance(value, Tensor) or value.shape != param.shape:
                    continue
                if name in (averages or {}).get(param, ()):
                    grow_weight_(value, units, init, fresh_parameters[slot.param], noise)
                    if moments != 'copy':
                        units.put_(value, units.of(param, units.grown))
                else:
                    grow_moment_(value, units, moments == 'copy')
            if moments == 'corrected' and 'step' in state:
                _record_birth(state, param, units)
    for each in (backbone, *twins):
        each.set_training_stage(stage)


class _Units:
    """Which units of a dimension are new, and which each of them is grown from."""

    def __init__(self, slot: Slot, size: int, total: int, old: int, new: int) -> None:
        self.slot, self.total, self.old, self.new = slot, total, old, new
        self.grown = slot.places(size, total, range(old, new))
        self.sources = slot.sources(size, total, old, new)

    def of(self, tensor: Tensor, places: Tensor) -> Tensor:
        return tensor.index_select(self.slot.dim, places.to(tensor.device))

    def put_(self, tensor: Tensor, values: Tensor) -> None:
        """Writes the new units."""
        tensor.index_copy_(self.slot.dim, self.grown.to(tensor.device), values)


def grow_weight_(
    weight: Tensor, units: _Units, init: str, fresh: Tensor, noise: Tensor | None
) -> None:
    """Writes the new units of a weight in place.

    Args:
        weight: Of full shape.
        units: Which units are new.
        init: See ``grow_``.
        fresh: A newly initialised weight of the same shape, for ``'random'``.
        noise: Standard normal numbers of the same shape, for ``'noise'``.
    """
    if init == 'random':
        units.put_(weight, units.of(fresh.to(weight.device), units.grown))
        return
    values = units.slot.grown_values(weight, units.total, units.old, units.new)
    if init == 'noise':
        spread = NOISE * values.std(unbiased=False)
        values = values + spread * units.of(noise.to(weight), units.grown)
    units.put_(weight, values)
    if init == 'half' and units.slot.out:
        dim = units.slot.dim
        family = torch.arange(units.new) % units.old
        copies = torch.bincount(family)[family]
        places = units.slot.places(weight.shape[dim], units.total, range(units.new))
        copies = copies.repeat_interleave(len(places) // units.new)  # one for each place
        shape = [1] * weight.dim()
        shape[dim] = -1
        places = places.to(weight.device)
        shared = weight.index_select(dim, places) / copies.to(weight).view(shape)
        weight.index_copy_(dim, places, shared)


def grow_moment_(moment: Tensor, units: _Units, is_copied: bool) -> None:
    """Writes the new units of an optimizer moment, or pending gradient, in place."""
    values = units.of(moment, units.sources if is_copied else units.grown)
    units.put_(moment, values if is_copied else torch.zeros_like(values))


def drawn_anew(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model, on the CPU, with weights drawn as at the start of training.

    Not the weights it started with: those of inactive units have been decayed since.
    """
    fresh = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
            initialize_anew(module)
        fresh.init_weights()
    return fresh


def _record_birth(state: dict[str, Any], param: Tensor, units: _Units) -> None:
    """Notes, along the dimension that grew, after how many steps its new units joined."""
    births = state.setdefault('births', {})
    dim, step = units.slot.dim, int(state['step'])
    if dim not in births:
        births[dim] = torch.zeros(param.shape[dim], device=param.device)
    births[dim][units.grown.to(param.device)] = step
    state['last_birth'] = step


@torch.no_grad()
def correct_bias_(optimizer: torch.optim.Optimizer) -> None:
    """Redoes the last Adam or AdamW step of grown units with their own step count.

    Adam divides its moments by 1 - beta^t, with one t a tensor. For units that joined at step
    b it should be 1 - beta^(t - b): else their first steps are about 3.2 times the learning
    rate, 6.6 times around the 12th, and right only after some thousand. Called after each
    ``optimizer.step()``.
    """
    for group in optimizer.param_groups:
        beta1, beta2 = group['betas']
        for param in group['params']:
            state = optimizer.state.get(param, {})
            if 'births' not in state:
                continue
            step = int(state['step'])
            if beta2 ** (step - state['last_birth']) < 1e-9:
                continue
            born = torch.zeros(1, dtype=torch.float64, device=param.device)
            for dim, births in state['births'].items():  # an entry joined with its last unit
                shape = [1] * param.dim()
                shape[dim] = -1
                born = torch.maximum(born, births.double().view(shape))
            moments = state['exp_avg'], state['exp_avg_sq']
            taken, due = (
                _adam_step(*moments, beta1, beta2, group['eps'], steps)
                for steps in (step + torch.zeros_like(born), step - born)
            )
            param.add_((taken - due) * group['lr'])


def _adam_step(
    exp_avg: Tensor, exp_avg_sq: Tensor, beta1: float, beta2: float, eps: float, steps: Tensor
) -> Tensor:
    bias1, bias2 = ((1 - beta**steps).to(exp_avg) for beta in (beta1, beta2))
    return exp_avg / bias1 / (exp_avg_sq.sqrt() / bias2.sqrt() + eps)


def check_moments(optimizer: torch.optim.Optimizer, moments: str) -> None:
    """Raises ValueError if a rule for moments needs another optimizer."""
    flags = optimizer.defaults.get('amsgrad'), optimizer.defaults.get('maximize')
    is_plain = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) and not any(flags)
    if moments == 'corrected' and not is_plain:
        raise ValueError(
            f"moments='corrected' is for Adam and AdamW without amsgrad or maximize, "
            f"not {type(optimizer).__name__}; give moments='drop'"
        )
