# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Time of a training step of each stage beside its FLOPs, and of the plain classes."""

import gc
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from mmpretrain.registry import MODELS as PLAIN_MODELS
from torch import nn

from benchmarks.step_time import Trainer, ratio, times_in_turn
from bvit_mm.registry import MODELS

from .sizes import VIEWS, Family, Size

WHOLE = 'whole 3'  # the last stage, whatever the view of those before it


def step_times(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A row for each stage in each view, and for each plain class; in bfloat16, AdamW.

    All networks of a family take their turn in one run; ratios are medians over paired rounds.
    """
    for name, family in size.families.items():
        batch, times, flops = _times_that_fit(device, size, family)
        whole = times[WHOLE]
        for other in ('mmpretrain', 'timm'):
            if other in times:
                yield dict(
                    family=name,
                    plain=other,
                    batch=batch,
                    milliseconds=1e3 * statistics.median(times[other]),
                    ours=ratio(whole, times[other]),
                )
        for network, share in flops.items():
            took = ratio(times[network], whole)
            view, stage = network.split()
            yield dict(
                family=name,
                view=view,
                stage=int(stage),
                batch=batch,
                milliseconds=1e3 * statistics.median(times[network]),
                time_share=took,
                flops_share=share,
                excess=took / share,
            )


def _times_that_fit(
    device: str, size: Size, family: Family
) -> tuple[int, dict[str, list[float]], dict[str, float]]:
    """The batch, seconds of each network by round, and the FLOPs of ours as shares."""
    batch = size.step_batch
    while True:
        try:
            return batch, *_times(device, size, family, batch)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        gc.collect()
        torch.cuda.empty_cache()
        batch //= 2


def _times(
    device: str, size: Size, family: Family, batch: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    images = torch.randn(batch, 3, family.image_size, family.image_size, device=device)
    networks, flops = _ours(family)
    networks |= _plain(family)
    trainers = {
        name: Trainer(network, images, amp=True, steps=size.steps)
        for name, network in networks.items()
    }
    return times_in_turn(trainers, size.rounds), flops


def _ours(family: Family) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """A network for each stage in each view, and the share of the whole one's FLOPs."""
    networks, flops = {}, {}
    for view in VIEWS:
        spec = family.read(view).model.backbone
        for k in range(len(spec.training_stages)):
            backbone = MODELS.build(spec)
            backbone.set_training_stage(k)
            name = WHOLE if backbone.is_whole else f'{view} {k + 1}'
            networks[name], flops[name] = backbone, backbone.flops(k)
    return networks, {name: each / flops[WHOLE] for name, each in flops.items()}


def _plain(family: Family) -> dict[str, nn.Module]:
    """The same networks of mmpretrain, where it has one, and of timm, where that is installed."""
    spec = family.read().model.backbone
    elastic = MODELS.get(spec.type)
    networks = {}
    if elastic.plain_type is not None:
        own = elastic.own_arguments()
        kwargs = {name: value for name, value in spec.items() if name not in own}
        networks['mmpretrain'] = PLAIN_MODELS.build({**kwargs, 'type': elastic.plain_type})
    if family.timm is None:
        return networks
    try:
        from timm.models import create_model
    except ImportError:
        return networks
    options = dict(num_classes=0, drop_path_rate=spec.drop_path_rate, **family.timm_changes)
    networks['timm'] = create_model(family.timm, **options)
    return networks
