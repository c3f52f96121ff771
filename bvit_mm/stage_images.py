# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images made in the data workers as a training stage sees them, so that nothing is made in vain.

Small images are augmented, packed and sent in less time. Scaled images are made at once from the
crop. Of cropped stages the image is made whole, as ever, and cut to its center before anything else
is done with it; that is the same only if all that follows treats each pixel by itself.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import Compose, RandomFlip
from mmengine.dataset import Compose as PlainCompose
from mmengine.runner import Runner
from mmengine.utils import to_2tuple
from mmpretrain.datasets import transforms
from mmpretrain.models import ImageClassifier
from mmpretrain.models.utils.batch_augments import Mixup, RandomBatchAugment
from torch import nn

from .elastic import ElasticBackbone, find_backbone
from .loading.resizing import RandomResizedCrop, Resize
from .pipelines import Pipelines, data_sets, transforms_of
from .recipe_setters import SETTERS, Write
from .wrapped import unwrapped

PIPELINES, AUGMENTS = SETTERS['train_pipeline'], SETTERS['batch_augments']
CONTAINERS = (Compose, PlainCompose)
MAKERS = (RandomResizedCrop, Resize)  # of images of one size

# What treats each pixel by itself, wherever it lies.
BY_PIXEL: tuple[type, ...] = (
    RandomFlip,
    transforms.PackInputs,
    transforms.Lighting,
    transforms.Brightness,
    transforms.ColorTransform,
    transforms.Invert,
    transforms.Posterize,
    transforms.Solarize,
    transforms.SolarizeAdd,
)
# What measures lengths in shares of the image.
BY_SHARE: tuple[type, ...] = (
    *BY_PIXEL,
    transforms.AutoAugment,
    transforms.AutoContrast,
    transforms.ColorJitter,
    transforms.Contrast,
    transforms.Equalize,
    transforms.RandAugment,
    transforms.RandomErasing,
    transforms.Rotate,
    transforms.Sharpness,
    transforms.Shear,
    transforms.Translate,
)


def at_stage_size(
    pipelines: Pipelines,
    backbone: ElasticBackbone,
    k: int,
    augments: RandomBatchAugment | None = None,
) -> Pipelines:
    """Copies of pipelines that make images as training stage ``k`` sees them.

    Args:
        pipelines: Of the training data, in that stage.
        backbone: The backbone.
        k: Training stage, 0-based; one that does not see the whole image as it is.
        augments: How its batches are mixed.

    Raises:
        ValueError: If they cannot; the text completes "images come whole from the data workers:".
    """
    view = backbone.view(k)
    if view == 'crop':
        conv = backbone.patch_conv()
        kernel, stride, padding = map(to_2tuple, (conv.kernel_size, conv.stride, conv.padding))
        if kernel != stride or any(padding):
            raise ValueError('patches overlap, so the outermost need what lies around them')
        mixing = augments.augments if isinstance(augments, RandomBatchAugment) else []
        if augments is not None and not isinstance(augments, RandomBatchAugment):
            raise ValueError(f'{type(augments).__name__} may need the whole image')
        for each in (each for each in mixing if type(each) is not Mixup):  # others derive from it
            raise ValueError(f'{type(each).__name__} of batch_augments needs the whole image')
    return [_with_size(each, backbone, k, view) for each in pipelines]


def _with_size(pipeline: Any, backbone: ElasticBackbone, k: int, view: str) -> Any:
    steps: Sequence[Any] = getattr(pipeline, 'transforms', ())
    places = [i for i, step in enumerate(steps) if isinstance(step, MAKERS)]
    if not places:
        raise ValueError(
            'train_pipeline has neither bvit_mm.RandomResizedCrop nor bvit_mm.Resize, which make '
            'smaller ones'
        )
    place = places[-1]
    allowed, what = (BY_SHARE, 'small') if view == 'scale' else (BY_PIXEL, 'cropped')
    for step in transforms_of(steps[place + 1 :]):
        if isinstance(step, CONTAINERS):  # whose steps come next
            continue
        if not isinstance(step, allowed):
            raise ValueError(
                f'{type(step).__name__} of train_pipeline does otherwise with {what} images'
            )
    maker = copy.deepcopy(steps[place])
    if (size := _size_of(maker)) != tuple(backbone.img_size):
        raise ValueError(
            f'{type(maker).__name__} of train_pipeline makes images of {size}, but '
            f'img_size={tuple(backbone.img_size)} is what the stages are for'
        )
    made, seen = copy.copy(pipeline), backbone.seen_size(k)
    then = []
    if view == 'crop':
        then = [transforms.CenterCrop(seen[::-1])]
    else:
        maker.interpolation = 'bicubic'  # as the backbone scales
        maker.scale = seen if isinstance(maker, RandomResizedCrop) else seen[::-1]
    made.transforms = [*steps[:place], maker, *then, *steps[place + 1 :]]
    return made


def _size_of(maker: RandomResizedCrop | Resize) -> tuple[int, int] | None:
    """Height and width of the images that it makes; None if they differ."""
    if isinstance(maker, RandomResizedCrop):
        return maker.scale[0], maker.scale[1]
    if maker.keep_ratio or maker.scale is None:
        return None
    return maker.scale[1], maker.scale[0]


def load_views(
    runner: Runner, stages: Sequence[dict[Write, Any]], own: Mapping[Write, Any]
) -> dict[Write, Any]:
    """Lets data workers make images as each training stage sees them, where they can.

    The log says of which stages they do, and why not of the others.

    Args:
        runner: The runner.
        stages: What each stage trains with, by what writes it, where that is not ``own``. Of those
            whose images are made so it gets a pipeline of its own.
        own: What the run trains with otherwise, where any stage changes it.

    Returns:
        What else the run trains with otherwise.
    """
    backbone, dataset = find_backbone(runner.model), runner.train_dataloader.dataset
    partial = [k for k in range(len(stages)) if _sees_part(backbone, k)]
    if not partial or not data_sets(dataset):
        return {}
    pipelines = own[PIPELINES.write] if PIPELINES.write in own else PIPELINES.read(runner)
    model = unwrapped(runner.model)
    preprocessor = model.data_preprocessor
    augments = own.get(AUGMENTS.write, getattr(preprocessor, 'batch_augments', None))
    for k in partial:
        place = f'training stage {k + 1} of {len(stages)}'
        given = stages[k].get(PIPELINES.write, pipelines)
        try:
            _check_alone(model, backbone.seen_size(k))
            made = at_stage_size(given, backbone, k, stages[k].get(AUGMENTS.write, augments))
        except ValueError as reason:
            if backbone.view(k) == 'scale' or _has_maker(given):
                runner.logger.info(f'{place}: images come whole from the data workers: {reason}')
            continue
        stages[k].update({PIPELINES.write: made, write_loads_views: True})
        height, width = backbone.seen_size(k)
        runner.logger.info(f'{place}: data workers make images of {height}x{width} pixels')
    return {PIPELINES.write: pipelines, write_loads_views: False}


def _check_alone(model: nn.Module, size: tuple[int, int]) -> None:
    """Raises ValueError if something besides the backbone may look at images, or changes them."""
    if not isinstance(model, ImageClassifier):
        raise ValueError(f'{type(model).__name__} may use them elsewhere than in its backbone')
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', None) or 1
    if any(n % divisor for n in size):
        raise ValueError(f'pad_size_divisor={divisor} of data_preprocessor would pad smaller ones')


def write_loads_views(runner: Runner, loads_views: bool) -> None:
    """Tells the backbone whether data workers make images as the training stage sees them."""
    find_backbone(runner.model).loads_views = loads_views


def _sees_part(backbone: ElasticBackbone, k: int) -> bool:
    return 'view' in backbone.whole.keys and backbone.view(k) != 'whole'


def _has_maker(pipelines: Pipelines) -> bool:
    return any(isinstance(step, MAKERS) for each in pipelines for step in transforms_of(each))
