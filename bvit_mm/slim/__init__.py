# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Slimming: the heads and hidden units that a trained network needs, for a budget of FLOPs."""
