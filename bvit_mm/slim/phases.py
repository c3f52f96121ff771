# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One budget for growing, searching and retraining: two more training stages, the last one smaller.

After the stages that grow comes the search: the whole network, whose gates learn what it needs.
Then it is cut to its budget of FLOPs and trained on. What is cut keeps its place in the weights,
so optimizers, averages, processes and checkpoints see no change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..elastic import ElasticBackbone
from ..elastic_modules import ElasticModule
from ..widths import groups_of
from .choice import Units, read_flops
from .cutting import chosen, flops_of, scores, slim_stage, sort_units_, units_of, widths_of

PHASES = ('search', 'retrain')
PENALTY = 'loss_slim'  # what the losses have of gates
SCORES = ('gates', 'weights', 'random')


@dataclass(frozen=True)
class Slimming:
    """What a run is to do after it has grown.

    Attributes:
        flops: What the network may cost in the end: a share of the whole one up to 1, or GFLOPs
            of one image as text, classifier included.
        search: The share of the budget in which gates learn.
        retrain: The share of the budget for the slimmed network; training stages that grow have
            what is left.
        by: How heads and hidden units compare (``choice.ranked``).
        fill: Whether hidden units that still fit are kept (``choice.choose``); None, and they are
            unless ``multiple`` or ``only`` speaks against it.
        multiple: What the number of hidden units is a multiple of.
        only: The only kind of unit that is cut; None for each.
        scores: What says which units are important: ``'gates'`` times the norms of weights; the
            norms of ``'weights'`` alone, whose gates rest; or ``'random'`` numbers.
        heads: Of the loss, for each 1 of the mean gate of heads (``SlimHook``).
        hidden: The same of hidden units.
        seed: Of the random numbers.
    """

    flops: float | str
    search: float = 0.05
    retrain: float = 0.45
    by: str = 'share'
    fill: bool | None = None
    multiple: int = 1
    only: str | None = None
    scores: str = 'gates'
    heads: float = 0.23
    hidden: float = 0.23
    seed: int = 0

    @property
    def shares(self) -> tuple[float, float]:
        """Of the budget: for searching and for retraining."""
        return self.search, self.retrain

    @property
    def options(self) -> dict[str, Any]:
        """Of ``choice.choose``."""
        fits = self.multiple == 1 and self.only in (None, 'hidden')
        fill = fits if self.fill is None else self.fill
        return dict(by=self.by, fill=fill, multiple=self.multiple, only=self.only)


def read_slimming(given: Any) -> Slimming | None:
    """What ``train_cfg.slim`` means; None if there is none.

    Raises:
        ValueError: If it is no dict of such options, or a share is none.
    """
    if given is None:
        return None
    names = [field.name for field in fields(Slimming)]
    if not isinstance(given, Mapping) or 'flops' not in given or set(given) - set(names):
        raise ValueError(
            f'train_cfg.slim={given!r} must be a dict with flops, such as dict(flops=0.7), and '
            f'maybe {", ".join(names[1:])}'
        )
    found = Slimming(**given)
    for name in PHASES:
        share = getattr(found, name)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(
                f'train_cfg.slim: {name}={share!r} must be a share of the budget, above 0 and '
                'below 1'
            )
    if found.search + found.retrain >= 1:
        raise ValueError(
            f'train_cfg.slim: search={found.search} and retrain={found.retrain} leave nothing of '
            'the budget for the training stages before them; give less than 1 in all'
        )
    if found.scores not in SCORES:
        raise ValueError(
            f'train_cfg.slim: scores={found.scores!r} is not known; give one of {SCORES}'
        )
    return found


def add_phases_(backbone: ElasticBackbone, slimming: Slimming, classifier: int) -> int:
    """Gives a backbone the training stages of searching and retraining, in place.

    Until the cut, the last one has the first units of each module, as many of all as the budget
    pays: a network of the size that will come.

    Args:
        backbone: The backbone, with gates.
        slimming: What is to be done.
        classifier: Multiply-adds of one image in the classifier.

    Returns:
        Multiply-adds of one image that the slimmed network may take.

    Raises:
        ValueError: If it has no gates, or no network is so small.
    """
    if any(module.gate is None for module, _ in backbone.read_units()):
        raise ValueError(
            'train_cfg.slim searches with gates, which the backbone does not have; give it '
            "gates=True, or gates='dims'"
        )
    budget = read_flops(slimming.flops, flops_of(backbone, backbone.totals()) + classifier)
    if not backbone.has_phases:
        evenly = units_of(backbone, (_falling(m, axis) for m, axis in backbone.read_units()))
        kept = chosen(backbone, evenly, classifier, budget, **slimming.options)
        backbone.add_phases_(slim_stage(backbone, widths_of(backbone, kept)))
    return budget


def _falling(module: ElasticModule, axis: str) -> list[float]:
    """Scores that fall evenly from unit to unit, or within each group of units."""
    groups = groups_of(module.whole_width(axis))
    return [1 - unit / n for n in groups for unit in range(n)]


def units_to_keep(
    backbone: ElasticBackbone, slimming: Slimming, classifier: int
) -> list[tuple[int, ...]]:
    """The units of each module that are important by now and that the budget pays, best first."""
    budget = read_flops(slimming.flops, flops_of(backbone, backbone.totals()) + classifier)
    return chosen(backbone, _important(backbone, slimming), classifier, budget, **slimming.options)


def _important(backbone: ElasticBackbone, slimming: Slimming) -> list[Units]:
    generator = torch.Generator().manual_seed(slimming.seed)
    found = []
    for module, axis in backbone.read_units():
        if slimming.scores == 'random':
            found.append(torch.rand(module.total(axis), generator=generator).tolist())
        else:
            found.append(scores(module).tolist())
    return units_of(backbone, found)


@torch.no_grad()
def begin_search_(
    backbone: ElasticBackbone,
    states: Mapping[Tensor, dict[str, Any]],
    twins: Sequence[ElasticBackbone] = (),
) -> None:
    """Lets gates begin at 1, whatever rested in them, and with no steps behind them.

    Adam counts steps. For gates that join after many it would take moments that begin for settled
    ones, and their first steps would be three to six times the learning rate.

    Args:
        backbone: The backbone that is trained.
        states: The optimizer's state of each parameter.
        twins: Backbones that follow this one, such as its exponential moving average.
    """
    for each in (backbone, *twins):
        for module, _ in each.read_units():
            if module.gate is not None:
                module.gate.fill_(1.0)
                states.get(module.gate, {}).clear()
        each.set_training_stage(each.whole_stage)


@torch.no_grad()
def cut_(
    backbone: ElasticBackbone,
    kept: Sequence[Sequence[int]],
    states: Mapping[Tensor, dict[str, Any]],
    twins: Sequence[ElasticBackbone] = (),
) -> None:
    """Cuts a backbone that is trained, in place: its last training stage has the units that stay.

    Gates are folded. The state that the optimizer has of them, and of what they scaled, is of
    other numbers then, so it begins anew.

    Args:
        backbone: The backbone.
        kept: The units that each module keeps.
        states: The optimizer's state of each parameter.
        twins: Backbones that follow this one, such as its exponential moving average.
    """
    sort_units_(backbone, kept, states, twins)
    for module, _ in backbone.read_units():
        params = dict(module.named_parameters())
        for name in {'gate', *(slot.param for slot in module.gated)} & set(params):
            states.get(params[name], {}).clear()
    stage = slim_stage(backbone, widths_of(backbone, kept))
    for each in (backbone, *twins):
        for module, _ in each.read_units():
            module.fold_gates_()
        each.add_phases_(stage)
        each.set_training_stage(each.num_training_stages - 1)
