# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The transforms that data sets send their samples through, as objects.

What is changed in a pipeline is changed in a copy: the one that it came from stays as it is.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from mmpretrain.datasets.transforms import RandAugment, RandomErasing

Pipelines = list[Any]  # of each data set that a loader reads
Kind = TypeVar('Kind')

SIZES = re.compile(r'resiz|crop|pad', re.IGNORECASE)  # transforms that give images a size
KEEPS_RATIO = 'ResizeEdge'


def data_sets(dataset: Any) -> list[Any]:
    """The data sets with a pipeline, in what wraps them (concatenated, repeated, a part of one)."""
    if hasattr(dataset, 'pipeline'):
        return [dataset]
    if hasattr(dataset, 'datasets'):
        return [found for each in dataset.datasets for found in data_sets(each)]
    return data_sets(dataset.dataset) if hasattr(dataset, 'dataset') else []


def transforms_of(pipeline: Any) -> Iterator[Any]:
    """All transforms of a pipeline, in order, also those within others."""
    parts = getattr(pipeline, 'transforms', pipeline)
    if isinstance(parts, (list, tuple)):
        for each in parts:
            if not isinstance(each, (list, tuple)):
                yield each
            yield from transforms_of(each)
    elif parts is not pipeline:
        yield from transforms_of(parts)


def check_replacement(own: Any, pipeline: Any) -> None:
    """Raises ValueError if a pipeline lacks a step that every batch needs and ``own`` has."""
    if not any(map(_packs, transforms_of(pipeline))) and any(map(_packs, transforms_of(own))):
        raise ValueError(
            "packs no samples as the model takes them; let it end with dict(type='PackInputs')"
        )
    if not any(map(_sizes, transforms_of(pipeline))) and any(map(_sizes, transforms_of(own))):
        raise ValueError(
            'has no step that gives all images one size, as the pipeline of the data set has, so '
            "they could not be put into batches; add dict(type='RandomResizedCrop', scale=...) "
            'or such'
        )


def with_magnitude(pipelines: Pipelines, level: float) -> Pipelines:
    """Copies whose ``RandAugment``s are as if built with another ``magnitude_level``.

    Raises:
        ValueError: If one of them has none, or fewer levels.
    """
    pipelines = copy.deepcopy(pipelines)
    for augment in _each(pipelines, RandAugment):
        if level > augment.total_level:
            raise ValueError(
                f'is {level}, but RandAugment has total_level={augment.total_level}; give '
                f'0..{augment.total_level}'
            )
        RandAugment.__init__(
            augment,
            policies=augment.policies,
            num_policies=augment.num_policies,
            magnitude_level=level,
            magnitude_std=augment.magnitude_std,
            total_level=augment.total_level,
            hparams=augment.hparams,
        )
    return pipelines


def with_erasing(pipelines: Pipelines, probability: float) -> Pipelines:
    """Copies whose ``RandomErasing``s erase with another probability.

    Raises:
        ValueError: If one of them has none.
    """
    pipelines = copy.deepcopy(pipelines)
    for erasing in _each(pipelines, RandomErasing):
        erasing.erase_prob = probability
    return pipelines


def _each(pipelines: Sequence[Any], kind: type[Kind]) -> list[Kind]:
    """The transforms of a class, of which each pipeline must have some."""
    found = []
    for pipeline in pipelines:
        some = [each for each in transforms_of(pipeline) if isinstance(each, kind)]
        if not some:
            names = ', '.join(map(_name, transforms_of(pipeline)))
            raise ValueError(
                f'changes {kind.__name__}, but the training pipeline of this stage has none '
                f'({names or "it is empty"}); leave it out, or give train_pipeline with one'
            )
        found += [each for each in some if each not in found]
    return found


def _name(transform: Any) -> str:
    """The name of its class; wrappers keep those that they wrap as configs."""
    return str(transform.get('type')) if isinstance(transform, dict) else type(transform).__name__


def _packs(transform: Any) -> bool:
    return _name(transform).startswith('Pack')


def _sizes(transform: Any) -> bool:
    name = _name(transform)
    keeps_ratio = getattr(transform, 'keep_ratio', False) or name.endswith(KEEPS_RATIO)
    return bool(SIZES.search(name)) and not keeps_ratio
