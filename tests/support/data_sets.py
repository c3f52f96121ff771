# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Data sets besides ``runs.TinyDataset``."""

import torch
from mmengine.registry import DATASETS
from mmpretrain.structures import DataSample

from .runs import TinyDataset

SIZE = 16  # that the backbones of ``runs.FAMILIES`` are built for


@DATASETS.register_module(force=True)
class SizedDataset(TinyDataset):
    """Images of a height and width that a hook may change."""

    def __init__(self, size=(SIZE, SIZE), noise=0.1):
        super().__init__(noise=noise)
        self.size = tuple(size)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, *self.size, generator=generator)
        image += self.noise * torch.randn(image.shape)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 4))


class Untouched:
    """A dataset that fails the test if anyone builds it."""

    def __init__(self):
        raise AssertionError('data was read')
