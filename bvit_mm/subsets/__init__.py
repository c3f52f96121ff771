# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Baselines that train on less data; the core does not know them.

The run asks their sampler what an epoch costs and their hook what it charges (``cost``).
"""
