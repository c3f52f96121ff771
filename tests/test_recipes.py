# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Recipes: stages that differ in how they are trained, and the door for one more setter."""

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS

from bvit_mm.cost import plan_of_config
from bvit_mm.publish.network import publish
from bvit_mm.recipe_setters import SETTERS, Setter
from bvit_mm.recipes import Recipes
from bvit_mm.wrapped import unwrapped

from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, build, config
from .support.trainings import log_of, refused, resume
from .support.variants import EVERY_ITERATION

SMALL = dict(heads=1, hidden=12, grid=4)
SAME = {'model.backbone.training_stages': [SMALL, {}, {}]}
MIXED = dict(augments=[dict(type='CutMix', alpha=1.0)])


def with_recipes(*recipes, hooks=(), **options):
    switch = dict(type='bvit_mm.StageSwitchHook', recipes=list(recipes), **options)
    return {**SAME, 'custom_hooks': [switch, *hooks]}


@HOOKS.register_module(force=True)
class SeeRecipeHook(Hook):
    """Writes down what each iteration is trained with."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = unwrapped(runner.model)
        augments = model.data_preprocessor.batch_augments
        names = None if augments is None else [type(a).__name__ for a in augments.augments]
        stage = runner.train_loop.stage
        self.seen.append((stage, names, model.backbone.drop_after_pos.p))


SEE = dict(type='SeeRecipeHook')


@MODELS.register_module(force=True)
class NoMixing(ClsDataPreprocessor):
    """Gets images ready, and mixes none."""

    def __init__(self, batch_augments=None, **kwargs):
        super().__init__(**kwargs)
        del self.batch_augments

    def forward(self, data, training=False):
        self.batch_augments = None
        try:
            return super().forward(data, training)
        finally:
            del self.batch_augments


@pytest.fixture
def drop_rate(monkeypatch):
    """One more setter: what it builds, reads and writes."""

    def build_rate(value):
        if not 0 <= value < 1:
            raise ValueError(f'drop_rate={value} must be in [0, 1)')
        return float(value)

    def layer(runner):
        return unwrapped(runner.model).backbone.drop_after_pos

    setter = Setter(
        build_rate,
        lambda runner: layer(runner).p,
        lambda runner, rate: setattr(layer(runner), 'p', rate),
    )
    monkeypatch.setitem(SETTERS, 'drop_rate', setter)


def trained(tmp_path, changes):
    runner = build(tmp_path, **changes)
    runner.train()
    return runner, next(h for h in runner.hooks if isinstance(h, SeeRecipeHook)).seen


def test_stages_that_differ_in_their_recipe_only(tmp_path, drop_rate):
    """They cost the same; what a recipe leaves out is as the config says; all of it is whole."""
    recipes = {}, dict(batch_augments=MIXED, drop_rate=0.25), dict(batch_augments=None)
    runner, seen = trained(tmp_path, with_recipes(*recipes, hooks=[SEE]))
    per_stage = 2 * BATCHES
    assert seen[:per_stage] == [(0, ['Mixup'], 0.0)] * per_stage
    assert seen[per_stage:-per_stage] == [(1, ['CutMix'], 0.25)] * per_stage
    assert seen[-per_stage:] == [(2, None, 0.0)] * per_stage
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert plan.gflops[1] == plan.gflops[2] and ledger.cost == pytest.approx(plan.cost)
    log = log_of(runner)
    assert 'grid (4, 4) -> (8, 8), another batch_augments, another drop_rate, GFLOPs' in log
    assert 'training stage 3 of 3 begins: another batch_augments, another drop_rate, GFLOPs' in log
    for name in ('stage_2.pth', 'epoch_6.pth'):
        stage = 2 if name == 'stage_2.pth' else None
        published = publish(str(tmp_path / name), stage=stage)
        assert published.backbone.whole.heads == 3


def test_equal_recipes_are_none(tmp_path):
    """Bit for bit."""
    plain = {'custom_hooks': [dict(type='bvit_mm.StageSwitchHook'), SEE]}
    build(tmp_path / 'plain', **plain).train()
    switch = dict(type='bvit_mm.StageSwitchHook', recipes=[{}, {}, {}])
    build(tmp_path / 'empty', custom_hooks=[switch, SEE]).train()
    assert_same_run(last_file(tmp_path / 'plain'), last_file(tmp_path / 'empty'))


def test_resumed_with_the_recipe_of_its_stage(tmp_path, drop_rate):
    """Before, at and after a change, also from one whole stage to the other."""
    recipes = {}, dict(batch_augments=MIXED, drop_rate=0.25), dict(batch_augments=None)
    changes = {**with_recipes(*recipes, hooks=[SEE]), **EVERY_ITERATION}
    whole = tmp_path / 'whole'
    build(whole, **changes).train()
    for at in (2, 2 * BATCHES, 2 * BATCHES + 1, 4 * BATCHES, 5 * BATCHES + 1):
        assert_same_run(resume(tmp_path / str(at), whole, at, changes), last_file(whole))


@pytest.mark.parametrize(
    'recipes, message',
    [
        ({}, 'recipes={} of StageSwitchHook must be a list of dicts'),
        ([dict(momentum=1)], r"stage 1: recipe {'momentum': 1} of Sta.* a dict of \['batch_aug"),
        ([{}, 3], r'training stage 2: recipe 3 of StageSwitchHook must be a dict'),
        (
            [{}, dict(batch_augments='Mixup')],
            r"stage 2: batch_augments='Mixup' of .*give a dict such",
        ),
        ([dict(batch_augments=dict(foo=1))], r"stage 1: batch_augments={'foo': 1} .*TypeError"),
    ],
)
def test_recipes_that_are_none(recipes, message):
    with pytest.raises(ValueError, match=message):
        Recipes(recipes)


@pytest.mark.parametrize(
    'recipes, message',
    [
        ([], r'training stage 3: heads=3, hidden=48, grid=8 is the same as training stage 2; drop'),
        ([{}, {}, {}], 'is the same as training stage 2; drop one'),
        ([{}, dict(batch_augments=None)], 'recipes of StageSwitchHook are 2, but there are 3'),
    ],
)
def test_stages_that_do_not_differ_are_refused(tmp_path, recipes, message):
    """Before anything is built or read; by tools/plan.py too."""
    changes = with_recipes(*recipes)
    refused(tmp_path / 'run', message, **changes)
    with pytest.raises(ValueError, match=message):
        plan_of_config(config(tmp_path, **changes))


def test_models_that_mix_no_images_are_refused(tmp_path):
    """Before anything is trained."""
    changes = with_recipes({}, {}, dict(batch_augments=MIXED))
    changes['model.data_preprocessor'] = dict(_delete_=True, type='NoMixing', num_classes=4)
    message = 'recipes of StageSwitchHook change batch_augments, which this run does not have'
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **changes).train()


def test_gradient_matching_refuses_recipes_that_mix(tmp_path):
    sampler = dict(_delete_=True, type='bvit_mm.SubsetSampler', share=0.5)
    match = dict(type='bvit_mm.SubsetHook', selection='gradmatch', interval=2, batch_size=2)
    changes = with_recipes({}, dict(batch_augments=MIXED), {}, hooks=[match])
    changes |= {
        'model.train_cfg': None,
        'model.head.loss': dict(_delete_=True, type='CrossEntropyLoss'),
        'train_dataloader.sampler': sampler,
    }
    message = 'recipes of StageSwitchHook mix them .batch_augments.; leave that out'
    refused(tmp_path, message, **changes)


def test_gradient_matching_refuses_recipes_with_losses(tmp_path):
    """It weighs the samples in the loss that a run begins with."""
    match = dict(type='bvit_mm.SubsetHook', selection='gradmatch', interval=2, batch_size=2)
    changes = with_recipes({}, dict(loss=dict(type='CrossEntropyLoss')), {}, hooks=[match])
    changes |= {
        'model.train_cfg': None,
        'model.head.loss': dict(_delete_=True, type='CrossEntropyLoss'),
        'train_dataloader.sampler': dict(_delete_=True, type='bvit_mm.SubsetSampler', share=0.5),
    }
    refused(tmp_path, r'StageSwitchHook change it \(loss\); leave that out', **changes)


def test_mixing_needs_labels_that_can_be_mixed(tmp_path):
    """Else mmpretrain's preprocessor would mix nothing, without a word."""
    changes = {**with_recipes({}, {}, dict(batch_augments=MIXED)), 'model.train_cfg': None}
    with pytest.raises(ValueError, match=r'mix labels, .*; give dict.to_onehot=True, num_'):
        build(tmp_path / 'run', **changes).train()
    assert not (tmp_path / 'run' / 'plan.json').exists()
    changes['model.data_preprocessor.to_onehot'] = True
    _, seen = trained(tmp_path / 'mixed', {**changes, **with_hooks(changes, SEE)})
    assert [names for _, names, _ in seen[:: 2 * BATCHES]] == [None, None, ['CutMix']]


def with_hooks(changes, *hooks):
    return {'custom_hooks': [*changes['custom_hooks'], *hooks]}


def test_recipes_under_the_flexible_runner(tmp_path):
    """It builds the loop before the model; the recipes are there all the same."""
    recipes = {}, {}, dict(batch_augments=None)
    cfg = config(tmp_path, experiment_name='recipes', **with_recipes(*recipes, hooks=[SEE]))
    left = ('launcher', 'env_cfg', 'resume', 'load_from')
    cfg.model.backbone.training_stages = 3
    runner = FlexibleRunner(**{k: v for k, v in cfg.items() if k not in left}, cfg=cfg)
    runner.train()
    seen = next(h for h in runner.hooks if isinstance(h, SeeRecipeHook)).seen
    assert [names for _, names, _ in seen[:: 2 * BATCHES]] == [['Mixup'], ['Mixup'], None]
