# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Plans and ledgers as earlier versions wrote them, read as those of today."""

from typing import Any

SELECTION_SHARE = 1 / 3  # what selecting data was charged, of an epoch


def plan_of_today(saved: dict[str, Any]) -> dict[str, Any]:
    """A plan's ``as_dict``, whichever version wrote it."""
    if 'data_share' not in saved:
        return saved
    values = {k: v for k, v in saved.items() if k not in ('data_share', 'selection_interval')}
    interval = saved['selection_interval']
    charge = dict(name='selection', interval=interval, share=SELECTION_SHARE)
    return dict(
        values, epoch_share=saved['data_share'], charges=[] if interval is None else [charge]
    )


def ledger_of_today(saved: dict[str, Any]) -> dict[str, Any]:
    """A ledger's ``as_dict``, whichever version wrote it."""
    values = {k: v for k, v in saved.items() if k not in ('data_share', 'selection')}
    if 'data_share' in saved:
        values.update(epoch_share=saved['data_share'])
    if saved.get('selection'):
        values.update(charges=dict(selection=saved['selection']))
    return values
