# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images of another size than ``img_size``: what they cost, and what is said of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import Logger
from statistics import fmean
from typing import Any

from mmengine.dist import all_gather_object
from torch import nn

from ..budget import Budget
from ..elastic import ElasticBackbone
from ..plan import Plan
from .processes import Agreement

Size = tuple[int, int]

TOLERANCE = 0.01  # share of the planned cost that images may differ by without a word


class SeenSize:
    """Notes the height and width of the images that came last, also by training stage.

    At the backbone it also sees what no config tells: padding, resizing of whole batches, hooks.
    """

    def __init__(self) -> None:
        self.size: Size | None = None
        self.of_stage: dict[int, Size] = {}

    def note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        size = tuple((*args, *kwargs.values())[0].shape[-2:])
        if size != self.size:
            self.size = size
        if isinstance(module, ElasticBackbone):
            self.of_stage[module.training_stage] = size


@contextmanager
def watched(module: nn.Module, seen: SeenSize | None = None) -> Iterator[SeenSize]:
    """Notes the size of the images that reach a module within."""
    seen = seen or SeenSize()
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
    planned = [tuple(backbone.img_size)]
    if backbone.loads_views:  # data workers leave out what a stage does not see; whatever
        # comes, the backbone takes what its own stage sees of it
        planned += [tuple(backbone.seen_size(k)) for k in range(backbone.num_training_stages)]
    if size is None or size in planned:
        return 0.0
    return (backbone.flops(stage, size) - backbone.flops(stage)) / 1e9


def saved_gflops(backbone: ElasticBackbone, plan: Plan) -> float:
    """Forward GFLOPs of an image beyond the plan's, which knows a slimmed network's budget only."""
    stage, whole = backbone.training_stage, backbone.whole_stage
    if stage <= whole:
        return 0.0
    saved = (backbone.flops(stage) - backbone.flops(whole)) / 1e9
    return saved - (plan.gflops[stage] - plan.gflops[whole])


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


class SizeLedger:
    """What images of another size cost beyond the plan, with one warning of them in a run.

    Args:
        backbone: The backbone.
        agree: So that all processes book the same.
        logger: Where to warn.
    """

    def __init__(self, backbone: ElasticBackbone, agree: Agreement, logger: Logger) -> None:
        self.backbone, self.agree, self.logger = backbone, agree, logger
        self.seen = SeenSize()
        self._has_warned = False

    def check(self, plan: Plan, budget: Budget, tried: SeenSize, is_new: bool) -> None:
        """Looks at the images with which the last stage was tried (``check_image_size``)."""
        size = tried.of_stage.get(self.backbone.whole_stage)
        sizes = [each for each in all_gather_object(size) if each is not None]
        if sizes:  # else nothing was tried
            self._warn(check_image_size(self.backbone, plan, budget, sizes, is_new))

    def extra(self, plan: Plan, epoch: int) -> float:
        """GFLOPs of each of the last images beyond the plan's; the mean over the processes."""
        stage, size = self.backbone.training_stage, self.seen.size
        extra = extra_gflops(self.backbone, stage, size)
        if extra and size and not self._has_warned:
            problem = differs(self.backbone, plan, stage, [size])
            self._warn(
                problem and f'in epoch {epoch + 1}, {problem}. The ledger books what is trained'
            )
        return self.agree.mean(extra) + saved_gflops(self.backbone, plan)

    def _warn(self, warning: str | None) -> None:
        if warning:
            self.logger.warning(warning)
            self._has_warned = True


def check_image_size(
    backbone: ElasticBackbone, plan: Plan, budget: Budget, sizes: Sequence[Size], is_new: bool
) -> str | None:
    """What to warn of before a run whose images are of these sizes; None if nothing.

    Args:
        backbone: The backbone.
        plan: What is planned for it.
        budget: The budget of the plan.
        sizes: Height and width of the images of the batch that was tried, in each process.
        is_new: Whether nothing is trained yet.

    Raises:
        ValueError: If a new run has a budget in GFLOPs, which such images would not keep.
    """
    problem = differs(backbone, plan, backbone.whole_stage, sizes)
    if problem is None:
        return None
    if not is_new:  # with another plan it could not go on
        return f'{problem}. The ledger books what is trained'
    right = f'model.backbone.img_size={_option(max(sizes))}'
    if not budget.refuses_other_sizes:
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
