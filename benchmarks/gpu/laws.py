# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Laws of backbones whose sums a GPU makes in another order: they hold to rounding."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from bvit_mm.elastic import ElasticBackbone
from bvit_mm.testing import LAWS, Case
from bvit_mm.testing.closeness import tolerance
from tests.support.cases import CASES

from .sizes import Size

# Forward and backward of a network. Others ask for the same bits of what is only copied, which
# does not depend on where it is.
CHECKED = (
    'whole_network_equals_plain_class',
    'stage_equals_small_network',
    'inactive_units_get_exactly_zero_gradients',
    'half_growth_preserves_the_function',
)
PRECISIONS = (torch.float32, torch.float64)


@dataclass
class Placed(Case):
    """A case on a device; its whole network is compared in a precision, to rounding."""

    device: str = 'cpu'
    precision: torch.dtype = torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """The precision."""
        return self.precision

    def build(self, seed: int = 0, **changes: Any) -> ElasticBackbone:
        return super().build(seed, **changes).to(self.device)

    def build_plain(self, seed: int = 0) -> nn.Module:
        return super().build_plain(seed).to(self.device)

    def images(self, batch: int | None = None, seed: int = 1) -> Tensor:
        return super().images(batch, seed).to(self.device)


def placed(case: Case, device: str, precision: torch.dtype) -> Placed:
    """A case on a device."""
    values = {each.name: getattr(case, each.name) for each in fields(Case)}
    values['small'] = lambda backbone, stage: case.small(backbone, stage).to(device)
    values['tolerance'] = tolerance(precision, passes=3)
    return Placed(**values, device=device, precision=precision)


def laws(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A row for each network: the laws that it breaks, with what they say."""
    torch.backends.cudnn.allow_tf32 = False  # it rounds to ten bits
    for case in CASES:
        if case.name in size.cases:
            broken = {
                f'{name} in {precision}': str(error)
                for precision in PRECISIONS
                for name, error in _broken(placed(case, device, precision)).items()
            }
            yield dict(case=case.name, ok=not broken, broken=broken)


def _broken(case: Placed) -> dict[str, Exception]:
    broken = {}
    for name, check in LAWS.items():
        if name.startswith(CHECKED):
            try:
                check(case)
            except Exception as error:  # a forward that fails breaks the law as well
                broken[name] = error
    return broken
