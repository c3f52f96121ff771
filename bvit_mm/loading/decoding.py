# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images that are wanted several times in a row, decoded once."""

from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile as PlainLoadImageFromFile

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(PlainLoadImageFromFile):
    """Loads images as mmcv's does, but reads one that comes again at once only the first time.

    On one GPU, repeated augmentation (``RepeatAugSampler``) gives each image three times in a row;
    two thirds of reading and decoding are saved. With three GPUs or more nothing is. Batches are
    the same, bit for bit.

    Args:
        *args, **kwargs: Of mmcv's ``LoadImageFromFile``.

    Raises:
        ValueError: If a file is damaged, or is no image.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last: tuple[tuple, np.ndarray] | None = None  # what it was made of, and the image

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        wanted = (results['img_path'], self.to_float32, self.color_type, self.imdecode_backend)
        if self._last is None or self._last[0] != wanted:
            self._last = None
            try:
                found = super().transform(results)
            except Exception as error:  # of the file system, or of any library that decodes
                reason = ' '.join(str(error).split())
                raise ValueError(
                    f'{results["img_path"]} cannot be loaded as an image ({reason}). Repair it, or '
                    'take it out; tools/resize_dataset.py copies a data set and lists such files'
                ) from error
            if found is None:  # ignore_empty
                return None
            self._last = wanted, results['img']
        image = self._last[1].copy()  # later transforms may write into it
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_last': None}  # copies, and workers that are spawned, begin anew
