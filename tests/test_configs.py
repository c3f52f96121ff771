# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Every config parses, builds and has the plan that it names."""

import re

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, TRANSFORMS

from bvit_mm import RandomResizedCrop
from bvit_mm.compare import METHODS
from bvit_mm.config_types import builds
from bvit_mm.cost import plan_of_config
from bvit_mm.loading.plain import plain_pipeline

from .support.configs import planned, read
from .support.scripts import load_script
from .support.tools import ROOT

CONFIGS = sorted(p for p in ROOT.glob('configs/*/*.py') if p.parent.name != '_base_')
# GFLOPs of DeiT-T, S, B, PVTv2-b2-linear and Swin-S, each in three training stages.
TABLE_6 = [
    *(0.1961, 0.5248, 1.2584),
    *(0.6901, 1.9048, 4.6083),
    *(2.5716, 7.2306, 17.5827),
    *(0.7952, 1.7881, 3.9098),
    *(1.3180, 3.6430, 8.7686),
]
# Batches of authors that are other than 1024.
OWN_BATCH = {
    'etpp': 4096,
    'cswin-tiny': 2048,
    'cswin-small': 2048,
    'convnext': 4096,
    'poolformer': 4096,
    't2t-vit': 512,
}
every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


def test_there_are_configs():
    assert len(CONFIGS) >= 55


@every_config
def test_config_builds(path):
    cfg, _, _ = read(path)
    for hook in cfg.custom_hooks:
        HOOKS.build(hook)
    for scheduler in cfg.param_scheduler:
        assert PARAM_SCHEDULERS.get(scheduler.type)
        assert 'end' not in scheduler or scheduler.type == 'LinearLR'  # else not the budget's
    assert 'bvit_mm' in cfg.custom_imports.imports


@every_config
def test_name_says_budget_and_batch(path):
    cfg, plan, _ = read(path)
    budget = re.search(r'-b(\d+)(?:-paper|-short)?(?:_|$)', path.stem)
    if budget:
        share = int(budget[1]) / 100
        assert 0.98 * share < plan.cost / plan.full_cost <= share + 1e-9
    batch = re.search(r'_(\d+)xb(\d+)_in1k', path.stem)
    if batch:
        own = next((n for name, n in OWN_BATCH.items() if name in path.stem), 1024)
        assert int(batch[1]) * int(batch[2]) == own
        assert cfg.auto_scale_lr.base_batch_size == int(batch[1]) * int(batch[2])
        assert cfg.train_dataloader.batch_size == int(batch[2])


@pytest.mark.parametrize(
    'name, epochs',
    [
        ('deit/deit-small_bvit-b100-paper_4xb256', (86, 105, 243)),
        ('deit/deit-small_bvit-b75-paper_4xb256', (55, 55, 193)),
        ('deit/deit-small_bvit-b50-paper_4xb256', (49, 71, 113)),
        ('deit/deit-small_bvit-b25-paper_4xb256', (29, 49, 50)),
        ('deit/deit-small_cosine-b50_4xb256', (150,)),
        ('deit/deit-small_linear-b50_4xb256', (150,)),
        ('deit/deit-small_rex-b50_4xb256', (150,)),
        ('deit/deit-small_bvit-table11-random_4xb256', (75, 100, 125)),
        ('pvtv2/pvtv2-b2-linear_bvit-b100-paper_8xb128', (65, 87, 246)),
        ('pvtv2/pvtv2-b2-linear_bvit-b75-paper_8xb128', (51, 118, 160)),
        ('pvtv2/pvtv2-b2-linear_bvit-b50-paper_8xb128', (25, 27, 132)),
        ('pvtv2/pvtv2-b2-linear_bvit-b25-paper_8xb128', (27, 28, 56)),
        ('pvtv2/pvtv2-b2-linear_cosine-b50_8xb128', (150,)),
        ('pvtv2/pvtv2-b2-linear_linear-b50_8xb128', (150,)),
        ('pvtv2/pvtv2-b2-linear_rex-b50_8xb128', (150,)),
        ('swin/swin-small_bvit-b100-paper_16xb64', (38, 124, 242)),
        ('swin/swin-small_bvit-b75-paper_16xb64', (42, 123, 167)),
        ('swin/swin-small_bvit-b50-paper_16xb64', (41, 42, 126)),
        ('swin/swin-small_bvit-b25-paper_16xb64', (29, 35, 55)),
        ('swin/swin-small_cosine-b50_16xb64', (150,)),
        ('swin/swin-small_linear-b50_16xb64', (150,)),
        ('swin/swin-small_rex-b50_16xb64', (150,)),
    ],
)
def test_schedules_of_the_paper(name, epochs):
    _, plan, _ = read(ROOT / f'configs/{name}_in1k.py')
    assert plan.epochs == epochs


@pytest.mark.parametrize(
    'name, drop_path, warm_up_epochs, clip, sampler',
    [
        ('deit/deit-small_bvit-b100_4xb256', 0.1, 5, None, 'RepeatAugSampler'),
        ('pvtv2/pvtv2-b2-linear_bvit-b100_8xb128', 0.1, 5, None, 'RepeatAugSampler'),
        ('swin/swin-small_bvit-b100_16xb64', 0.3, 20, dict(max_norm=5.0), 'DefaultSampler'),
    ],
)
def test_recipe_is_the_models_own(name, drop_path, warm_up_epochs, clip, sampler):
    cfg = Config.fromfile(ROOT / f'configs/{name}_in1k.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert optimizer.lr == pytest.approx(5e-4 * 1024 / 512)
    assert optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.get('clip_grad') == clip
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.eta_min) == (warm_up_epochs, warm_up_epochs, 1e-5)
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [
        ('Mixup', 0.8),
        ('CutMix', 1.0),
    ]
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment = steps['bvit_mm.RandAugment']
    assert (augment.num_policies, augment.magnitude_level, augment.magnitude_std) == (2, 9, 0.5)
    assert steps['RandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler.type == sampler


@pytest.mark.parametrize(
    'name, source, rate, warm_up_epochs, clip, hooks',
    [
        *(
            (f'{name}_in1k', f'{re.sub("_bvit-b[0-9]+", "", name)}_in1k', *others)
            for name, *others in (
                ('convnext/convnext-tiny_bvit-b25_32xb128', 4e-3, 20, None, ['EMAHook']),
                ('convnext/convnext-small_bvit-b50_32xb128', 4e-3, 20, None, ['EMAHook']),
                ('poolformer/poolformer-s12_bvit-b50_32xb128', 4e-3, 20, dict(max_norm=5.0), []),
                ('t2t_vit/t2t-vit-t-14_bvit-b50_8xb64', 5e-4, 10, None, ['EMAHook']),
            )
        ),
        *(
            (
                f'swinv2/swinv2-{network}_bvit-b{budget}_16xb64_in1k-256px',
                f'swin_transformer_v2/swinv2-{network}_16xb64_in1k-256px',
                *(1e-3, 20, None, []),
            )
            for network, budget in (('tiny-w8', 75), ('small-w8', 50), ('tiny-w16', 50))
        ),
    ],
)
def test_recipe_is_mmpretrains(name, source, rate, warm_up_epochs, clip, hooks):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    own = get_config(f'mmpretrain::{source}.py')
    optimizer, source_optimizer = (c.optim_wrapper.optimizer.to_dict() for c in (cfg, own))
    assert (optimizer['lr'], optimizer['weight_decay']) == (rate, 0.05)
    assert without_scope([optimizer]) == without_scope([source_optimizer])
    assert cfg.optim_wrapper.get('clip_grad') == clip
    assert [hook.type for hook in cfg.custom_hooks] == ['bvit_mm.StageSwitchHook', *hooks]
    for ours, theirs in zip(cfg.custom_hooks[1:], own.get('custom_hooks', []), strict=True):
        assert without_scope([ours]) == without_scope([theirs])
    assert [s.end for s in cfg.param_scheduler[:1]] == [warm_up_epochs]
    warm_up, cosine = cfg.param_scheduler
    assert cosine.begin == warm_up_epochs
    for ours, theirs in zip((warm_up, cosine), own.param_scheduler):
        for key in ('type', 'start_factor', 'eta_min'):
            assert ours.get(key) == theirs.get(key)
    kept = (
        'arch',
        'num_layers',
        'layer_cfgs',
        't2t_cfg',
        'drop_path_rate',
        'window_size',
        'init_cfg',
    )
    for key in kept:
        assert cfg.model.backbone.get(key) == own.model.backbone.get(key)
    assert cfg.model.head == own.model.head and cfg.model.get('neck') == own.model.get('neck')
    assert cfg.model.get('train_cfg') == own.model.get('train_cfg')
    assert cfg.auto_scale_lr.base_batch_size == own.auto_scale_lr.base_batch_size


@pytest.mark.parametrize(
    'equivalent_epochs, share', [(100, 0.325), (150, 0.487), (200, 0.650), (300, 0.974)]
)
def test_efficient_train_costs(equivalent_epochs, share):
    """A tenth at r pixels has E / 10 x (224 / r)^2 epochs; its authors' code rounds ten of them."""
    _, plan, _ = read(ROOT / 'configs/deit/deit-small_etpp-b33_8xb512_in1k.py')
    pixels = [96] * 2 + [160] * 4 + [192] * 2 + [224] * 2
    epochs = [int(equivalent_epochs * (224 / r) ** 2 + 1e-9) / 10 for r in pixels]
    cost = sum(c * n for c, n in zip(plan.gflops, epochs))
    assert cost / plan.full_cost == pytest.approx(share, abs=5e-4)
    if equivalent_epochs == 100:  # those of the config are near them
        assert plan.epochs == pytest.approx(epochs, rel=0.05)


@pytest.mark.parametrize(
    'name, start, drop_path, warm_up_epochs',
    [
        ('deit/deit-small_etpp', 'deit/deit-small_bvit-b100_4xb256', 0.05, 55 + 56),
        ('deit/deit-small_etpp-grow', 'deit/deit-small_bvit-b100_4xb256', 0.05, 191 + 191),
        ('swin/swin-small_etpp', 'swin/swin-small_bvit-b100_16xb64', 0.15, 20),
        ('swin/swin-small_etpp-grow', 'swin/swin-small_bvit-b100_16xb64', 0.15, 20),
    ],
)
def test_efficient_train_is_its_authors(name, start, drop_path, warm_up_epochs):
    """Batch, rate, clipping, drop path and warm-up; stages and recipes are the method's."""
    cfg, plan, _ = read(ROOT / f'configs/{name}-b33_8xb512_in1k.py')
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay) == (
        4e-3,
        0.05,
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=5.0)
    assert cfg.model.backbone.drop_path_rate == drop_path
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.eta_min) == (warm_up_epochs, warm_up_epochs, 1e-6)
    if name.startswith('deit'):  # a fifth of the budget
        assert warm_up_epochs == sum(plan.epochs[:2])
    method = METHODS['etpp-grow' if name.endswith('grow') else 'etpp']
    _, backbone, _, made = planned(ROOT / f'configs/{start}_in1k.py', method, 0.33)
    assert plan_of_config(cfg)[1].training_stages == backbone.training_stages
    assert cfg.custom_hooks == made.custom_hooks
    for key in ('shares', 'schedule', 'alpha', 'seed'):
        assert cfg.train_cfg[key] == made.train_cfg[key]
    for loader in (cfg.train_dataloader, made.train_dataloader):
        assert loader.sampler.type == 'DefaultSampler' and loader.sampler.shuffle


def test_short_recipes():
    """The growing network and its baseline are trained alike."""
    ours, theirs = (
        read(ROOT / f'configs/deit/deit-small_{name}-b25-short_4xb256_in1k.py')[0]
        for name in ('bvit', 'rex')
    )
    assert ours.train_dataloader == theirs.train_dataloader
    assert ours.model.train_cfg == theirs.model.train_cfg
    assert ours.model.train_cfg.augments == [dict(type='Mixup', alpha=0.2)]
    assert [cfg.model.backbone.drop_path_rate for cfg in (ours, theirs)] == [0.1 * 0.25] * 2
    assert theirs.model.backbone.training_stages is None
    steps = {step.type: step for step in ours.train_dataloader.dataset.pipeline}
    assert steps['bvit_mm.RandAugment'].magnitude_level == 5
    assert list(steps)[-1] == 'PackInputs' and 'RandomErasing' not in steps
    assert ours.train_dataloader.sampler.type == 'DefaultSampler'


@pytest.mark.parametrize(
    'name, source',
    [
        ('deit/deit-small_bvit-b100_4xb256', 'deit/deit-small_4xb256'),
        ('pvtv2/pvtv2-b2-linear_bvit-b100_8xb128', 'swin_transformer/swin-small_16xb64'),
        ('swin/swin-small_bvit-b100_16xb64', 'swin_transformer/swin-small_16xb64'),
        ('convnext/convnext-tiny_bvit-b100_32xb128', 'convnext/convnext-tiny_32xb128'),
        ('poolformer/poolformer-s12_bvit-b50_32xb128', 'poolformer/poolformer-s12_32xb128'),
        ('t2t_vit/t2t-vit-t-14_bvit-b50_8xb64', 't2t_vit/t2t-vit-t-14_8xb64'),
        ('swinv2/swinv2-tiny-w8_bvit-b50_16xb64', 'swin_transformer_v2/swinv2-tiny-w8_16xb64'),
    ],
)
def test_pipelines_are_mmpretrains_but_for_the_kernel(name, source):
    end = '_in1k-256px.py' if 'swinv2' in name else '_in1k.py'
    cfg = Config.fromfile(ROOT / f'configs/{name}{end}')
    own = get_config(f'mmpretrain::{source}{end}')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        ours, theirs = (each[loader].dataset.pipeline for each in (cfg, own))
        (resize,) = (step for step in ours if 'Resize' in step.type)
        assert builds(resize, TRANSFORMS, RandomResizedCrop) == (loader == 'train_dataloader')
        assert resize.type.startswith('bvit_mm.') and resize.interpolation == 'bicubic'
        assert without_scope(plain_pipeline(ours)) == without_scope(theirs)


def without_scope(steps):
    return [{key: value for key, value in step.items() if key != '_scope_'} for step in steps]


def test_page_of_tables_is_what_its_command_writes(built_once):
    """And every cost that is not said to be an error is the printed one to 0.1 %."""
    page = load_script(ROOT / '.dev_scripts' / 'paper_tables.py').page()
    assert page == (ROOT / 'docs' / 'tables.md').read_text()
    wrong = re.findall(r'^\| \*\*(.+?)\*\* \|', page, flags=re.M)
    assert wrong == [
        't_k = 1 - s_k [86, 63, 35]',
        'M + N',
        'N + C',
        'N only',
        'ours, 75 % [50, 50, 200]',
        'ours, 50 % [100, 100, 100]',
        'ours, 25 % [150, 100, 50]',
    ]
    gflops = re.findall(r'\| (?:[\d.]+|) \| ([\d.]+\.\d{4}) \|$', page, flags=re.M)
    assert [float(n) for n in gflops] == pytest.approx(TABLE_6, abs=2e-4)
