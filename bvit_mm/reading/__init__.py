# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Files from elsewhere: weights and configs are read as data, never as programs."""
