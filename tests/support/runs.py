# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A real Runner on tiny data, for the tests of loop and hook."""

import copy
import functools
import os
import signal

import mmengine.runner.runner
import torch
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import Dataset

import bvit_mm  # noqa: F401  registers

from . import cases

# mmengine lays out the config with yapf for each checkpoint: half of the time of a run this small.
yapf.yapflib.yapf_api.FormatCode = lambda text, style_config: (text, True)
# For each it also starts git, to ask for the commit of the working directory.
mmengine.runner.runner.get_git_hash = functools.cache(mmengine.runner.runner.get_git_hash)
# And for each run the compiler, to ask for its version.
mmengine.runner.runner.collect_env = functools.cache(mmengine.runner.runner.collect_env)
# Without a GPU torch keeps each seed for one, with the stack of calls: half a millisecond.
if not torch.cuda.is_available():
    for name in ('cuda', 'xpu', 'mtia'):
        if hasattr(torch, name):  # torch 2.1 has not all of them
            getattr(torch, name).manual_seed_all = lambda seed: None

EPOCHS = [2, 2, 2]
BATCHES = 5  # an epoch; odd, so that accumulation over 2 straddles epochs

# Changes of the config that make the backbone another family's.
FAMILIES = {name: case.run_changes() for name, case in cases.FAMILIES.items()}


@MODELS.register_module()
class MeanTokens(nn.Module):
    """A neck for backbones that return all their tokens."""

    def forward(self, features):
        return (*features[:-1], features[-1].mean(1))


@DATASETS.register_module()
class TinyDataset(Dataset):
    """Random images of 4 classes, each with noise drawn when it is read."""

    metainfo = dict(classes=list('abcd'))

    def __init__(self, pipeline=(), noise=0.1, size=(16, 16), number=4 * BATCHES):
        self.pipeline = pipeline  # for published configs, which say how to read an image
        self.noise = noise
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(number, 3, *size, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index] + self.noise * torch.randn(self.images.shape[1:])
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 4))


@HOOKS.register_module()
class KillHook(Hook):
    """Kills the process at an iteration, as a full disk or a queue would: without a word."""

    priority = 'VERY_LOW'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def config(work_dir, **changes):
    """The config of a run; changes as of ``Config.merge_from_dict``."""
    loader = dict(
        dataset=dict(type='TinyDataset'),
        batch_size=4,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            experiment_name='tiny',
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(num_classes=4, mean=[0.0] * 3, std=[1.0] * 3),
                backbone=dict(
                    type='bvit_mm.ElasticVisionTransformer',
                    arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
                    img_size=16,
                    patch_size=2,
                    drop_path_rate=0.2,
                    training_stages=3,
                ),
                head=dict(
                    type='VisionTransformerClsHead',
                    num_classes=4,
                    in_channels=24,
                    loss=dict(type='CrossEntropyLoss', use_soft=True),
                ),
                train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]),
                init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.1)],
            ),
            train_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=True)),
            val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='Accuracy'),
            train_cfg=dict(type='bvit_mm.BudgetedTrainLoop', epochs=EPOCHS),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
                dict(type='bvit_mm.REXLR', begin=1, convert_to_iter_based=True),
            ],
            custom_hooks=[dict(type='bvit_mm.StageSwitchHook')],
            default_hooks=dict(
                timer=dict(type='IterTimerHook'),
                logger=dict(type='LoggerHook', interval=1),
                param_scheduler=dict(type='ParamSchedulerHook'),
                checkpoint=dict(type='CheckpointHook', interval=1),
                sampler_seed=dict(type='DistSamplerSeedHook'),
            ),
            randomness=dict(seed=0),
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
            visualizer=dict(
                type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
            ),
            log_level='INFO',
        )
    )
    cfg.merge_from_dict(copy.deepcopy(changes))
    return cfg


def build(work_dir, **changes):
    """A Runner of ``config``, with a name of its own so that many can live in one process."""
    build.count += 1
    return Runner.from_cfg(config(work_dir, experiment_name=f'tiny{build.count}', **changes))


build.count = 0


def train(work_dir, changes):
    """What a process does that a test starts."""
    torch.set_num_threads(1)
    Runner.from_cfg(config(work_dir, **changes)).train()
