# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images from files to the network's size, fast enough for a network that shrinks."""
