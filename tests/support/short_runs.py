# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What short runs are changed by."""

from .runs import BATCHES

ITERATIONS = 3 * BATCHES
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


def loop(**options):
    return {f'train_cfg.{name}': value for name, value in options.items()}


def budget(value, **options):
    return loop(epochs=None, budget=value, **options)
