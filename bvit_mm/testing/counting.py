# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Multiply-adds by a counter, which ``flops(k)`` must equal."""

from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def counted(backbone: nn.Module, images: Tensor) -> int:
    """Multiply-adds by torch's counter, 5 an element of norms, 1 of what is pooled.

    Args:
        backbone: A backbone on the meta device: on the CPU fused attention counts as nothing.
        images: Images on the meta device.
    """
    uncounted: list[int] = []
    handles = [
        module.register_forward_hook(lambda m, args, out: uncounted.append(5 * out.numel()))
        for module in backbone.modules()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm))
    ]
    pool = F.adaptive_avg_pool2d

    def counted_pool(x: Tensor, size: int | tuple[int, int]) -> Tensor:
        uncounted.append(x.numel())
        return pool(x, size)

    counter = FlopCounterMode(display=False)
    with counter, mock.patch.object(F, 'adaptive_avg_pool2d', counted_pool):
        backbone(images)
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() // 2 + sum(uncounted)
