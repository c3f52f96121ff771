# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How much heads, hidden units and tokens repeat each other; the core does not know it."""
