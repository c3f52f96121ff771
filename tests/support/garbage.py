# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Garbage is no longer looked for among what the libraries made when they were imported.

That is half a million objects: a search takes 0.3 s, about as long as a short run trains. What
tests make is searched rarely, which takes a tenth of the time of short runs.
"""

import gc


def leave_garbage_alone():
    """After imports, in processes that train."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
