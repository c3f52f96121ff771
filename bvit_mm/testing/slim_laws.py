# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 12 of docs/laws.md: gates that change nothing, and the cut network that they lead to."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..elastic import ElasticBackbone
from ..elastic_modules import ElasticModule
from ..slim.cutting import flops_of, scores, slim_, sort_units_, widths_argument
from ..training_stages import TrainingStage
from ..widths import units_of_width
from .case import Case
from .closeness import assert_near
from .counting import counted
from .laws import gradient, law, tensors

KINDS = [True, 'dims']  # of gates: of whole heads, and of their dimensions


def gated(case: Case, gates: bool | str, seed: int = 0) -> ElasticBackbone | None:
    """A backbone with gates, random ones; None of one that refuses them and says why."""
    try:
        backbone = case.build(seed, gates=gates)
    except ValueError as error:
        assert 'gates=True' in str(error), f'gates are refused without a reason: {error}'
        return None
    generator = torch.Generator().manual_seed(seed)
    for module, _ in backbone.read_units():
        gate = gate_of(module)
        gate.data.copy_(torch.empty_like(gate).uniform_(0.5, 1.5, generator=generator))
    return backbone


def gate_of(module: ElasticModule) -> nn.Parameter:
    """The gates of a module, which must have some."""
    assert module.gate is not None, f'{type(module).__name__} has no gates'
    return module.gate


def some_units(backbone: ElasticBackbone, seed: int = 3) -> list[list[int]]:
    """About half of the units of each module, drawn."""
    generator = torch.Generator().manual_seed(seed)
    totals = (module.total(axis) for module, axis in backbone.read_units())
    return [torch.randperm(n, generator=generator)[: -(-n // 2)].tolist() for n in totals]


def each_stage(backbone: ElasticBackbone) -> Iterator[int]:
    """Goes through the training stages."""
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        yield k


@law(gates=KINDS)
def gates_of_1_change_nothing(case: Case, gates: bool | str) -> None:
    """Outputs and gradients of all weights have the same bits, in every training stage."""
    ours, plain = gated(case, gates), case.build()
    if ours is None:
        return
    missing = ours.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(key.endswith('.gate') for key in missing), f'other keys: {missing}'
    for module, _ in ours.read_units():
        gate_of(module).data.fill_(1.0)
    for k, _ in zip(each_stage(ours), each_stage(plain)):
        results = [tensors(model(case.images())) for model in (ours, plain)]
        pairs = zip(*results, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), f'training stage {k + 1}: other outputs'
        for model, outputs in zip((ours, plain), results):
            model.zero_grad()
            torch.autograd.backward([out.square().sum() for out in outputs])
        params = dict(ours.named_parameters())
        for name, param in plain.named_parameters():
            assert torch.equal(gradient(params[name]), gradient(param)), f'{name}: other gradient'


@law(gates=KINDS)
def gates_learn_what_their_weights_do(case: Case, gates: bool | str) -> None:
    """The gradient of a gate is that of the weights that it scales; a resting gate has none."""
    backbone = gated(case, gates)
    if backbone is None:
        return
    backbone.double()
    images = case.images().double()
    torch.autograd.backward([out.square().sum() for out in tensors(backbone(images))])
    for module, _ in backbone.read_units():
        params, gate = dict(module.named_parameters()), gate_of(module)
        found = torch.zeros_like(gate)
        for slot in (slot for slot in module.gated if slot.param in params):
            weight = params[slot.param]
            units = (weight * gradient(weight)).unflatten(slot.dim, (slot.blocks, len(gate), -1))
            units = units.narrow(slot.dim, 0, slot.scaled_blocks)
            found += units.movedim(slot.dim + 1, 0).flatten(1).sum(1)
        assert_near(gate * gradient(gate), found.detach())
        module.gates_learn = False
    backbone.zero_grad()
    torch.autograd.backward([out.square().sum() for out in tensors(backbone(images))])
    for module, _ in backbone.read_units():
        assert not gradient(gate_of(module)).count_nonzero(), 'gates that rest have gradients'


@law(gates=KINDS)
def folding_and_sorting_change_nothing(case: Case, gates: bool | str) -> None:
    """Folding keeps every bit of the outputs; sorting keeps them to rounding."""
    backbone, images = gated(case, gates), case.images()
    if backbone is None:
        return
    expected = tensors(backbone(images))
    for module, _ in backbone.read_units():
        module.fold_gates_()
        assert torch.equal(gate_of(module), torch.ones_like(gate_of(module)))
    folded = tensors(backbone(images))
    assert all(map(torch.equal, folded, expected)), 'folding changes the outputs'
    sort_units_(backbone, some_units(backbone))
    for ours, theirs in zip(tensors(backbone(images)), expected, strict=True):
        assert_near(ours, theirs)


@law(gates=KINDS)
def cut_network_is_the_gated_one_with_gates_at_0(case: Case, gates: bool | str) -> None:
    """It is built again by ``widths``, and costs what is counted."""
    backbone, images = gated(case, gates), case.images()
    if backbone is None:
        return
    backbone, images = backbone.double(), images.double()
    kept = some_units(backbone)
    before = backbone.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    for (module, _), units in zip(backbone.read_units(), kept):
        rest = sorted(set(range(len(gate_of(module)))) - set(units))
        gate_of(module).data[rest] = 0.0
    expected = tensors(backbone(images))
    backbone.load_state_dict(before)
    widths = slim_(backbone, kept)
    outputs = tensors(backbone(images))
    for ours, theirs in zip(outputs, expected, strict=True):
        assert_near(ours, theirs)
    argument = widths_argument(backbone, widths)
    again = case.build(9, training_stages=None, widths=argument).double()
    again.load_state_dict(backbone.state_dict(), strict=True)
    same = map(torch.equal, tensors(again(images)), outputs)
    assert all(same), 'widths compute something else'
    count = counted(again.float().to('meta'), case.images(batch=1).to('meta'))
    assert again.flops(0) == count, f'flops(0) is {again.flops(0)}, but {count} are counted'
    planned = flops_of(case.build(gates=gates), widths)
    assert planned == count, f'{planned} are planned, but {count} are counted'


@law(gates=KINDS)
def cut_network_equals_small_network(case: Case, gates: bool | str) -> None:
    """With the first units only, it is the independent network of that size."""
    backbone = gated(case, gates)
    if backbone is None:
        return
    for module, _ in backbone.read_units():
        module.fold_gates_()
    backbone.double()  # now, so that networks built in float32 take its weights as they are
    first, whole = backbone.training_stages[0], backbone.whole
    sizes: dict[str, Any] = {
        name: getattr(first, name) for name in ('heads', 'hidden') if name in first.keys
    }
    stage = TrainingStage(**{**whole.as_dict(), **sizes})
    kept = [
        units_of_width(width, module.total(axis))
        for module, axis, width in backbone.active_units(0)
        if axis == module.read_axis
    ]
    small = case.small(backbone, stage).double()
    slim_(backbone, kept)
    images = case.images().double()
    assert_near(backbone(images)[-1], small(images))


@law(gates=KINDS)
def scores_know_what_a_free_scale_is(case: Case, gates: bool | str) -> None:
    """Weights times c with their gate over c have the same scores; powers of 2 round nothing."""
    backbone = gated(case, gates)
    if backbone is None:
        return
    for module, _ in backbone.read_units():
        gate, params = gate_of(module), dict(module.named_parameters())
        expected: Tensor = scores(module)
        factors = 2.0 ** torch.arange(len(gate)).remainder(7).sub(3)
        for slot in (slot for slot in module.gated if slot.param in params):
            params[slot.param].data = slot.scaled(params[slot.param].data, factors)
        gate.data.div_(factors)
        assert torch.equal(scores(module), expected), 'another scale has other scores'
