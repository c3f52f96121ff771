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
from .runner import Comparison, ComparisonError
from .runs import Run, plan_runs
from .settings import Settings
from .tables import markdown_tables

__all__ = [
    'ABLATIONS',
    'METHODS',
    'Comparison',
    'ComparisonError',
    'Method',
    'Record',
    'Run',
    'Settings',
    'by_setting',
    'markdown_tables',
    'paired_difference',
    'pareto_front',
    'plan_runs',
    'read_metric',
    'read_records',
    'spread',
]
