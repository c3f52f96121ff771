# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Growth: what new heads and hidden units start from when a training stage begins.

Functions on tensors; ``StageSwitchHook`` decides when. Unit ``old + i`` is grown from unit
``i mod old``; the units there were stay as they are (Section 4.2, Fig. 5, Table 11).
"""

import copy
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .elastic import ElasticBackbone
from .elastic_modules import ElasticModule, Slot
from .mmengine_gaps import initialize_anew

Model = TypeVar('Model', bound=nn.Module)

MOMENTS = ('drop', 'copy', 'drop_all', 'corrected')

# Standard deviation of 'noise', as a share of the copied weights' own.
NOISE = 0.01


class NewUnits:
    """Which units of a dimension of a parameter are new, and which each of them is grown from.

    Args:
        slot: The dimension.
        size: Its length.
        total: The number of all units.
        old: How many there were.
        new: How many there will be.
    """

    def __init__(self, slot: Slot, size: int, total: int, old: int, new: int) -> None:
        self.slot, self.total, self.old, self.new = slot, total, old, new
        self.grown = slot.places(size, total, range(old, new))
        self.sources = slot.sources(size, total, old, new)

    def of(self, tensor: Tensor, places: Tensor) -> Tensor:
        """What lies at some places of the dimension."""
        return tensor.index_select(self.slot.dim, places.to(tensor.device))

    def copies(self, weight: Tensor) -> Tensor:
        """What new units of a weight are as copies of those they are grown from."""
        return self.slot.grown_values(weight, self.total, self.old, self.new)

    def put_(self, tensor: Tensor, values: Tensor) -> None:
        """Writes the new units."""
        tensor.index_copy_(self.slot.dim, self.grown.to(tensor.device), values)


class Material:
    """What an initializer may ask for besides the weight; made when one asks for it.

    Args:
        name: The name of the parameter in the backbone.
        shape: The shape of the parameter.
        backbone: Returns the backbone of ``drawn_anew(model)``.
        generator: Draws the noise.
    """

    def __init__(
        self,
        name: str,
        shape: torch.Size,
        backbone: Callable[[], ElasticBackbone],
        generator: torch.Generator,
    ) -> None:
        self._name, self._shape = name, shape
        self._backbone, self._generator = backbone, generator

    @functools.cached_property
    def fresh(self) -> Tensor:
        """The parameter as it is drawn at the start of training."""
        return self._backbone().get_parameter(self._name)

    @functools.cached_property
    def noise(self) -> Tensor:
        """Standard normal numbers, the same for a weight and its averages."""
        return torch.randn(self._shape, generator=self._generator)


class Initializer(Protocol):
    """Writes the new units of a weight of full shape, in place."""

    def __call__(self, weight: Tensor, /, units: NewUnits, material: Material) -> None: ...


def start_as_copy_(weight: Tensor, units: NewUnits, material: Material) -> None:
    """New units are copies."""
    units.put_(weight, units.copies(weight))


def start_at_random_(weight: Tensor, units: NewUnits, material: Material) -> None:
    """New units are drawn as all were at the start of training."""
    units.put_(weight, units.of(material.fresh.to(weight.device), units.grown))


def start_by_halves_(weight: Tensor, units: NewUnits, material: Material) -> None:
    """New units are copies; weights that read a unit are shared by all that there are of it."""
    start_as_copy_(weight, units, material)
    if not units.slot.out:
        return
    dim = units.slot.dim
    origin = torch.arange(units.new) % units.old
    copies = torch.bincount(origin)[origin]
    places = units.slot.places(weight.shape[dim], units.total, range(units.new))
    copies = copies.repeat_interleave(len(places) // units.new)  # one for each place
    shape = [1] * weight.dim()
    shape[dim] = -1
    shared = units.of(weight, places) / copies.to(weight).view(shape)
    weight.index_copy_(dim, places.to(weight.device), shared)


def start_with_noise_(weight: Tensor, units: NewUnits, material: Material) -> None:
    """New units are copies with a little noise."""
    values = units.copies(weight)
    spread = NOISE * values.std(unbiased=False)
    units.put_(weight, values + spread * units.of(material.noise.to(weight), units.grown))


# What new units start from.
INITS: dict[str, Initializer] = dict(
    copy=start_as_copy_,
    random=start_at_random_,
    half=start_by_halves_,
    noise=start_with_noise_,
)


def check_growth(init: str, moments: str) -> None:
    """Raises ValueError if there is no such initializer or rule for moments."""
    for name, value, known in (('init', init, tuple(INITS)), ('moments', moments, MOMENTS)):
        if value not in known:
            raise ValueError(f'{name}={value!r} is not known; give one of {known}')


@torch.no_grad()
def grow_(
    backbone: ElasticBackbone,
    stage: int,
    init: str = 'copy',
    moments: str = 'drop',
    states: Mapping[Tensor, dict[str, Any]] | None = None,
    averages: Mapping[Tensor, Collection[str]] | None = None,
    twins: Sequence[ElasticBackbone] = (),
    fresh: Callable[[], ElasticBackbone] | None = None,
    seed: int = 0,
) -> None:
    """Grows a backbone in place from its training stage to a later one, and activates that.

    Args:
        backbone: The backbone that is trained.
        stage: The training stage to grow to, 0-based.
        init: New weights are a ``'copy'``; ``'random'``, those of ``fresh``; a copy with
            ``'noise'``; or copied with the weights that read a unit divided by how often there
            is one (``'half'``), which leaves the function as it was [1]: a name in ``INITS``.
        moments: Optimizer moments of new units are zero (``'drop'``) or a ``'copy'``;
            ``'drop_all'`` forgets all state of a parameter that grows, its steps as well;
            ``'corrected'`` is ``'drop'`` with the new units counting their own steps
            (``correct_bias_``), for Adam and AdamW.
        states: The optimizer's state of each parameter.
        averages: Names of state that follows the weights (``probe_optimizer``). It grows as they
            do; unless copied, that of new units begins with their weights, as a first step would.
        twins: Backbones that follow this one, such as its exponential moving average.
        fresh: Returns the backbone of ``drawn_anew(model)``; called if an initializer needs it.
        seed: Draws the noise; the same on every rank.

    Raises:
        ValueError: If the stage is before the present one, or an option is not known.

    [1] Chen et al., Net2Net: Accelerating Learning via Knowledge Transfer, 2016.
    """
    check_growth(init, moments)
    if stage < backbone.training_stage:
        raise ValueError(
            f'training stage {stage + 1} is before training stage {backbone.training_stage + 1}, '
            'which the backbone is at; a backbone only grows'
        )
    names = {param: name for name, param in backbone.named_parameters()}
    fresh = functools.cache(fresh or functools.partial(_refuse_without_fresh, init))
    generator = torch.Generator().manual_seed(seed)
    for module, axis, new in backbone.active_units(stage):
        old = module.active[axis]
        if new == old:
            continue
        for slot, param in module.elastic_parameters(axis):
            units = NewUnits(slot, param.shape[slot.dim], module.total(axis), old, new)
            material = Material(names[param], param.shape, fresh, generator)
            start_ = functools.partial(INITS[init], units=units, material=material)
            for each in (backbone, *twins):
                start_(each.get_parameter(names[param]))
            if param.grad is not None:  # accumulated so far; old units keep theirs
                grow_moment_(param.grad, units, moments == 'copy')
            state, followers = (states or {}).get(param, {}), (averages or {}).get(param, ())
            _grow_state_(state, param, units, moments, followers, start_)
    for each in (backbone, *twins):
        each.set_training_stage(stage)


def _refuse_without_fresh(init: str) -> ElasticBackbone:
    raise ValueError(f'init={init!r} needs fresh, which returns the backbone of drawn_anew(model)')


def _grow_state_(
    state: dict[str, Any],
    param: Tensor,
    units: NewUnits,
    moments: str,
    averages: Collection[str],
    start_: Callable[[Tensor], None],
) -> None:
    """Grows the optimizer's state of a parameter whose weights are grown."""
    if moments == 'drop_all':
        state.clear()  # the next step begins it anew
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != param.shape:
            continue
        if name in averages:
            start_(value)
            if moments != 'copy':
                units.put_(value, units.of(param, units.grown))
        else:
            grow_moment_(value, units, moments == 'copy')
    if moments == 'corrected' and 'step' in state:
        _record_birth(state, param, units)


def grow_moment_(moment: Tensor, units: NewUnits, is_copied: bool) -> None:
    """Writes the new units of an optimizer moment, or pending gradient, in place."""
    values = units.of(moment, units.sources if is_copied else units.grown)
    units.put_(moment, values if is_copied else torch.zeros_like(values))


def drawn_anew(model: Model, seed: int) -> Model:
    """A copy of a model, on the CPU, with weights drawn as at the start of training.

    Not the weights it started with: those of inactive units have been decayed since.
    """
    fresh: Any = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if isinstance(module, ElasticModule) and module.gate is not None:
                module.gate.data.fill_(1.0)
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
            initialize_anew(module)
        fresh.init_weights()
    return fresh


def _record_birth(state: dict[str, Any], param: Tensor, units: NewUnits) -> None:
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
