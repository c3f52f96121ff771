# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The configs of this repository, and what they plan."""

import functools

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.overrides import TorchFunctionMode

from bvit_mm.compare.runs import run_config
from bvit_mm.cost import plan_of_config
from bvit_mm.elastic import find_backbone

from .tools import ROOT


class Undrawn(TorchFunctionMode):
    """Networks that are only counted need no weights: drawing them takes most of the time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0]
        return function(*args, **(kwargs or {}))


@functools.cache
def read(path):
    """A config that builds, its plan, and the number of its model's parameters."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with Undrawn():
        model, plan = MODELS.build(cfg.model), plan_of_config(cfg)[0]
    assert find_backbone(model).is_whole
    return cfg, plan, sum(p.numel() for p in model.parameters())


FOLDER = ROOT / 'configs' / 'transfer'
CONFIGS = sorted(p for p in FOLDER.glob('*/*.py') if p.parent.name != '_base_')


def row(config, *values):
    """Parameters of a test that builds the model of a config; detectors need mmcv's operators."""
    marks = pytest.mark.ops if 'mask-rcnn' in str(config) else ()
    return pytest.param(config, *values, marks=marks)


def planned(file, method, share, single_labels=False):
    """The plan of a config under a method, and the full cost of the config itself."""
    cfg = Config.fromfile(file)
    if single_labels:  # instead of mixed ones
        cfg.model.train_cfg, cfg.model.head.loss = None, dict(type='CrossEntropyLoss')
    full = plan_of_config(cfg)[0].full_cost
    cfg = run_config(cfg, method, share, full, seed=0)
    return *plan_of_config(cfg), full, cfg
