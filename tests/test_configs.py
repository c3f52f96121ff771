# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Every config parses, builds and has the plan that it names."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, init_default_scope

from bvit_mm.cost import find_backbone, plan_of_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob('configs/*/*.py'))
every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


def test_there_are_configs():
    assert len(CONFIGS) >= 18


@every_config
def test_config_builds(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert find_backbone(model).is_whole
    for hook in cfg.custom_hooks:
        HOOKS.build(hook)
    for scheduler in cfg.param_scheduler:
        assert PARAM_SCHEDULERS.get(scheduler.type)
        assert 'end' not in scheduler or scheduler.type == 'LinearLR'  # else not the budget's
    assert 'bvit_mm' in cfg.custom_imports.imports


@every_config
def test_name_says_budget_and_batch(path):
    cfg = Config.fromfile(path)
    plan, _ = plan_of_config(cfg)
    budget = re.search(r'-b(\d+)', path.stem)
    if budget:
        share = int(budget[1]) / 100
        assert 0.98 * share < plan.cost / plan.full_cost <= share + 1e-9
    batch = re.search(r'_(\d+)xb(\d+)_in1k', path.stem)
    if batch:
        assert int(batch[1]) * int(batch[2]) == 1024
        assert cfg.train_dataloader.batch_size == int(batch[2])


@pytest.mark.parametrize(
    'name, epochs',
    [
        ('deit-small_bvit-b100-paper', (86, 105, 243)),
        ('deit-small_bvit-b75-paper', (55, 55, 193)),
        ('deit-small_bvit-b50-paper', (49, 71, 113)),
        ('deit-small_bvit-b25-paper', (29, 49, 50)),
        ('deit-small_cosine-b50', (150,)),
        ('deit-small_linear-b50', (150,)),
        ('deit-small_rex-b50', (150,)),
        ('deit-small_bvit-table11-random', (75, 100, 125)),
    ],
)
def test_schedules_of_the_paper(name, epochs):
    plan, _ = plan_of_config(Config.fromfile(ROOT / f'configs/deit/{name}_4xb256_in1k.py'))
    assert plan.epochs == epochs


def test_recipe_is_deits_own():
    cfg = Config.fromfile(ROOT / 'configs/deit/deit-small_bvit-b100_4xb256_in1k.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert optimizer.lr == pytest.approx(5e-4 * 1024 / 512)
    assert optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.get('clip_grad') is None
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.eta_min) == (5, 5, 1e-5)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [
        ('Mixup', 0.8),
        ('CutMix', 1.0),
    ]
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment = steps['RandAugment']
    assert (augment.num_policies, augment.magnitude_level, augment.magnitude_std) == (2, 9, 0.5)
    assert steps['RandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
