# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a run knows of its slimming: which units to keep when the time has come."""

from typing import Any

from mmengine.runner import Runner

from ..cost import classifier_flops
from ..elastic import ElasticBackbone
from ..wrapped import unwrapped
from .hook import SlimHook
from .phases import read_slimming, units_to_keep


class Slimmer:
    """Searches and cuts in a run of ``BudgetedTrainLoop``, which has it do so.

    A run that searches with gates gets a ``SlimHook``, unless it has one.

    Args:
        runner: The runner.
        given: ``train_cfg.slim``; None, and nothing is done.
    """

    def __init__(self, runner: Runner, given: Any) -> None:
        self._runner, self._slimming = runner, read_slimming(given)
        has_hook = any(isinstance(hook, SlimHook) for hook in runner.hooks)
        if self._slimming is not None and self._slimming.scores == 'gates' and not has_hook:
            runner.register_hook(SlimHook(self._slimming.heads, self._slimming.hidden))

    def units_to_keep(self, backbone: ElasticBackbone) -> list[tuple[int, ...]]:
        """Those of each module, best first, by what the gates have learned."""
        if self._slimming is None:
            raise ValueError(
                'these weights are of a run with train_cfg.slim, which this run does not have; '
                'give it as it was'
            )
        classifier = classifier_flops(unwrapped(self._runner.model))
        return units_to_keep(backbone, self._slimming, classifier)
