# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Drop path (stochastic depth, Huang et al., 2016): how often the blocks of a network drop theirs.

The plain classes take one rate, ``drop_path_rate``, and give it to the last block. Those before it
have less, in equal steps from 0 at the first.
"""

import math
import re
from collections.abc import Sequence

from mmcv.cnn.bricks import DropPath
from torch import nn

ROUNDING = 1e-6  # of rates that a plain class computes in float32


def drop_paths(network: nn.Module) -> list[list[DropPath]]:
    """The ``DropPath`` modules of each block, in the order of the blocks.

    A block is the innermost numbered module that one is in: ``layers.3`` of
    ``layers.3.attn.out_drop``. What is in none, as before the blocks, is left out.
    """
    blocks: dict[str, list[DropPath]] = {}
    for name, module in network.named_modules():
        block = re.match(r'(.*\.)?\d+(?=\.)', name)
        if block and isinstance(module, DropPath):
            blocks.setdefault(block.group(), []).append(module)
    return list(blocks.values())


def rates_of(network: nn.Module) -> list[float]:
    """The rate of each block.

    Raises:
        ValueError: If it has no ``DropPath``, or rates that no single number tells.
    """
    blocks = drop_paths(network)
    if not blocks:
        raise ValueError(
            'changes what blocks drop, but this network was built without any DropPath; leave it '
            'out'
        )
    rates = [block[0].drop_prob for block in blocks]
    alike = all(module.drop_prob == block[0].drop_prob for block in blocks for module in block)
    steps = zip(rates, evenly(rates[-1], len(rates)))
    if not alike or not all(math.isclose(a, b, abs_tol=ROUNDING) for a, b in steps):
        raise ValueError(
            f'is one rate for all blocks, but the blocks of this network have rates of their own '
            f'({", ".join(f"{rate:.3g}" for rate in rates)}); leave it out, or build the network '
            'with drop_path_rate alone'
        )
    return rates


def evenly(rate: float, blocks: int) -> list[float]:
    """The rate of each block where the last one has ``rate``, in equal steps from 0."""
    return [rate * i / max(1, blocks - 1) for i in range(blocks)]


def with_rate(rates: list[float], rate: float) -> list[float]:
    """The rates of blocks where the last one has another rate.

    Args:
        rates: As they are. They stay, with their rounding, if the last one has ``rate`` already.
        rate: In [0, 1).
    """
    is_same = math.isclose(rates[-1], rate, abs_tol=ROUNDING)
    return rates if is_same else evenly(rate, len(rates))


def set_rates(network: nn.Module, rates: Sequence[float]) -> None:
    """Gives each block its rate."""
    for block, rate in zip(drop_paths(network), rates, strict=True):
        for module in block:
            module.drop_prob = rate
