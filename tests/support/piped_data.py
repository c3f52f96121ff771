# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Data that goes through transforms; each sample says which the process had that read it."""

import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, FUNCTIONS, HOOKS
from torch.utils.data import get_worker_info

from bvit_mm.wrapped import unwrapped

from .runs import TinyDataset

POLICIES = [
    dict(type='Rotate', magnitude_range=(0, 30)),
    dict(type='Brightness', magnitude_range=(0, 0.9)),
]
AUGMENT = dict(
    type='RandAugment', policies=POLICIES, num_policies=1, magnitude_level=9, magnitude_std=0.5
)
PIPELINE = [
    dict(type='RandomResizedCrop', scale=16),
    AUGMENT,
    dict(type='RandomErasing', erase_prob=0.25),
    dict(type='PackInputs'),
]
OTHER = [
    dict(type='Resize', scale=(16, 16)),
    dict(type='RandomErasing', erase_prob=0.5),
    dict(type='PackInputs'),
]


def described(pipeline):
    """The transforms of a pipeline, with what recipes change in them."""
    words = []
    for transform in pipeline.transforms:
        name = type(transform).__name__
        numbers = [getattr(transform, each, None) for each in ('magnitude_level', 'erase_prob')]
        words.append(' '.join([name, *(f'{n:g}' for n in numbers if n is not None)]))
    return ', '.join(words)


@DATASETS.register_module(force=True)
class PipedDataset(TinyDataset):
    """Random pictures of 4 classes."""

    def __init__(self, pipeline=PIPELINE, **kwargs):
        super().__init__(**kwargs)
        self.pipeline = Compose(pipeline)
        self.pictures = (255 * self.images.permute(0, 2, 3, 1).sigmoid()).byte().numpy()
        self.read = []  # in this process

    def __getitem__(self, index):
        sample = self.pipeline(dict(img=self.pictures[index].copy(), gt_label=index % 4))
        told = dict(made_by=described(self.pipeline), in_worker=get_worker_info() is not None)
        sample['data_samples'].set_metainfo(told)
        self.read.append(told['made_by'])
        return sample


@FUNCTIONS.register_module(force=True)
def start_worker(worker_id, **kwargs):
    """A user's own, so that seeding does not restart workers that persist."""
    torch.manual_seed(worker_id)


def made_by(data_batch):
    """What made the samples of a batch: one text."""
    (told,) = {sample.made_by for sample in data_batch['data_samples']}
    return told


@HOOKS.register_module(force=True)
class SeeDataHook(Hook):
    """Writes down, of each iteration, its stage, and how its data and its model are trained."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen, self.workers = [], set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.workers |= {sample.in_worker for sample in data_batch['data_samples']}
        self.seen.append((runner.train_loop.stage, made_by(data_batch), *of_model(runner.model)))


def of_model(model):
    """The names of what mixes images, the largest drop path, and the loss."""
    model = unwrapped(model)
    augments = model.data_preprocessor.batch_augments
    names = None if augments is None else [type(a).__name__ for a in augments.augments]
    rate = max(getattr(module, 'drop_prob', 0.0) for module in model.backbone.modules())
    return names, rate, type(model.head.loss_module).__name__


PIPED = {
    'model.data_preprocessor.mean': [127.0] * 3,
    'model.data_preprocessor.std': [64.0] * 3,
    'train_dataloader.dataset': dict(_delete_=True, type='PipedDataset'),
    'val_dataloader.dataset': dict(_delete_=True, type='PipedDataset'),
}
# Stages that see small images, made small by the data workers where the pipeline is ours.
SMALL = {
    'model.backbone.training_stages': [
        dict(heads=1, hidden=12, grid=3, view='scale'),
        dict(heads=2, hidden=24, grid=6, view='scale'),
        dict(),
    ],
    'train_dataloader.dataset': dict(
        _delete_=True,
        type='PipedDataset',
        pipeline=[dict(PIPELINE[0], type='bvit_mm.RandomResizedCrop'), *PIPELINE[1:]],
    ),
}
MIXED = dict(augments=[dict(type='CutMix', alpha=1.0)])
SMOOTH = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=4, mode='original')

# One recipe a stage: a part of the config's own pipeline, another pipeline and a part of that, and
# what the config says. And what that comes to, as SeeDataHook tells it.
RECIPES = [
    dict(magnitude=0, erasing=0, batch_augments=None, drop_path_rate=0),
    dict(train_pipeline=OTHER, erasing=0.75, batch_augments=MIXED, drop_path_rate=0.4, loss=SMOOTH),
    {},
]
EXPECTED = [
    ('RandomResizedCrop, RandAugment 0, RandomErasing 0, PackInputs', None, 0, 'CrossEntropyLoss'),
    ('Resize, RandomErasing 0.75, PackInputs', ['CutMix'], 0.4, 'LabelSmoothLoss'),
    (
        'RandomResizedCrop, RandAugment 9, RandomErasing 0.25, PackInputs',
        ['Mixup'],
        0.2,
        'CrossEntropyLoss',
    ),
]


def piped(*hooks, recipes=RECIPES, **changes):
    """Changes of the config of a run that train with recipes."""
    switch = dict(type='bvit_mm.StageSwitchHook', recipes=recipes)
    see = dict(type='SeeDataHook')
    return {**PIPED, 'custom_hooks': [switch, see, *hooks], **changes}


def seen_by(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, SeeDataHook))
