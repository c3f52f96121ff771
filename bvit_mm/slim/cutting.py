# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""From a network whose gates were trained to a smaller one: scores, costs, and the cut itself.

Functions on a backbone; ``choice`` decides. A cut network is not masked. Its units are sorted, so
that those that stay are the first ones, and computed as a training stage computes its first units.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..elastic import ElasticBackbone
from ..elastic_modules import ElasticModule
from ..training_stages import TrainingStage
from ..widths import Width, Widths, by_level, groups_of, plain_widths
from .choice import Units, choose


def slim_stage(backbone: ElasticBackbone, widths: Widths) -> TrainingStage:
    """What a slimmed network is: all of the whole one but units."""
    return TrainingStage(**{**backbone.whole.as_dict(), 'widths': tuple(widths.items())})


def flops_of(backbone: ElasticBackbone, widths: Widths) -> int:
    """Forward multiply-adds of one image with so many units, without classifier."""
    sketch = copy.copy(backbone)  # shares the modules, which counting leaves as they are
    sketch.training_stages = (slim_stage(backbone, widths),)
    return sketch.flops(0)


def unit_costs(backbone: ElasticBackbone) -> list[tuple[int, int]]:
    """What a unit of each module costs: ``cost`` and ``padded`` of ``choice.Units``."""
    totals = backbone.totals()
    whole, costs, seen = flops_of(backbone, totals), [], dict.fromkeys(totals, 0)

    def saved(width: Width) -> int:
        """What the module costs less with another width."""
        widths = list(totals[axis])
        widths[seen[axis]] = width
        return whole - flops_of(backbone, {**totals, axis: tuple(widths)})

    for _, axis in backbone.read_units():
        width = totals[axis][seen[axis]]
        if isinstance(width, int):
            costs.append((saved(width - 1), 0))
        else:  # one unit of one group, and one of each, which is then less wide
            cost = saved((width[0] - 1, *width[1:]))
            of_all = saved(tuple(n - 1 for n in width)) // len(width)
            costs.append((cost, of_all - cost))
        seen[axis] += 1
    return costs


@torch.no_grad()
def scores(module: ElasticModule) -> Tensor:
    """How important each unit of a module is: its gate, times the norm of what reads it.

    Weights times c with the gate over c are the same network, and have the same score. Without
    gates it is the norm alone.
    """
    parameters, squares = dict(module.named_parameters()), torch.zeros(())
    total = module.total(module.readers[0].axis)
    for slot in module.readers:
        weight = parameters[slot.param].detach().cpu().double()
        units = weight.unflatten(slot.dim, (slot.blocks, total, -1)).movedim(slot.dim + 1, 0)
        squares = squares + units.flatten(1).square().sum(1)
    gate = 1.0 if module.gate is None else module.gate.detach().cpu().double().abs()
    return squares.sqrt() * gate


def units_of(backbone: ElasticBackbone, of_modules: Iterable[Sequence[float]]) -> list[Units]:
    """The units of each module, with what they cost and such scores."""
    found = []
    rows = zip(backbone.read_units(), unit_costs(backbone), of_modules, strict=True)
    for (module, axis), (cost, padded), each in rows:
        groups = len(groups_of(module.whole_width(axis)))
        found.append(Units(axis, cost, tuple(each), groups, padded))
    return found


def chosen(
    backbone: ElasticBackbone, units: Sequence[Units], classifier: int, budget: int, **options: Any
) -> list[tuple[int, ...]]:
    """The units that each module keeps, best first (``choice.choose``).

    Args:
        backbone: Of the units.
        units: Of each module.
        classifier: Multiply-adds of one image in the classifier.
        budget: Multiply-adds of one image that the slimmed network may take.
        **options: Of ``choose``.
    """
    whole = flops_of(backbone, backbone.totals()) + classifier
    fixed = whole - sum(each.cost_of(range(len(each.scores))) for each in units)
    return choose(units, fixed, budget, **options)


def widths_of(backbone: ElasticBackbone, kept: Sequence[Sequence[int]]) -> Widths:
    """How many units each module keeps, by axis."""
    widths: Widths = {}
    for (module, axis), units in zip(backbone.read_units(), kept, strict=True):
        widths[axis] = (*widths.get(axis, ()), module.width_of(units))
    return widths


def widths_argument(backbone: ElasticBackbone, widths: Widths) -> dict[str, Any]:
    """The backbone's argument ``widths``; of a pyramid with a list for each level."""
    levels: dict[str, list[int]] = {}
    names = {module: name for name, module in backbone.named_modules()}
    for module, axis in backbone.read_units():
        level = re.search(r'\d+', names[module])
        levels.setdefault(axis, []).append(int(level[0]) if level else 0)
    is_pyramid = isinstance(backbone.whole.hidden, tuple)
    return {
        axis: by_level(numbers, levels[axis]) if is_pyramid else plain_widths(numbers)
        for axis, numbers in widths.items()
    }


@torch.no_grad()
def sort_units_(
    backbone: ElasticBackbone,
    first: Sequence[Sequence[int]],
    states: Mapping[Tensor, dict[str, Any]] | None = None,
    twins: Sequence[ElasticBackbone] = (),
) -> None:
    """Puts some units of each module before the others, in place: the same function.

    Args:
        backbone: The backbone that is trained.
        first: The units of each module that come first, in their order; dimensions of heads come
            first in their heads, by their numbers.
        states: The optimizer's state of each parameter, which follows.
        twins: Backbones that follow this one, such as its exponential moving average.
    """
    names = {param: name for name, param in backbone.named_parameters()}
    for (module, axis), units in zip(backbone.read_units(), first, strict=True):
        total = module.total(axis)
        order = module.sorted_units(units)
        for slot, param in module.elastic_parameters(axis):
            places = slot.places(param.shape[slot.dim], total, order).to(param.device)
            state = (states or {}).get(param, {})
            followers = [twin.get_parameter(names[param]) for twin in twins]
            followers += [v for v in state.values() if _is_like(v, param)]
            for tensor in (param, param.grad, *followers):
                if tensor is not None:
                    tensor.copy_(tensor.index_select(slot.dim, places))
            births = state.get('births', {})  # of moments='corrected'
            if slot.dim in births:
                births[slot.dim] = births[slot.dim][places]


def _is_like(value: Any, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def slim_(backbone: ElasticBackbone, kept: Sequence[Sequence[int]]) -> Widths:
    """Becomes the network of some units for good, in place: its gates are folded and gone.

    Args:
        backbone: The whole network.
        kept: The units that each module keeps.

    Returns:
        How many those are.
    """
    widths = widths_of(backbone, kept)
    sort_units_(backbone, kept)
    backbone.drop_gates_()
    backbone.shrink_to_(widths)
    return widths


@torch.no_grad()
def pad_(backbone: ElasticBackbone, kept: Sequence[Sequence[int]]) -> None:
    """Becomes the whole network with weights of 0 for units that go, in place.

    It computes what the network of the others does, and costs what it did. Its gates are folded
    and gone.

    Args:
        backbone: The whole network.
        kept: The units that each module keeps.
    """
    backbone.drop_gates_()
    for (module, axis), units in zip(backbone.read_units(), kept, strict=True):
        total = module.total(axis)
        gone = sorted(set(range(total)) - set(units))
        for slot, param in module.elastic_parameters(axis):
            places = slot.places(param.shape[slot.dim], total, gone)
            param.index_fill_(slot.dim, places.to(param.device), 0.0)
