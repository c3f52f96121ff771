# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What the laws need to know of a backbone: how to build it, and what it must equal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..elastic import ElasticBackbone
from ..training_stages import StagesSpec, TrainingStage

Model = TypeVar('Model', bound=nn.Module)


@dataclass
class Case:
    """A small elastic backbone, the plain class it must equal, and independent small networks.

    Args:
        name: A name for messages.
        elastic: The class with training stages.
        plain: The class whose network the last stage must equal. A backbone that is in no other
            library is its own plain class; compare it with something else as well.
        small: Builds the independent network of a stage, with weights cut out of the backbone.
        stages: The ``training_stages``; more than one.
        kwargs: Arguments of the elastic class, ``img_size`` among them. The plain class gets those
            that it has too (``ElasticBackbone.own_arguments``).
        tolerance: How far from the plain class results may be in float64, as a share of the
            largest value; 0 asks for the same bits, in float32.
        batch: The number of images at once.
    """

    name: str
    elastic: type[ElasticBackbone]
    plain: type[nn.Module]
    small: Callable[[ElasticBackbone, TrainingStage], nn.Module]
    stages: StagesSpec
    kwargs: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    batch: int = 2

    def build(self, seed: int = 0, **changes: Any) -> ElasticBackbone:
        """An elastic backbone in eval mode, every weight drawn at random.

        Args:
            seed: The seed of the weights.
            changes: Arguments in place of the case's.
        """
        torch.manual_seed(seed)
        kwargs = {'training_stages': self.stages, **self.kwargs, **changes}
        return randomized(self.elastic(**kwargs))

    def build_plain(self, seed: int = 0) -> nn.Module:
        """The plain network, with the same weights for the same seed."""
        torch.manual_seed(seed)
        own = set() if self.plain is self.elastic else self.elastic.own_arguments()
        return randomized(self.plain(**{k: v for k, v in self.kwargs.items() if k not in own}))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of images that the backbone is built for."""
        size = self.kwargs['img_size']
        return size if isinstance(size, tuple) else (size, size)

    @property
    def other_size(self) -> tuple[int, int]:
        """Height and width of images that it is not built for."""
        height, width = (n + 3 * n // 8 // 4 * 4 for n in self.size[::-1])
        return height, width

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the whole network is compared with the plain class."""
        return torch.float64 if self.tolerance else torch.float32

    def images(self, batch: int | None = None, seed: int = 1) -> Tensor:
        """Random images.

        Args:
            batch: The number of images; the case's if None.
            seed: The seed of their pixels.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch or self.batch, 3, *self.size, generator=generator)


def randomized(model: Model) -> Model:
    """Draws what is zero or one at the start too, so that nothing is equal by accident."""
    for param in model.parameters():
        param.data.add_(0.1 * torch.randn_like(param))
    model.eval()
    return model
