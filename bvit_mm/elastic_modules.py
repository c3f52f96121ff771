# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Elastic modules: full-size parameters, computed with only their active units.

The parameters keep the names and shapes of mmpretrain's modules at every moment; a forward
below full size slices them. So checkpoints, optimizers, EMA and DDP never see a change.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

from .widths import Width, units_of_width


@dataclass(frozen=True)
class Slot(ABC):
    """One dimension of one parameter that follows the units of its module along one axis.

    Units are numbered; those below the module's ``active`` number are active.

    Attributes:
        param: The name of the parameter in its module.
        dim: The dimension.
        axis: What the units are, such as ``'heads'``: a key of the module's ``axes``.
        out: Whether the weights read the units, as opposed to those that produce them.
    """

    param: str
    dim: int
    axis: str
    out: bool = field(default=False, kw_only=True)

    @abstractmethod
    def active(self, tensor: Tensor, total: int, active: Any) -> Tensor:
        """What a forward with the first ``active`` of ``total`` units computes with."""

    @abstractmethod
    def places(self, size: int, total: int, units: Sequence[int] | Tensor) -> Tensor:
        """Where units lie along the dimension.

        Args:
            size: The length of the dimension.
            total: The number of all units.
            units: The numbers of the units.
        """

    @abstractmethod
    def sources(self, size: int, total: int, old: int, new: int) -> Tensor:
        """Where the units lie that units ``old`` to ``new - 1`` are grown from."""

    @abstractmethod
    def grown_values(self, tensor: Tensor, total: int, old: int, new: int) -> Tensor:
        """What units ``old`` to ``new - 1`` start from, unless an initializer knows better."""


@final
@dataclass(frozen=True)
class UnitSlot(Slot):
    """Units that lie side by side, each with as many entries, and grow as copies.

    Attributes:
        blocks: How often the dimension holds all units: 3 times for packed q, k, v.
        scaled_blocks: In how many of them, the first ones, gates scale the units; of weights that
            read units in all.
    """

    blocks: int = 1
    scaled_blocks: int = 0

    def __post_init__(self) -> None:
        if self.out:
            object.__setattr__(self, 'scaled_blocks', self.blocks)

    def active(self, tensor: Tensor, total: int, active: Width) -> Tensor:
        """The part that active units use; a view if there is one block, and no groups."""
        dim = self.dim + 1
        units = tensor.unflatten(self.dim, (self.blocks, total, -1))
        if isinstance(active, int):
            units = units.narrow(dim, 0, active)
        else:
            groups = units.split(total // len(active), dim)
            units = torch.cat([each.narrow(dim, 0, n) for each, n in zip(groups, active)], dim)
        return units.flatten(self.dim, self.dim + 2)

    def scaled(self, tensor: Tensor, factors: Tensor) -> Tensor:
        """What each unit has times its factor; ``factors`` are of all units that there are."""
        units = tensor.unflatten(self.dim, (self.blocks, len(factors), -1))
        others = self.blocks - self.scaled_blocks
        of_blocks = F.pad(factors.expand(self.scaled_blocks, -1), (0, 0, 0, others), value=1.0)
        shape = [1] * units.dim()
        shape[self.dim : self.dim + 2] = of_blocks.shape
        return (units * of_blocks.view(shape)).flatten(self.dim, self.dim + 2)

    def places(self, size: int, total: int, units: Sequence[int] | Tensor) -> Tensor:
        places = torch.arange(size).view(self.blocks, total, -1)
        return places[:, torch.as_tensor(units, dtype=torch.long)].flatten()

    def sources(self, size: int, total: int, old: int, new: int) -> Tensor:
        """Unit ``old + i`` is grown from unit ``i mod old``."""
        return self.places(size, total, torch.arange(old, new) % old)

    def grown_values(self, tensor: Tensor, total: int, old: int, new: int) -> Tensor:
        sources = self.sources(tensor.shape[self.dim], total, old, new)
        return tensor.index_select(self.dim, sources.to(tensor.device))


class ElasticModule:
    """Mixin of a module that can compute with its first units only.

    A subclass declares ``slots``, the only list of what follows the units: slicing, growth,
    moments, EMA and tests read it.

    With ``add_gates_`` each unit that weights read has a gate: a factor of those weights, and of
    others that slots name (``scaled_blocks``), 1 at the start. What the gates learn tells which
    units the network needs (``slim``).

    Attributes:
        slots: What of the module follows the units.
        axes: Along which axes the module has units, each with the name of the module's attribute
            that says how many there are.
        active: How many units along each axis are active.
        gates_learn: Whether gates, if there are any, are trained; else they count as 1.
    """

    slots: ClassVar[tuple[Slot, ...]] = ()
    axes: ClassVar[dict[str, str]]
    active: dict[str, int]
    gates_learn = True

    # Of the torch module that it is mixed into.
    named_parameters: Callable[..., Iterator[tuple[str, nn.Parameter]]]
    get_submodule: Callable[..., nn.Module]
    modules: Callable[..., Iterator[nn.Module]]
    _parameters: dict[str, nn.Parameter | None]

    def total(self, axis: str) -> int:
        """The number of all units along an axis."""
        return getattr(self, self.axes[axis])

    def whole_width(self, axis: str) -> Width:
        """All units along an axis, by groups if they are in groups."""
        return self.total(axis)

    def width(self, axis: str) -> Width:
        """How many units along an axis are active, the first ones."""
        return self.active[axis]

    def activate(self, axis: str, width: Any) -> None:
        """Has some of its units along an axis active from now on, the first ones."""
        self.active[axis] = width

    def width_of(self, units: Sequence[int]) -> Width:
        """How wide it is with some of the units that weights read."""
        return len(units)

    def sorted_units(self, first: Sequence[int]) -> list[int]:
        """All units that weights read, some before the others, as far as that changes nothing."""
        rest = set(range(self.total(self.readers[0].axis))) - set(first)
        return [*first, *sorted(rest)]

    @property
    def is_whole(self) -> bool:
        """Whether all units are active."""
        return all(active == self.total(axis) for axis, active in self.active.items())

    @property
    def gate(self) -> nn.Parameter | None:
        """The gates of its units, if there are any."""
        return self._parameters.get('gate')

    @property
    def readers(self) -> tuple[UnitSlot, ...]:
        """The weights that read units; all along one axis, that of the gates."""
        return tuple(slot for slot in self.slots if slot.out and isinstance(slot, UnitSlot))

    @property
    def gated(self) -> tuple[UnitSlot, ...]:
        """The weights that gates scale."""
        return tuple(s for s in self.slots if isinstance(s, UnitSlot) and s.scaled_blocks)

    @property
    def read_axis(self) -> str | None:
        """The axis whose units weights of the module read; None if there is none."""
        return self.readers[0].axis if self.readers else None

    @property
    def is_plain(self) -> bool:
        """Whether it computes what the class does that it extends."""
        return self.is_whole and self.gate is None

    def add_gates_(self) -> None:
        """Gives each unit that weights read a gate of 1."""
        slot = self.readers[0]
        weight = dict(self.named_parameters())[slot.param]
        gate = torch.ones(self.total(slot.axis), device=weight.device)
        self._parameters['gate'] = nn.Parameter(gate)

    @torch.no_grad()
    def fold_gates_(self) -> None:
        """Multiplies the weights by their gates, which become 1: the same function."""
        if self.gate is None:
            return
        parameters = dict(self.named_parameters())
        for slot in self.gated if self.gates_learn else ():
            if slot.param in parameters:
                parameters[slot.param].copy_(slot.scaled(parameters[slot.param], self.gate))
        self.gate.fill_(1.0)

    def elastic_parameters(self, axis: str) -> Iterator[tuple[Slot, nn.Parameter]]:
        """The slots along an axis whose parameter exists (a bias may be switched off), with it."""
        parameters = dict(self.named_parameters())
        for slot in self.slots:
            if slot.axis == axis and slot.param in parameters:
                yield slot, parameters[slot.param]
        if axis == self.read_axis and self.gate is not None:
            yield UnitSlot('gate', 0, axis), self.gate

    def active_parameter(self, name: str) -> Tensor | Any:
        """The active part of a parameter that may follow the units; None if there is none.

        Only a bias may be missing, so callers need not look at what else they ask for.
        """
        module, _, attribute = name.rpartition('.')
        param = getattr(self.get_submodule(module), attribute)
        for slot in self.slots:
            if slot.param == name and param is not None:
                if self.gate is not None and isinstance(slot, UnitSlot) and slot.scaled_blocks:
                    # Scaled before it is cut, so that the strides, and with them the kernels, are
                    # those without gates. Gates that rest are exactly 1, with gradients of 0.
                    gates = self.gate if self.gates_learn else 1 + 0 * self.gate
                    param = slot.scaled(param, gates)
                param = slot.active(param, self.total(slot.axis), self.width(slot.axis))
        return param

    def active_linear(self, name: str, x: Tensor) -> Tensor:
        """A linear layer of the module with its active units; as it is if all are.

        It may be a convolution of 1 x 1, which is the same for a map (B, C, H, W).
        """
        slots = [slot for slot in self.slots if slot.param == f'{name}.weight']
        layer = self.get_submodule(name)
        is_gated = self.gate is not None and any(s.param == f'{name}.weight' for s in self.gated)
        if not is_gated and all(self.active[s.axis] == self.total(s.axis) for s in slots):
            return layer(x)
        compute = F.conv2d if isinstance(layer, nn.Conv2d) else F.linear
        return compute(
            x, self.active_parameter(f'{name}.weight'), self.active_parameter(f'{name}.bias')
        )

    @torch.no_grad()
    def shrink_(self) -> None:
        """Drops the weights of inactive units for good: the active units become all."""
        for axis in self.active:
            units = units_of_width(self.width(axis), self.total(axis))
            for slot, param in self.elastic_parameters(axis):
                places = slot.places(param.shape[slot.dim], self.total(axis), units)
                param.data = param.index_select(slot.dim, places.to(param.device))
        for axis, active in self.active.items():
            setattr(self, self.axes[axis], active)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
            elif isinstance(module, nn.Conv2d) and module.groups == 1:
                module.out_channels, module.in_channels = module.weight.shape[:2]


class ElasticMultiheadAttention(ElasticModule, MultiheadAttention):
    """mmpretrain's multi-head self-attention with its first heads active (Eq. 7)."""

    slots = (
        UnitSlot('qkv.weight', 0, 'heads', blocks=3),
        UnitSlot('qkv.bias', 0, 'heads', blocks=3),
        UnitSlot('proj.weight', 1, 'heads', out=True),
    )
    axes: ClassVar = dict(heads='num_heads')

    @property
    def active_heads(self) -> int:
        return self.active['heads']

    def shrink_(self) -> None:
        super().shrink_()
        self.embed_dims = self.num_heads * self.head_dims  # of q, k and v

    def forward(self, x: Tensor) -> Tensor:
        if self.is_plain:
            return super().forward(x)
        batch, tokens, _ = x.shape
        heads = self.active_heads
        qkv = self.active_linear('qkv', x).view(batch, tokens, 3, heads, self.head_dims)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_dims)
        drop = self.attn_drop if self.training else 0.0
        x = self.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        x = x.transpose(1, 2).reshape(batch, tokens, heads * self.head_dims)
        return self.out_drop(self.gamma1(self.proj_drop(self.active_linear('proj', x))))


class ElasticFFN(ElasticModule, FFN):
    """mmcv's two-layer MLP with its first hidden units active (Fig. 5)."""

    slots = (
        UnitSlot('layers.0.0.weight', 0, 'hidden'),
        UnitSlot('layers.0.0.bias', 0, 'hidden'),
        UnitSlot('layers.1.weight', 1, 'hidden', out=True),
    )
    axes: ClassVar = dict(hidden='feedforward_channels')

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        if self.is_plain:
            return super().forward(x, identity=identity)
        (_, activation, hidden_drop), _, out_drop = self.layers
        out = hidden_drop(activation(self.active_linear('layers.0.0', x)))
        out = out_drop(self.active_linear('layers.1', out))
        out = self.dropout_layer(self.gamma2(out))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


def is_plain_ffn(ffn: nn.Module) -> bool:
    """Whether an MLP is one that ``ElasticFFN`` can be: mmcv's, of two linear layers."""
    return isinstance(ffn, FFN) and ffn.num_fcs == 2


def elasticize_(module: Any, elastic_class: type[ElasticModule]) -> None:
    """Makes ``module`` elastic in place, all units active.

    Only its class changes, to a subclass of the present one: no parameter is drawn again, so
    the same seed gives the same network as the plain class.
    """
    module.__class__ = elastic_class
    module.active = {axis: module.total(axis) for axis in module.axes}


Units = Iterator[tuple[ElasticModule, str, Any]]  # a module, an axis, its width along that
