# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Multiply-adds, and whether two outputs are equal."""

from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .closeness import distance


def equal(ours, theirs, case):
    """Bit for bit, or nearly, in float64, where the case says so."""
    if not case.tolerance:
        return torch.equal(ours, theirs)
    return distance(ours, theirs) <= case.tolerance


def dtype_of(case):
    return torch.float64 if case.tolerance else torch.float32


def counted(backbone, images):
    """Multiply-adds by torch's counter, 5 an element of layer norms, 1 of what is pooled."""
    uncounted = []
    handles = [
        module.register_forward_hook(lambda m, args, out: uncounted.append(5 * out.numel()))
        for module in backbone.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    pool = F.adaptive_avg_pool2d

    def counted_pool(x, size):
        uncounted.append(x.numel())
        return pool(x, size)

    counter = FlopCounterMode(display=False)
    with counter, mock.patch.object(F, 'adaptive_avg_pool2d', counted_pool):
        backbone(images)  # on the meta device: on the CPU fused attention counts as nothing
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() // 2 + sum(uncounted)
