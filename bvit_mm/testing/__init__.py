# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The laws of elastic backbones (docs/laws.md), to be called for any backbone.

``check_backbone(Case(...))`` needs no test framework. ``LAWS`` has each law by its name, for
suites that report them one by one.
"""

from . import slim_laws as slim_laws
from .case import Case
from .laws import LAWS, broken_laws, check_backbone

__all__ = ['LAWS', 'Case', 'broken_laws', 'check_backbone']
