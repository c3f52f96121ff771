# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What recipes may change, each against the class that was built so; and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import DropPath
from mmengine.registry import DATASETS, init_default_scope
from mmpretrain.datasets.transforms import RandAugment, RandomErasing
from mmpretrain.models.losses import CrossEntropyLoss
from mmpretrain.registry import MODELS
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from bvit_mm.cost import plan_of_config
from bvit_mm.drop_path import drop_paths, rates_of, set_rates, with_rate
from bvit_mm.pipelines import data_sets, transforms_of, with_erasing, with_magnitude
from bvit_mm.recipes import Recipes

from .support.cases import CASES
from .support.piped_data import (
    AUGMENT,
    MIXED,
    OTHER,
    PIPELINE,
    RECIPES,
    SMOOTH,
    PipedDataset,
    piped,
)
from .support.runs import build, config
from .support.trainings import refused

SMALL = [case for case in CASES if case.batch > 1]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


# Drop path.


def rates_in(network):
    return [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]


def plain(case, rate):
    own = set() if case.plain is case.elastic else case.elastic.own_arguments()
    kwargs = {name: value for name, value in case.kwargs.items() if name not in own}
    return case.plain(**{**kwargs, 'drop_path_rate': rate})


@pytest.mark.parametrize('case', SMALL, ids=lambda case: case.name)
def test_drop_path_is_that_of_the_plain_class(case):
    """As built with another rate, and back again, to the last bit."""
    network = case.build(drop_path_rate=0.3)
    own, before = rates_of(network), rates_in(network)
    assert dropping(before) == dropping(rates_in(plain(case, 0.3)))
    for rate in (0.0, 0.1, 0.65):
        set_rates(network, with_rate(own, rate))
        theirs = dropping(rates_in(plain(case, rate)))
        assert dropping(rates_in(network)) == pytest.approx(theirs, abs=1e-7)
    assert with_rate(own, 0.3) is own
    set_rates(network, own)
    assert rates_in(network) == before
    blocks = [len(block) for block in drop_paths(network)]
    assert sum(blocks) == len(before) - len(outside(network))


def dropping(rates):
    """Those above 0: where nothing is dropped, some plain classes have no ``DropPath``."""
    return [rate for rate in rates if rate]


def outside(network):
    """Drop paths before the blocks, as in the network that makes the tokens of T2T-ViT."""
    return [n for n, m in network.named_modules() if isinstance(m, DropPath) and '.attention' in n]


def test_drop_path_of_networks_that_have_none():
    with pytest.raises(ValueError, match='was built without any DropPath; leave it out'):
        rates_of(nn.Sequential(nn.Linear(2, 2)))
    uneven = nn.ModuleList(nn.Sequential(DropPath(rate)) for rate in (0.0, 0.3, 0.4))
    with pytest.raises(ValueError, match=r'have rates of their own \(0, 0.3, 0.4\); leave it out'):
        rates_of(uneven)
    within = nn.ModuleList([nn.ModuleDict(dict(a=DropPath(0.0), b=DropPath(0.1)))])
    with pytest.raises(ValueError, match='have rates of their own'):
        rates_of(within)


# Pipelines.


def numbers_of(transform):
    return {name: value for name, value in vars(transform).items() if name != 'transforms'}


def assert_same_augment(ours, theirs):
    assert numbers_of(ours) == numbers_of(theirs)
    for mine, other in zip(ours.transforms, theirs.transforms, strict=True):
        assert type(mine) is type(other) and numbers_of(mine) == numbers_of(other)


@settings(max_examples=20, deadline=None)
@given(
    own=st.floats(0, 10),
    level=st.one_of(st.floats(0, 10), st.integers(0, 10)),
    std=st.sampled_from([0.0, 0.5, 'inf']),
    policies=st.sampled_from(['timm_increasing', AUGMENT['policies']]),
)
def test_magnitude_is_that_of_randaugment_built_so(own, level, std, policies):
    """Of whatever was built before, which stays as it is."""
    init_default_scope('mmpretrain')

    def built(level):
        return RandAugment(policies, 2, magnitude_level=level, magnitude_std=std)

    before = built(own)
    (augment,) = transforms_of_kind(with_magnitude([[before]], level)[0], RandAugment)
    assert_same_augment(augment, built(level))
    assert_same_augment(before, built(own))


def transforms_of_kind(pipeline, kind):
    return [each for each in transforms_of(pipeline) if isinstance(each, kind)]


@pytest.mark.parametrize('level', [0, 3, 10])
def test_images_are_augmented_as_by_randaugment_built_so(level):
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    options = dict(policies='timm_increasing', num_policies=2, magnitude_std=0.5)
    (ours,) = with_magnitude([[RandAugment(magnitude_level=9, **options)]], level)[0]
    theirs = RandAugment(magnitude_level=level, **options)
    images = []
    for augment in (ours, theirs):
        np.random.seed(1)
        images.append([augment(dict(img=image.copy()))['img'] for _ in range(20)])
    assert np.array_equal(*images)


def test_transforms_within_others_are_found():
    pipeline = PipedDataset(
        [dict(type='RandomApply', transforms=[AUGMENT, PIPELINE[2]], prob=0.5), PIPELINE[3]]
    ).pipeline
    (changed,) = with_erasing(with_magnitude([pipeline], 2), 1)
    assert transforms_of_kind(changed, RandAugment)[0].magnitude_level == 2
    assert transforms_of_kind(changed, RandomErasing)[0].erase_prob == 1
    assert transforms_of_kind(pipeline, RandAugment)[0].magnitude_level == 9
    assert transforms_of_kind(pipeline, RandomErasing)[0].erase_prob == 0.25


def test_data_sets_are_found_in_what_wraps_them():
    one, two = PipedDataset(), PipedDataset()
    wrapped = Subset(ConcatDataset([Subset(one, range(2)), two]), range(9))
    assert data_sets(wrapped) == [one, two] and data_sets(range(3)) == []


@DATASETS.register_module(force=True)
class Joined(ConcatDataset):
    """Two data sets, of which one erases only."""

    metainfo = PipedDataset.metainfo

    def __init__(self):
        super().__init__([PipedDataset(), PipedDataset([*PIPELINE[:1], *PIPELINE[2:]])])


def test_each_of_several_data_sets_gets_its_own_pipeline_back(tmp_path):
    """mmpretrain's hook would leave them all with one."""
    data = dict(_delete_=True, type='Joined')
    recipes = [dict(train_pipeline=OTHER), dict(erasing=0.5), {}]
    runner = build(tmp_path, **{**piped(recipes=recipes), 'train_dataloader.dataset': data})
    switch = next(hook for hook in runner.hooks if getattr(hook, 'recipes', None))
    found = data_sets(runner.train_loop.dataloader.dataset)
    before = [each.pipeline for each in found]
    switch.recipes.read(runner)
    assert [each.pipeline for each in found] == before
    with switch.recipes.during(runner, 0):
        assert found[0].pipeline is found[1].pipeline is not before[0]
    with switch.recipes.during(runner, 1):
        kept = [[type(t).__name__ for t in each.pipeline.transforms] for each in found]
        assert kept == [[type(t).__name__ for t in each.transforms] for each in before]
        assert [transforms_of_kind(e.pipeline, RandomErasing)[0].erase_prob for e in found] == [
            0.5
        ] * 2
    assert [each.pipeline for each in found] == before


# Costs.


def test_stages_of_equal_shape_cost_the_same(tmp_path):
    """Whatever their recipes are; and a run of them is planned."""
    recipes = [{}, {**RECIPES[0], **RECIPES[1], 'magnitude': 2, 'train_pipeline': PIPELINE}, {}]
    changes = {**piped(recipes=recipes), 'model.backbone.training_stages': [{}, {}, {}]}
    plan, _ = plan_of_config(config(tmp_path, **changes))
    assert plan.gflops[0] == plan.gflops[1] == plan.gflops[2]


# What is refused when a config is read.


@pytest.mark.parametrize(
    'recipe, message',
    [
        (dict(grid=4), r'grid belongs to training_stages of the backbone'),
        (dict(view='scale'), r'view belongs to training_stages of the backbone'),
        (
            dict(num_classes=5),
            r'num_classes belongs to model.head, which all training stages share',
        ),
        (dict(head=dict()), r'head belongs to model.head'),
        (dict(metric='acc'), r'metric belongs to val_evaluator of the config: all training stages'),
        (dict(lr=1), r"recipe {'lr': 1} of StageSwitchHook must be a dict of \['batch_augments', "),
        (
            dict(magnitude=-1),
            r'magnitude=-1 of .* give a level of RandAugment, from 0 to its total',
        ),
        (dict(magnitude=True), 'give a level of RandAugment'),
        (dict(magnitude=float('nan')), 'give a level of RandAugment'),
        (dict(erasing=1.5), r'erasing=1.5 of .* give a probability, 0 to 1'),
        (dict(drop_path_rate=1), r'drop_path_rate=1 of .* give a rate, at least 0 and below 1'),
        (dict(drop_path_rate='0.1'), "drop_path_rate='0.1' of .* give a rate"),
        (dict(loss='CrossEntropyLoss'), r"loss='CrossEntropyLoss' of .* give a dict such as"),
        (
            dict(loss=dict(type='NoLoss')),
            r"loss={'type': 'NoLoss'} of .* cannot be built .KeyError",
        ),
        (dict(train_pipeline=[]), r'train_pipeline=\[\] of .* give a list of transforms'),
        (dict(train_pipeline=dict(type='Resize')), 'give a list of transforms'),
        (dict(train_pipeline=[dict(type='NoTransform')]), r'cannot be built .KeyError: .*NoTransf'),
        (
            dict(train_pipeline=[dict(type='RandomErasing', erase_prob=2.0)]),
            r"train_pipeline=\[{'type': 'RandomErasing', 'erase_prob': 2.0}\] .* cannot be built",
        ),
    ],
)
def test_recipes_that_cannot_be(recipe, message):
    with pytest.raises(ValueError, match=f'^training stage 2: .*{message}'):
        Recipes([{}, recipe])


# What is refused before a run, because of its data or its model.


class Remembers(CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))


MODELS.register_module(name='RemembersLoss', module=Remembers, force=True)
CROP, PACK = PIPELINE[0], PIPELINE[-1]
OF_THE_RUN = [
    (dict(train_pipeline=[CROP]), 'packs no samples as the model takes them; let it end with'),
    (
        dict(train_pipeline=[AUGMENT, PACK]),
        'has no step that gives all images one size, as the pip',
    ),
    (
        dict(train_pipeline=[dict(type='ResizeEdge', scale=16), PACK]),
        'has no step that gives all images one size',
    ),
    (dict(magnitude=11), r'is 11, but RandAugment has total_level=10; give 0\.\.10'),
    (
        dict(train_pipeline=OTHER, magnitude=3),
        r'changes RandAugment, but the training pipeline of this stage has none \(Resize, Random',
    ),
    (
        dict(train_pipeline=[CROP, PACK], erasing=0),
        r'changes RandomErasing, but .* has none .Random',
    ),
    (dict(loss={**SMOOTH, 'num_classes': 5}), 'is for 5 classes, but model.head has 4, in all'),
    (dict(loss=dict(type='CrossEntropyLoss', class_weight=[1.0] * 3)), 'is for 3 classes, but'),
    (dict(loss=dict(type='RemembersLoss')), 'Remembers keeps numbers from batch to'),
    (dict(loss=dict(type='SeesawLoss', num_classes=4)), 'SeesawLoss keeps numbers from batch to'),
]


@pytest.mark.parametrize('recipe, message', OF_THE_RUN)
def test_recipes_that_do_not_fit_the_run(tmp_path, recipe, message):
    (name,) = list(recipe)[-1:]
    told = f'^training stage 2: {name} of recipes of StageSwitchHook .*{message}'
    refused(tmp_path, told, **piped(recipes=[{}, recipe, {}]))


def test_data_without_pipeline(tmp_path):
    class Bare(Dataset):
        metainfo = dict(classes=list('abcd'))

        def __len__(self):
            return 20

        def __getitem__(self, index):
            raise AssertionError('data was read')

    DATASETS.register_module(name='BareDataset', module=Bare, force=True)
    for name, value in (('train_pipeline', OTHER), ('magnitude', 1), ('erasing', 0.5)):
        changes = piped(recipes=[{name: value}, {}, {}])
        changes['train_dataloader.dataset'] = dict(_delete_=True, type='BareDataset')
        message = (
            f'stage 1: {name} of .* changes the pipeline of the training data, but Bare has none'
        )
        refused(tmp_path, message, **changes)


def test_a_loss_of_the_config_that_remembers(tmp_path):
    """Checkpoints of the stage with another would lack what it counts."""
    changes = piped(recipes=[{}, dict(loss=SMOOTH), {}])
    changes |= {
        'model.train_cfg': None,
        'model.head.loss': dict(_delete_=True, type='SeesawLoss', num_classes=4),
    }
    refused(tmp_path, 'stage 2: loss of .* SeesawLoss keeps numbers', **changes)


def test_networks_with_rates_that_one_number_does_not_tell(tmp_path):
    changes = piped(recipes=[dict(drop_path_rate=0), {}, {}])
    changes['model.backbone.layer_cfgs'] = dict(drop_path_rate=0.3)
    message = r'stage 1: drop_path_rate of .* rates of their own \(0.3, 0.3\); leave it out'
    refused(tmp_path, message, **changes)


def test_batches_of_recipes_are_mixed_with_labels_that_can_be(tmp_path):
    changes = {**piped(recipes=[{}, {}, dict(batch_augments=MIXED)]), 'model.train_cfg': None}
    changes['model.head.loss'] = dict(use_soft=False)
    refused(tmp_path, 'training stage 3: batch_augments of .* mix labels', **changes)
