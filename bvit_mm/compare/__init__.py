# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Comparing ways to spend a budget: methods -> runs -> records -> tables.

A *method* changes a config, a *run* trains what it makes of it, a *record* keeps what a run spent
and reached. ``tools/compare.py`` is its command line; nothing else of the package needs it.
"""

from .ablations import ABLATIONS
from .methods import METHODS, Method
from .records import (
    Record,
    by_setting,
    paired_difference,
    pareto_front,
    read_metric,
    read_records,
    spread,
)
from .tables import tables

__all__ = [
    'ABLATIONS',
    'METHODS',
    'Method',
    'Record',
    'by_setting',
    'paired_difference',
    'pareto_front',
    'read_metric',
    'read_records',
    'spread',
    'tables',
]
