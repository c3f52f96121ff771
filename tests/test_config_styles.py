# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Every tool takes configs in each style: names as text, classes in Python, full names.

Full names are what mmengine writes of a config in Python's own style: into each ``work_dir`` and
each checkpoint.
"""

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS

import bvit_mm
from bvit_mm.compare import ABLATIONS, METHODS
from bvit_mm.config_types import builds, class_of, in_words, type_name
from bvit_mm.cost import is_budgeted, plan_of_config

from .support.files import assert_same_run, last_file
from .support.runs import build
from .support.scripts import run_tool
from .support.tools import tool

IMPORTS = """
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook
from mmengine.model import TruncNormalInit
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.visualization import LocalVisBackend
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import CrossEntropyLoss, ImageClassifier, VisionTransformerClsHead
from mmpretrain.visualization import UniversalVisualizer
from torch.optim import AdamW

from bvit_mm import ElasticVisionTransformer
from bvit_mm.stage_switch_hook import StageSwitchHook
from bvit_mm.loop import BudgetedTrainLoop
"""
# Types are marked by @.
BODY = """
default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(type=@CheckpointHook, interval=1))
visualizer = dict(type=@UniversalVisualizer, vis_backends=[dict(type=@LocalVisBackend)])
model = dict(
    type=@ImageClassifier,
    data_preprocessor=dict(mean=[33.3] * 3, std=[78.6] * 3, to_rgb=True),
    backbone=dict(
        type=@ElasticVisionTransformer,
        arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
        img_size=28,
        patch_size=4,
        training_stages=[
            dict(heads=1, hidden=12, grid=5),
            dict(heads=2, hidden=24, grid=7),
            dict(heads=3, hidden=48, grid=7),
        ],
        init_cfg=[dict(type=@TruncNormal, layer='Linear', std=0.02)],
    ),
    head=dict(
        type=@VisionTransformerClsHead,
        num_classes=10,
        in_channels=24,
        loss=dict(type=@CrossEntropyLoss),
    ),
)
pipeline = [dict(type=@LoadImageFromFile), dict(type=@PackInputs)]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    num_batch_per_epoch=4,
    sampler=dict(type=@DefaultSampler, shuffle=True),
    dataset=dict(type=@CustomDataset, data_root='DIGITS/train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    num_batch_per_epoch=2,
    sampler=dict(type=@DefaultSampler, shuffle=False),
    dataset=dict(type=@CustomDataset, data_root='DIGITS/val', pipeline=pipeline),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=@Accuracy, topk=1)
optim_wrapper = dict(type=@OptimWrapper, optimizer=dict(type=@AdamW, lr=1e-3))
param_scheduler = [
    dict(type=@LinearLR, by_epoch=False, start_factor=0.1, end=2),
    dict(type=@CosineAnnealingLR, by_epoch=False, begin=2),
]
train_cfg = dict(type=@BudgetedTrainLoop, budget=0.5, full_epochs=8)
val_cfg = test_cfg = dict()
custom_hooks = [dict(type=@StageSwitchHook)]
randomness = dict(seed=0)
"""
STYLES = ('text', 'python', 'full')


@pytest.fixture(scope='module')
def configs(tmp_path_factory, digits):
    """The file of each style."""
    folder, body = tmp_path_factory.mktemp('configs'), BODY.replace('DIGITS', str(digits))
    files = {style: folder / style / 'mine.py' for style in STYLES}  # runs are named after them
    for file in files.values():
        file.parent.mkdir()

    def name(found):
        return repr(f'bvit_mm.{found[1]}' if hasattr(bvit_mm, found[1]) else found[1])

    files['text'].write_text(
        "custom_imports = dict(imports='bvit_mm')\n" + re.sub(r'@(\w+)', name, body)
    )
    python = body.replace('@TruncNormal', '@TruncNormalInit').replace('@', '')
    files['python'].write_text(IMPORTS + python)
    Config.fromfile(files['python']).dump(files['full'])
    assert "type='bvit_mm.loop.BudgetedTrainLoop'" in files['full'].read_text()
    return files


@pytest.fixture(scope='module')
def trained(tmp_path_factory, configs):
    """The work_dir of a run of each style, made when it is asked for."""
    made = {}

    def work_dir(style):
        if style not in made:
            made[style] = tmp_path_factory.mktemp(style)
            tool('train', configs[style], '--work-dir', made[style], cwd=made[style])
        return made[style]

    return work_dir


def end_of(work_dir):
    """The last checkpoint of a run."""
    return Path((work_dir / 'last_checkpoint').read_text())


@pytest.fixture
def here(capsys):
    """Runs a tool in this process; what it printed."""

    def run(name, *args):
        capsys.readouterr()
        run_tool(name, *args)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize('style', STYLES)
def test_types_are_known(configs, style):
    cfg = Config.fromfile(configs[style])
    assert is_budgeted(cfg)
    assert builds(cfg.custom_hooks[0], HOOKS, bvit_mm.StageSwitchHook)
    assert not builds(cfg.default_hooks.checkpoint, HOOKS, bvit_mm.StageSwitchHook)
    assert class_of(cfg.model.backbone, MODELS) is bvit_mm.ElasticVisionTransformer
    names = [type_name(scheduler).rpartition('.')[2] for scheduler in cfg.param_scheduler]
    assert names == ['LinearLR', 'CosineAnnealingLR']


def test_classes_in_words():
    """Also of configs that were made in Python, which mmengine writes down without quotes."""
    cfg = dict(a=[dict(type=bvit_mm.REXLR, n=1)], b=(shared_function, 'x', None))
    with pytest.raises(NameError):
        Config.fromstring(Config(dict(a=cfg['a'])).pretty_text, file_format='.py')
    words = in_words(cfg)
    assert words['a'] == [dict(type='bvit_mm.schedulers.REXLR', n=1)]
    assert words['b'] == (f'{__name__}.shared_function', 'x', None)
    assert class_of(words['a'][0], PARAM_SCHEDULERS) is bvit_mm.REXLR
    with pytest.raises(
        ValueError, match='lambda> cannot be written into a config; define it at the'
    ):
        in_words([dict(type=lambda: 1)])


def shared_function():
    """A function that a config names."""


def test_checkpoints_hold_classes_in_words(tmp_path):
    """Of a Runner whose config holds classes: what publishing reads."""
    runner = build(
        tmp_path, **{'train_cfg.epochs': [1, 0, 1], 'train_cfg.type': bvit_mm.BudgetedTrainLoop}
    )
    runner.train()
    text = last_file(tmp_path)['meta']['cfg']
    assert is_budgeted(Config.fromstring(text, file_format='.py'))


def test_derived_classes_and_what_is_no_class():
    class Mine(bvit_mm.BudgetedTrainLoop):
        pass

    assert is_budgeted(Config(dict(train_cfg=dict(type=Mine))))
    for config in (None, [], dict(), dict(type=None), dict(type='Nowhere'), dict(type='a.b.C')):
        assert class_of(config, HOOKS) is None
        assert not builds(config, HOOKS, bvit_mm.StageSwitchHook)
    for scheduler in (dict(type='ConstantLR'), dict(type='mmengine.ConstantLR')):
        assert class_of(scheduler, PARAM_SCHEDULERS).__name__ == 'ConstantLR'


@pytest.mark.parametrize('style', STYLES)
def test_plan(configs, here, style):
    plan = json.loads(here('plan', configs[style], '--json', '--budget', '0.75'))
    assert (
        plan['stages']
        == json.loads(here('plan', configs['text'], '--json', '--budget', '0.75'))['stages']
    )


@pytest.mark.parametrize('style', STYLES[1:])
def test_plan_in_hours(configs, style, tmp_path):
    plan = json.loads(tool('plan', configs[style], '--hours', '0.05', '--json', cwd=tmp_path))
    assert plan['seconds'] == 180 and all(stage['hours'] > 0 for stage in plan['stages'])


@pytest.mark.parametrize('style', STYLES[1:])
def test_train(trained, style):
    """The same run as with names as text; its copy of the config can be read."""
    assert is_budgeted(Config.fromfile(trained(style) / 'mine.py'))
    assert_same_run(last_file(trained(style)), last_file(trained('text')))


@pytest.mark.parametrize('style', STYLES)
def test_train_refuses_another_plan_and_writes_nothing(configs, trained, style, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in trained(style).rglob('*')}
    options = ['--work-dir', trained(style), '--cfg-options', 'train_cfg.budget=0.75']
    error = tool('train', configs[style], *options, cwd=tmp_path, fails=True)
    assert 'holds a run with another plan' in error
    assert {p: p.stat().st_mtime_ns for p in trained(style).rglob('*')} == before


@pytest.mark.parametrize('style', STYLES)
def test_train_refuses_a_hook_without_a_loop(configs, style, tmp_path):
    options = ['--work-dir', tmp_path / 'a', '--cfg-options', 'train_cfg.type=EpochBasedTrainLoop']
    error = tool('train', configs[style], *options, cwd=tmp_path, fails=True)
    assert 'is not that of a budgeted run alone; give train_cfg=dict(_delete_=True' in error
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('style', STYLES)
def test_test(configs, trained, style, tmp_path):
    for file in ('stage_1.pth', end_of(trained(style)).name):
        out = tmp_path / 'metrics.json'
        options = ['--work-dir', tmp_path, '--out', out, '--out-item', 'metrics']
        tool('test', configs[style], trained(style) / file, *options, cwd=tmp_path)
        assert 0 <= json.loads(out.read_text())['accuracy/top1'] <= 100


@pytest.mark.parametrize('style', STYLES)
def test_publish(trained, here, style, tmp_path):
    """Finished, and an earlier stage; as text that builds without the run."""
    for file, options, kind in (
        (end_of(trained(style)), [], 'VisionTransformer'),
        (trained(style) / 'stage_1.pth', ['--stage', '1'], 'ElasticVisionTransformer'),
    ):
        printed = here('publish', file, tmp_path / f'{kind}', *options)
        assert '.pth (' in printed
        (config,) = tmp_path.glob(f'{kind}-*.py')
        cfg = Config.fromfile(config)
        assert type(MODELS.build(cfg.model).backbone).__name__ == kind
        assert 'import ' not in config.read_text()


@pytest.mark.parametrize('style', STYLES)
def test_analyze(configs, trained, here, style, tmp_path):
    """With the config that the checkpoint holds, and with the file."""
    for options in ([], ['--config', configs[style]]):
        here('analyze', end_of(trained(style)), '--num-images', '4', '--out', tmp_path, *options)
        (record,) = json.loads((tmp_path / 'redundancy.json').read_text())
        assert record['training_stage'] == 3 and record['cka']


@pytest.mark.parametrize('name', [*METHODS, *ABLATIONS])
def test_methods(configs, name):
    """Each changes a config of any style as it does one of text."""
    plans = []
    for file in configs.values():
        cfg = Config.fromfile(file)
        method = {**METHODS, **ABLATIONS}[name]
        cfg.merge_from_dict(method(cfg, 0.5) if callable(method) else method)
        plan, backbone = plan_of_config(cfg)
        schedulers = [class_of(s, PARAM_SCHEDULERS) for s in cfg.param_scheduler]
        hooks = [class_of(hook, HOOKS) for hook in cfg.custom_hooks]
        assert None not in schedulers + hooks
        plans.append((plan, backbone.training_stages, schedulers, hooks))
    assert plans[0] == plans[1] == plans[2]


def test_compare(configs, here, tmp_path):
    """It writes each run's config down, trains it, and knows it again."""
    options = ['--out', tmp_path, '--budgets', '0.5', '--seeds', '1', '--methods', 'rex']
    printed = here('compare', configs['python'], *options)
    assert printed.startswith('1 of 1 runs are left') and '| rex |' in printed
    for style in ('python', 'full'):  # of which no word differs
        printed = here('compare', configs[style], *options, '--dry-run')
        assert printed.startswith('0 of 1 runs are left')


def test_methods_may_import(configs, here, capsys, tmp_path, monkeypatch):
    """What a method adds to custom_imports is there when its runs are planned."""
    (tmp_path / 'mine_of_a_method.py').write_text(
        'from mmpretrain.registry import MODELS\nfrom bvit_mm import ElasticVisionTransformer\n'
        '@MODELS.register_module()\nclass MineOfAMethod(ElasticVisionTransformer):\n    pass\n'
    )
    (tmp_path / 'methods.py').write_text(
        "METHODS = {'mine': {'custom_imports.imports': ['bvit_mm', 'mine_of_a_method'],"
        " 'model.backbone.type': 'MineOfAMethod'},\n"
        "'lost': {'custom_imports.imports': ['nowhere_to_be_found']},\n"
        "'unknown': {'model.backbone.type': 'Unknown'}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ['--methods-of', tmp_path / 'methods.py', '--dry-run', '--out', tmp_path / 'out']
    printed = here('compare', configs['text'], *options, '--methods', 'mine')
    assert 'mine-b0.5-s0: epochs [' in printed
    for name, message in (
        ('lost', 'lost at budget 0.25: ImportError: Failed to import nowhere_to_be_found'),
        ('unknown', 'unknown at budget 0.25: KeyError: '),
    ):
        with pytest.raises(SystemExit):
            here('compare', configs['text'], *options, '--methods', name)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'options, message',
    [
        (['custom_imports.imports=nowhere_to_be_found'], 'Failed to import nowhere_to_be_found'),
        (['model.backbone.type=Unknown'], 'Unknown is not in the mmpretrain::model registry'),
    ],
)
@pytest.mark.parametrize('name', ['plan', 'compare'])
def test_what_is_not_there_is_told(configs, here, capsys, name, options, message):
    with pytest.raises(SystemExit) as stop:
        here(name, configs['text'], '--cfg-options', *options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error
