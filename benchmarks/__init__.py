# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Programs that measure; each file says how it is called."""
