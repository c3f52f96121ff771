# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Methods that end with a network of half the FLOPs: slimmed ones, and what they must beat."""

import copy
import math
from typing import Any

from mmengine.config import Config

from ..building import build_to_count
from ..cost import classifier_flops, stage_gflops
from ..elastic import find_backbone
from ..slim.cutting import widths_argument
from ..slim.phases import Slimming, add_phases_
from .changes import Changes, MakesChanges, together, whole_network
from .methods import METHODS, methods_of

FLOPS = 0.5  # of the whole network, that all of them end with


def slimmed(
    search: float = 0.1, retrain: float = 0.7, gates: bool | str = True, **options: Any
) -> MakesChanges:
    """Grows, searches, cuts and retrains within the budget (``slim.phases.Slimming``).

    Networks that are compared here train for some thousand iterations. So gates take longer steps
    than weights, and most of the budget is for the small network.
    """

    def changes(cfg: Config, share: Any) -> Changes:
        return {
            'model.backbone.gates': gates,
            'optim_wrapper.paramwise_cfg.custom_keys.gate': dict(decay_mult=0.0, lr_mult=10.0),
            'train_cfg.slim': dict(flops=FLOPS, search=search, retrain=retrain, **options),
        }

    return changes


def uniform(cfg: Config, share: Any) -> Changes:
    """The small network with equally many units in all layers, trained for the whole budget."""
    model = copy.deepcopy(cfg.model)
    model.backbone.update(gates=True, training_stages=None)
    built = build_to_count(model)
    backbone = find_backbone(built)
    whole = stage_gflops(built)[-1]
    add_phases_(backbone, Slimming(FLOPS), classifier_flops(built))
    widths = dict(backbone.training_stages[-1].widths)
    epochs = cfg.train_cfg.get('full_epochs', 300) * whole / stage_gflops(built)[-1]
    return {
        **whole_network(cfg),
        'model.backbone.widths': widths_argument(backbone, widths),
        'train_cfg.full_epochs': math.ceil(epochs),
    }


def narrow(cfg: Config, share: Any) -> Changes:
    """The network with fewer channels: as many layers and heads, and as wide MLPs for them.

    That is how the members of most families differ. Hidden units take what is left of the FLOPs,
    and training stages have the same shares of them.

    Raises:
        ValueError: If the config does not say how many channels there are.
    """
    arch: Any = cfg.model.backbone.get('arch')
    if not isinstance(arch, dict) or 'feedforward_channels' not in arch:
        raise ValueError(
            f'narrow is for plain ViTs, and has fewer embed_dims, which model.backbone.arch='
            f'{arch!r} does not say; give it as a dict(embed_dims=..., num_layers=..., '
            'num_heads=..., feedforward_channels=...)'
        )
    built = build_to_count(cfg.model)
    full, stages = stage_gflops(built)[-1], find_backbone(built).training_stages
    heads, channels, hidden = stages[-1].heads, arch['embed_dims'], stages[-1].hidden

    def changes(channels: int, units: int) -> Changes:
        shapes = [{**s.as_dict(), 'hidden': round(s.hidden * units / hidden)} for s in stages]
        return {
            'model.backbone.arch.embed_dims': channels,
            'model.backbone.arch.feedforward_channels': units,
            'model.backbone.training_stages': shapes,
            'model.head.in_channels': channels,
        }

    def cost(channels: int, units: int) -> float:
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict(changes(channels, units))
        return stage_gflops(build_to_count(changed.model))[-1] / full

    sizes = ((n, max(1, hidden * n // channels)) for n in range(heads, channels + 1, heads))
    width, units = max(size for size in sizes if cost(*size) <= FLOPS)
    while cost(width, units + 1) <= FLOPS:
        units += 1
    epochs = math.ceil(cfg.train_cfg.get('full_epochs', 300) / cost(width, units))
    return {**changes(width, units), 'train_cfg.full_epochs': epochs}


# Cut by gates; half way through the budget, as ViT-Slim would; by costs as well; by gates of single
# dimensions of heads; by random numbers; by the norms of weights; by gates at the end, with a tenth
# of the budget to retrain; and small networks, equally wide in all layers or with fewer channels.
# Those that grow as recommended learn fast on small images, so most of the budget is for that.
SLIMMING = methods_of(
    {
        'slim': slimmed(),
        'slim-late': slimmed(0.05, 0.45),
        'slim-cost': slimmed(by='cost'),
        'slim-random': slimmed(scores='random'),
        'slim-magnitude': slimmed(scores='weights'),
        'slim-fine-tuning': slimmed(0.05, 0.1),
        'slim-dims': slimmed(gates='dims'),
        'slim-recommended': together(slimmed(0.05, 0.25), METHODS['recommended']),
        'slim-recommended-early': together(slimmed(), METHODS['recommended']),
        'slim-recommended-dims': together(slimmed(0.05, 0.25, 'dims'), METHODS['recommended']),
        'uniform': uniform,
        'narrow': together(narrow, whole_network),
        'narrow-recommended': together(narrow, METHODS['recommended']),
    }
)
