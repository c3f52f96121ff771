# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The loop's servants: what a run needs besides its order, each with its own checks and state."""
