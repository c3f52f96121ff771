# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images resized by torch's kernel, which computes what Pillow's does in a fraction of the time.

Each transform is its original in mmpretrain or mmcv but for the kernel. It draws the same random
numbers in the same order. 99 % of the values are within 2 of 255 of Pillow's.
"""

from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import Resize as PlainResize
from mmpretrain.datasets import RandomResizedCrop as PlainRandomResizedCrop
from mmpretrain.datasets import ResizeEdge as PlainResizeEdge
from torch.nn.functional import interpolate

from ..registry import TRANSFORMS

INTERPOLATIONS = ('bilinear', 'bicubic')  # those that torch has an antialiased kernel for

Box = tuple[int, int, int, int]


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """An image of another size, antialiased where it shrinks, as Pillow does it.

    Args:
        image: Height x width, or height x width x channels; uint8 or a float type. It may be a
            part of another.
        size: Height and width in pixels.
        interpolation: ``'bilinear'`` or ``'bicubic'``.
    """
    if min(image.strides) < 0:  # flipped, which torch cannot view
        image = image.copy()
    # A view. Height x width x channels is what torch calls channels_last, its fastest layout; it
    # looks at the strides, so the axis of images must be the first before the others move.
    pixels = torch.from_numpy(image.reshape(1, *image.shape[:2], -1)).permute(0, 3, 1, 2)
    made = interpolate(pixels, size, mode=interpolation, antialias=True)
    return np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy()).reshape(*size, *image.shape[2:])


def check_kernel(name: str, interpolation: str, backend: str) -> None:
    """Raises ValueError unless torch has the kernel that a transform is to resize with."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"bvit_mm.{name}: interpolation={interpolation!r} must be 'bilinear' or 'bicubic', "
            f'which torch computes antialiased; for others give {name} without bvit_mm'
        )
    if backend != 'torch':
        raise ValueError(
            f"bvit_mm.{name}: backend={backend!r} must be left out. It resizes with torch's "
            f"kernel, as backend='pillow' does but faster; for others give {name} without bvit_mm"
        )


@TRANSFORMS.register_module()
class RandomResizedCrop(PlainRandomResizedCrop):
    """Random crops resized to one size: mmpretrain's, with torch's kernel.

    Args:
        scale: Height and width of the images that are made, or one number for both, in pixels.
        interpolation: ``'bilinear'`` or ``'bicubic'``; antialiased.
        backend: ``'torch'``.
        **kwargs: Of mmpretrain's ``RandomResizedCrop``.

    Raises:
        ValueError: If torch has no such kernel.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        interpolation: str = 'bilinear',
        backend: str = 'torch',
        **kwargs: Any,
    ) -> None:
        check_kernel('RandomResizedCrop', interpolation, backend)
        super().__init__(scale, interpolation=interpolation, backend=backend, **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = self.make(results['img'], self.rand_crop_params(results['img']))
        results.update(img=image, img_shape=image.shape)
        return results

    def make(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The image of size ``scale`` that a box of an image becomes.

        Args:
            image: All that was loaded.
            box: Top, left, height and width of the crop, in pixels.
        """
        top, left, height, width = box
        crop = image[top : top + height, left : left + width]
        return resized(crop, tuple(self.scale), self.interpolation)


@TRANSFORMS.register_module()
class ResizeEdge(PlainResizeEdge):
    """Images resized so that one edge has a length: mmpretrain's, with torch's kernel.

    Args:
        scale: Length of the edge in pixels.
        edge: ``'short'``, ``'long'``, ``'width'`` or ``'height'``.
        backend: ``'torch'``.
        interpolation: ``'bilinear'`` or ``'bicubic'``; antialiased.

    Raises:
        ValueError: If torch has no such kernel.
    """

    def __init__(
        self,
        scale: int,
        edge: str = 'short',
        backend: str = 'torch',
        interpolation: str = 'bilinear',
    ) -> None:
        check_kernel('ResizeEdge', interpolation, backend)
        super().__init__(scale, edge, backend, interpolation)

    def _resize_img(self, results: dict[str, Any]) -> None:
        results.update(_with_factors(results['img'], results['scale'], self.interpolation))
        results['scale'] = results['img'].shape[1::-1]


@TRANSFORMS.register_module()
class Resize(PlainResize):
    """Images resized to a size or by a factor: mmcv's, with torch's kernel.

    Boxes, keypoints and segmentation maps follow as there.

    Args:
        scale, scale_factor, keep_ratio, clip_object_border: Of mmcv's ``Resize``.
        backend: ``'torch'``.
        interpolation: ``'bilinear'`` or ``'bicubic'``; antialiased.

    Raises:
        ValueError: If torch has no such kernel.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = 'torch',
        interpolation: str = 'bilinear',
    ) -> None:
        check_kernel('Resize', interpolation, backend)
        super().__init__(scale, scale_factor, keep_ratio, clip_object_border, 'cv2', interpolation)

    def _resize_img(self, results: dict[str, Any]) -> None:
        image, size = results.get('img'), results['scale']
        if image is None:
            return
        if self.keep_ratio:
            size = mmcv.rescale_size(image.shape[1::-1], size)
        results.update(_with_factors(image, size, self.interpolation))
        results['keep_ratio'] = self.keep_ratio


def _with_factors(image: np.ndarray, size: tuple[int, int], interpolation: str) -> dict[str, Any]:
    """What a pipeline knows of an image that is resized to a width and height."""
    width, height = size
    made = resized(image, (height, width), interpolation)
    factors = (width / image.shape[1], height / image.shape[0])
    return dict(img=made, img_shape=made.shape[:2], scale_factor=factors)
