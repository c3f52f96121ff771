# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What training on a share of the data costs, and selecting it (docs/baselines.md).

Pure Python, as the planner is. Costs are in epochs on all data.
"""

import math
from typing import Any

from ..options import at_least, check_epochs
from ..plan import Charge

# Looking at all data once: a forward pass, where training is a forward and a backward pass of
# twice its cost.
SELECTION_COST = 1 / 3


def selection_charge(interval: int) -> Charge:
    """What is paid every ``interval`` epochs for looking at all data to select some of it.

    The data of the first epochs is drawn at random, because a network that has learned nothing
    has nothing to say about it.
    """
    return Charge(
        'selection',
        interval,
        SELECTION_COST,
        purpose='selecting it',
        advice=(
            ', and give the sampler the share of bvit_mm.subset_share(budget, full_epochs, '
            'interval)'
        ),
    )


def subset_share(
    budget: float, full_epochs: int = 300, interval: int = 20, count_selection: bool = True
) -> float:
    """The share of the data with which ``full_epochs`` epochs cost a budget, selections included.

    Args:
        budget: A share of the cost of ``full_epochs`` on all data, in (0, 1].
        full_epochs: Epochs, of the whole budget as of the run on a share of the data.
        interval: Epochs from one selection to the next.
        count_selection: Whether selections count; the paper's Table 10 leaves them out.

    Raises:
        ValueError: If there is no such share, because selections alone cost more.
    """
    for name, value in (('full_epochs', full_epochs), ('interval', interval)):
        check_epochs(name, value)
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise ValueError(f'budget={budget!r} must be a share of the full cost, above 0 and up to 1')
    if not count_selection:
        return float(budget)
    selections = len(selection_charge(interval).before(full_epochs))
    cost = selections * SELECTION_COST
    if budget * full_epochs <= cost:
        enough = math.nextafter(cost / full_epochs, math.inf)
        longer = next(
            i
            for i in range(interval + 1, full_epochs + 1)
            if len(selection_charge(i).before(full_epochs)) * SELECTION_COST < budget * full_epochs
        )
        raise ValueError(
            f'budget={budget} of {full_epochs} epochs is {budget * full_epochs:.4g} epochs on all '
            f'data, and {selections} selections alone cost {cost:.4g}; give a budget of at least '
            f'{at_least(enough, 4)}, an interval of at least {longer}, or count_selection=False'
        )
    return budget - cost / full_epochs


def check_share(share: Any) -> float:
    """Raises ValueError unless it is a share of the data."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(
            f'share={share!r} of train_dataloader.sampler must be above 0 and up to 1, '
            'such as 0.1 for a tenth of the data'
        )
    return float(share)
