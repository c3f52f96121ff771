# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A device whose memory is used up."""

import torch
from mmpretrain.models import ImageClassifier

from bvit_mm.cost import find_backbone


def allow_images(patch, images_of_last_stage):
    """Stages' activations take memory as of their FLOPs; more images than that run out.

    Args:
        patch: pytest's ``monkeypatch``.
        images_of_last_stage: How many of them fit in the last stage.
    """
    forward = ImageClassifier.loss

    def loss(self, inputs, data_samples):
        backbone = find_backbone(self)
        cost = [backbone.flops(k) for k in range(backbone.num_training_stages)]
        needed = len(inputs) * cost[backbone.training_stage] / cost[-1]
        if torch.is_grad_enabled() and needed > images_of_last_stage:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate ...')
        return forward(self, inputs, data_samples)

    patch.setattr(ImageClassifier, 'loss', loss)
