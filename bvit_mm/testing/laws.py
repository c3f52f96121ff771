# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Laws 1 to 4, 6 and 7 of docs/laws.md, and what follows from them for weights and precision.

A law is a function of a ``Case`` that raises AssertionError if the backbone breaks it.
"""

import copy
import io
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from ..backbones.swin import OffsetSlot
from ..elastic_modules import Slot, UnitSlot
from ..growth import INITS, drawn_anew, grow_
from .case import Case
from .closeness import assert_near, distance
from .counting import counted

Law = Callable[[Case], None]
LAWS: dict[str, Law] = {}  # by name, in the order of docs/laws.md


def check_backbone(case: Case) -> None:
    """Checks all laws for a backbone.

    Args:
        case: The backbone.

    Raises:
        AssertionError: If it breaks a law; the message names every law that it breaks, and why.
    """
    broken = broken_laws(case)
    if broken:
        reasons = '\n'.join(f'{name}: {error!r}' for name, error in broken.items())
        first = next(iter(broken.values()))
        raise AssertionError(
            f'{case.name} breaks {len(broken)} of {len(LAWS)} laws:\n{reasons}'
        ) from first


def broken_laws(case: Case) -> dict[str, Exception]:
    """What each law that a backbone breaks has raised, by the law's name."""
    broken = {}
    for name, check in LAWS.items():
        try:
            check(case)
        except Exception as error:  # a forward that fails breaks the law as well
            broken[name] = error
    return broken


def law(**options: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enters a check into ``LAWS``, once for each combination of some options."""

    def enter(check: Callable[..., None]) -> Callable[..., None]:
        for values in itertools.product(*options.values()):
            name = '-'.join([check.__name__, *map(str, values)])
            LAWS[name] = partial(check, **dict(zip(options, values)))
        return check

    return enter


def tensors(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a backbone as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def gradient(param: nn.Parameter) -> Tensor:
    """The gradient of a parameter, which must have one."""
    assert param.grad is not None, f'a parameter of shape {tuple(param.shape)} has no gradient'
    return param.grad


def equal(ours: Tensor, theirs: Tensor, case: Case) -> bool:
    """Whether two tensors have the same bits, or differ by no more than a case's tolerance."""
    if not case.tolerance:
        return torch.equal(ours, theirs)
    return distance(ours, theirs) <= case.tolerance


def other_outputs(case: Case) -> str:
    """What a law says where a case's outputs are not the plain class's."""
    fault = case.elastic.plain_fault
    return 'other outputs' if fault is None else f'other outputs ({fault})'


def of_units(slot: Slot, tensor: Tensor, total: int, units: Sequence[int]) -> Tensor:
    """The part of a tensor that belongs to some units."""
    places = slot.places(tensor.shape[slot.dim], total, units)
    return tensor.index_select(slot.dim, places.to(tensor.device))


def plain_mapping(slot: Slot, size: int, total: int, old: int, new: int) -> Tensor:
    """For each place of a dimension, the place it is grown from, itself if it is not new.

    Written without the slots' own answers, which it is compared with.
    """
    if isinstance(slot, OffsetSlot):
        side = 2 * total - 1
        table = []
        for dy, dx in itertools.product(range(1 - total, total), repeat=2):
            if old <= max(abs(dy), abs(dx)) < new:
                dy, dx = (min(max(d, 1 - old), old - 1) for d in (dy, dx))
            table.append((dy + total - 1) * side + dx + total - 1)
        return torch.tensor(table)
    assert isinstance(slot, UnitSlot), f'how {slot} grows is not known'
    entries = size // slot.blocks // total
    table = []
    for block, unit, entry in itertools.product(*map(range, (slot.blocks, total, entries))):
        source = unit % old if old <= unit < new else unit
        table.append((block * total + source) * entries + entry)
    return torch.tensor(table)


# 1. At the last training stage it is the plain class, bit for bit.


@law()
def same_seed_gives_the_plain_network(case: Case) -> None:
    """Names, order and values of the weights are the plain class's."""
    elastic, plain = case.build(), case.build_plain()
    ours, theirs = elastic.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs), f'other keys: {sorted({*ours} ^ {*theirs})}'
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), f'{key} is drawn otherwise'
    elastic.load_state_dict(theirs, strict=True)
    # Of its own weights a plain class may miss some: mmpretrain's Swin V2 deletes what it makes.
    own = plain.load_state_dict(theirs, strict=False)
    assert plain.load_state_dict(ours, strict=False) == own, 'the plain class takes other keys'


@law(training=[False, True])
def whole_network_equals_plain_class(case: Case, training: bool) -> None:
    """Outputs and gradients are the plain class's, drop path included."""
    elastic, plain = case.build(), case.build_plain()
    results = []
    for model in (elastic.to(case.dtype), plain.to(case.dtype)):
        model.train(training)
        torch.manual_seed(5)  # drop-path
        results.append(tensors(model(case.images().to(case.dtype))))
    ours, theirs = results
    assert all(equal(a, b, case) for a, b in zip(ours, theirs, strict=True)), other_outputs(case)
    torch.autograd.backward([out.square().sum() for outputs in results for out in outputs])
    our_params = dict(elastic.named_parameters())
    for name, param in plain.named_parameters():
        same = equal(gradient(our_params[name]), gradient(param), case)
        assert same, f'another gradient of {name}'


@law()
def whole_network_takes_other_image_sizes(case: Case) -> None:
    """Of images of another size the outputs are the plain class's too."""
    images = torch.randn(1, 3, *case.other_size, dtype=case.dtype)
    elastic, plain = (model.to(images) for model in (case.build(), case.build_plain()))
    pairs = zip(tensors(elastic(images)), tensors(plain(images)), strict=True)
    assert all(equal(a, b, case) for a, b in pairs), other_outputs(case)


@law()
def every_stage_takes_other_image_sizes(case: Case) -> None:
    """No stage fails on images of another size."""
    backbone, images = case.build(), torch.randn(1, 3, *case.other_size)
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        for out in tensors(backbone(images)):
            assert out.isfinite().all(), f'training stage {k + 1} is not finite'


# 2. At stage k it equals an independent network of that size.


@law(dtype=[torch.float32, torch.float64])
def stage_equals_small_network(case: Case, dtype: torch.dtype) -> None:
    """Each stage computes what an independent network of its size does."""
    backbone = case.build().to(dtype)
    images = case.images().to(dtype)
    for k, stage in enumerate(backbone.training_stages):
        backbone.set_training_stage(k)
        small = case.small(backbone, stage).to(dtype)
        assert_near(backbone(images)[-1], small(images))


@law()
def stage_shrinks_to_a_network_of_its_own(case: Case) -> None:
    """With only that stage's weights it computes the same, and is rebuilt from its arguments.

    But for rounding: other steps between the rows of a matrix may choose another kernel.
    """
    images, stages = case.images(), case.build().training_stages
    for k in range(len(stages)):
        backbone = case.build()
        backbone.set_training_stage(k)
        expected, cost = backbone(images), backbone.flops(k)
        whole = sum(p.numel() for p in backbone.parameters())
        fewer_units = any(
            active < module.total(axis) and any(module.elastic_parameters(axis))
            for module, axis, active in backbone.active_units(k)
        )
        backbone.shrink_(k)
        shrunk = sum(p.numel() for p in backbone.parameters())
        assert shrunk < whole if fewer_units else shrunk == whole, f'{shrunk} of {whole} weights'
        again = case.build(seed=9, only_stage=k)
        again.load_state_dict(backbone.state_dict(), strict=True)
        outputs = backbone(images)
        for ours, theirs in zip(tensors(outputs), tensors(expected), strict=True):
            assert_near(ours, theirs)
        same = map(torch.equal, tensors(again(images)), tensors(outputs))
        assert all(same), 'only_stage computes something else'
        for network in (backbone, again):
            assert network.flops(0) == cost, f'training stage {k + 1} costs something else alone'
            assert network.num_training_stages == 1


# 3. Gradients have full shape, exactly 0 for inactive units; the compute shrinks.


@law()
def inactive_units_get_exactly_zero_gradients(case: Case) -> None:
    """Every parameter has a gradient; of inactive units it is 0, of active ones it is not."""
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        backbone.zero_grad()
        outputs = tensors(backbone(case.images()))
        torch.autograd.backward([out.square().sum() for out in outputs])
        for name, param in backbone.named_parameters():
            assert param.grad is not None and param.grad.shape == param.shape, name
        for module, axis, active in backbone.active_units(k):
            for slot, param in module.elastic_parameters(axis):
                total = module.total(axis)
                rest = of_units(slot, gradient(param), total, range(active, total))
                assert not rest.count_nonzero(), f'{slot.param}: inactive units have gradients'
                used = of_units(slot, gradient(param), total, range(active))
                assert used.count_nonzero(), f'{slot.param}: active units have no gradients'


# 4. flops(k) equals a counter and rises with k.


@law()
def flops_equal_a_counter(case: Case) -> None:
    """To the last multiply-add, and more in each stage than in the one before."""
    backbone = case.build().to('meta')
    counts = []
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        counts.append(counted(backbone, case.images(batch=1).to('meta')))
        assert backbone.flops(k) == counts[-1], f'flops({k}) is not {counts[-1]}, as counted'
    assert counts == sorted(set(counts)), f'costs do not rise: {counts}'


@law()
def flops_of_other_image_sizes_equal_a_counter(case: Case) -> None:
    """To the last multiply-add."""
    backbone = case.build().to('meta')
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        count = counted(backbone, torch.randn(1, 3, *case.other_size, device='meta'))
        found = backbone.flops(k, input_size=case.other_size)
        assert found == count, f'flops({k}, {case.other_size}) is {found}, but {count} are counted'


# 6. Growth leaves old units untouched; growing to the same size does nothing.


@law(init=[init for init in INITS if init != 'half'])  # which changes weights that read old units
def growth_leaves_old_units_untouched(case: Case, init: str) -> None:
    """New units are what the initializer says; everything else keeps its bits."""
    backbone = case.build()
    backbone.set_training_stage(0)
    for stage in range(1, backbone.num_training_stages):
        before = copy.deepcopy(backbone)
        grow_(backbone, stage, init=init, fresh=partial(drawn_anew, before, seed=7))
        assert backbone.training_stage == stage
        pairs = zip(backbone.parameters(), before.parameters())
        expected: dict[nn.Parameter, Tensor] = {p: old.detach().clone() for p, old in pairs}
        new = {p: torch.zeros_like(p, dtype=torch.bool) for p in expected}
        pairs = zip(backbone.active_units(stage), before.active_units(stage))
        for (module, axis, now), (old_module, *_) in pairs:
            old, total = old_module.active[axis], module.total(axis)
            assert module.active[axis] == now
            for slot, param in module.elastic_parameters(axis):
                mapping = plain_mapping(slot, param.shape[slot.dim], total, old, now)
                expected[param] = expected[param].index_select(slot.dim, mapping)
                grown = (mapping != torch.arange(len(mapping))).nonzero().flatten()
                new[param].index_fill_(slot.dim, grown, True)
        for name, param in backbone.named_parameters():
            value, is_new = expected[param], new[param]
            assert torch.equal(param[~is_new], value[~is_new]), f'{name}: old units changed'
            same = torch.equal(param[is_new], value[is_new])
            assert same or init != 'copy', f'{name}: new units are no copies'
            copies = value[is_new]
            # noise is a share of what the copies differ by: one number alone has none
            spread = bool((copies != copies[:1]).any())
            is_drawn = (init == 'random' and is_new.any()) or (init == 'noise' and spread)
            assert not (same and is_drawn), f'{name}: new units are copies'


@law()
def growing_to_the_same_stage_does_nothing(case: Case) -> None:
    """No bit changes."""
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        before = copy.deepcopy(backbone.state_dict())
        grow_(backbone, k, moments='drop_all')
        for name, value in backbone.state_dict().items():
            assert torch.equal(value, before[name]), f'{name} changed'


# 7. 'half' growth leaves the output as it is.


@law(dtype=[torch.float32, torch.float64])
def half_growth_preserves_the_function(case: Case, dtype: torch.dtype) -> None:
    """Outputs before and after growth are equal, to rounding."""
    stages = case.build().training_stages
    # tokens and windows stay, so that only heads and hidden units grow
    kept = [name for name in stages[0].keys if name in ('heads', 'hidden')]
    same_grid = [{name: getattr(s, name) for name in kept} for s in stages]
    same_grid = [s for i, s in enumerate(same_grid) if s not in same_grid[:i]]
    backbone, images = case.build(training_stages=same_grid).to(dtype), case.images().to(dtype)
    backbone.set_training_stage(0)
    expected = tensors(backbone(images))
    for stage in range(1, backbone.num_training_stages):
        grow_(backbone, stage, init='half')
        for out, before in zip(tensors(backbone(images)), expected, strict=True):
            assert_near(out, before)


# Every stage computes in half precision too.


@law()
def stages_run_under_autocast(case: Case) -> None:
    """Outputs in bfloat16 point the same way, and gradients are finite."""
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        exact = tensors(backbone(case.images()))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rough = tensors(backbone(case.images()))
        torch.autograd.backward([out.float().square().sum() for out in rough])
        for a, b in zip(rough, exact):
            similarity = F.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            assert similarity > 0.9, f'training stage {k + 1}: cosine {similarity:.2g}'
        assert all(p.grad.isfinite().all() for p in backbone.parameters())


# The stage of unfinished weights travels with them.


@law()
def weights_of_an_unfinished_run_load_as_their_stage(case: Case) -> None:
    """Through a file, by torch and by mmengine."""
    source, file = case.build(), io.BytesIO()
    source.set_training_stage(0)
    torch.save(source.state_dict(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    for load in (lambda m: m.load_state_dict(weights), lambda m: load_state_dict(m, weights)):
        backbone = case.build(seed=3)
        load(backbone)
        assert backbone.training_stage == 0, 'the stage of the weights is lost'
        assert torch.equal(backbone(case.images())[-1], source(case.images())[-1])


@law()
def weights_of_an_unfinished_run_do_not_load_elsewhere(case: Case) -> None:
    """The whole network refuses them."""
    source = case.build()
    source.set_training_stage(0)
    try:
        case.build(training_stages=None).load_state_dict(source.state_dict())
    except ValueError as error:
        assert f'unfinished run, at a training stage with {source.training_stages[0]}' in str(
            error
        ), error
    else:
        raise AssertionError('the whole network loads weights of training stage 1')


@law()
def finished_weights_make_the_whole_network(case: Case) -> None:
    """Whatever was loaded before."""
    backbone, unfinished = case.build(), case.build()
    unfinished.set_training_stage(0)
    backbone.load_state_dict(unfinished.state_dict())
    assert backbone.training_stage == 0
    backbone.load_state_dict(case.build_plain().state_dict())
    assert backbone.is_whole, 'finished weights leave the backbone unfinished'
