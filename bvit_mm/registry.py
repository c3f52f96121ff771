# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Registries of scope ``bvit_mm``, children of mmengine's roots.

Being children of the roots, not of mmpretrain's registries, lets ``type='bvit_mm.X'`` build
inside mmpretrain, mmdet and mmseg configs alike.
"""

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIMIZERS as ROOT_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as ROOT_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT_MODELS, scope='bvit_mm', locations=['bvit_mm.backbones'])
LOOPS = Registry('loop', parent=ROOT_LOOPS, scope='bvit_mm', locations=['bvit_mm.loop'])
HOOKS = Registry(
    'hook',
    parent=ROOT_HOOKS,
    scope='bvit_mm',
    locations=[
        'bvit_mm.stage_switch_hook',
        'bvit_mm.running.class_count_hook',
        'bvit_mm.analysis.hook',
        'bvit_mm.subsets.hook',
    ],
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=ROOT_DATA_SAMPLERS,
    scope='bvit_mm',
    locations=['bvit_mm.subsets.sampler'],
)
OPTIMIZERS = Registry(
    'optimizer', parent=ROOT_OPTIMIZERS, scope='bvit_mm', locations=['bvit_mm.muon']
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler',
    parent=ROOT_PARAM_SCHEDULERS,
    scope='bvit_mm',
    locations=['bvit_mm.schedulers'],
)
TRANSFORMS = Registry(
    'transform',
    parent=ROOT_TRANSFORMS,
    scope='bvit_mm',
    locations=[
        'bvit_mm.loading.augmenting',
        'bvit_mm.loading.decoding',
        'bvit_mm.loading.resizing',
    ],
)
