# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images of another size than ``img_size``: what they cost, and what is said of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from torch import nn

from .elastic import ElasticBackbone
from .plan import Plan

Size = tuple[int, int]

TOLERANCE = 0.01  # share of the planned cost that images may differ by without a word


class SeenSize:
    """Notes the height and width of the images that came last.

    At the backbone it also sees what no config tells: padding, resizing of whole batches, hooks.
    """

    def __init__(self) -> None:
        self.size: Size | None = None

    def note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        size = tuple((*args, *kwargs.values())[0].shape[-2:])
        if size != self.size:
            self.size = size


@contextmanager
def watched(module: nn.Module) -> Iterator[SeenSize]:
    """Notes the size of the images that reach a module within."""
    seen = SeenSize()
    # a method, so that a trial does not take back what was seen (snapshot)
    handle = module.register_forward_pre_hook(seen.note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def extra_gflops(backbone: ElasticBackbone, stage: int, size: Size | None) -> float:
    """Forward GFLOPs of an image beyond those of one of ``img_size``, which plans count.

    Args:
        backbone: The backbone.
        stage: The training stage, 0-based.
        size: Height and width of the image; None, if none was seen, counts as planned.

    Returns:
        Exactly 0 for an image of ``img_size``; below 0 for a smaller one.
    """
    if size is None or size == tuple(backbone.img_size):
        return 0.0
    return (backbone.flops(stage, size) - backbone.flops(stage)) / 1e9


def differs(backbone: ElasticBackbone, plan: Plan, stage: int, sizes: Sequence[Size]) -> str | None:
    """What is to be said of images whose cost is not the plan's; None if it nearly is.

    Args:
        backbone: The backbone.
        plan: What is planned for it.
        stage: The training stage that trains them, 0-based.
        sizes: Height and width of the images in each process.
    """
    extra = fmean(extra_gflops(backbone, stage, size) for size in sizes)
    if abs(extra) <= TOLERANCE * plan.gflops[stage]:
        return None
    seen = ' and '.join(f'{rows}x{columns}' for rows, columns in sorted(set(sizes)))
    return (
        f'images of {seen} pixels reach the backbone, but the plan is for '
        f'model.backbone.img_size={_option(backbone.img_size)}. An epoch of training stage '
        f'{stage + 1} costs {1 + extra / plan.gflops[stage]:.3g} times what is planned'
    )


def check_image_size(
    backbone: ElasticBackbone, plan: Plan, sizes: Sequence[Size], is_new: bool
) -> str | None:
    """What to warn of before a run whose images are of these sizes; None if nothing.

    Args:
        backbone: The backbone.
        plan: What is planned for it.
        sizes: Height and width of the images of the batch that was tried, in each process.
        is_new: Whether nothing is trained yet.

    Raises:
        ValueError: If a new run has a budget in GFLOPs, which such images would not keep.
    """
    problem = differs(backbone, plan, backbone.num_training_stages - 1, sizes)
    if problem is None:
        return None
    if not is_new:  # with another plan it could not go on
        return f'{problem}. The ledger books what is trained'
    right = f'model.backbone.img_size={_option(max(sizes))}'
    if plan.budget is None:
        return f'{problem}. The ledger books what is trained; to plan it too, give {right}'
    raise ValueError(
        f'{problem}, so the budget would not be kept. Give {right}, with grids of that size where '
        f'training_stages state them. Or resize the images to {_option(backbone.img_size)} in '
        'train_pipeline. Where sizes vary on purpose, state epochs, or give a budget in hours'
    )


def _option(size: Size) -> str:
    """A size as a config states it."""
    rows, columns = size
    return str(rows) if rows == columns else f'({rows}, {columns})'
