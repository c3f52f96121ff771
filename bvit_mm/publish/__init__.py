# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""From a training checkpoint to what is handed on; the core does not know it."""
