# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The README and the pages that begin with it: their commands run, their configs build."""

import configparser
import re
import shlex
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

from bvit_mm.cost import plan_of_config
from bvit_mm.plan import make_plan

from .support.added_backbone import CONFIG, PAGE
from .support.tools import script

ROOT = Path(__file__).parent.parent
README = ROOT / 'README.md'
START = ROOT / 'docs' / 'start.md'
OPTIONS = ROOT / 'docs' / 'options.md'


def blocks(page, language):
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(), flags=re.S)


def commands(page):
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            yield tuple(shlex.split(line, comments=True))


COMMANDS = list(dict.fromkeys([*commands(README), *commands(START)]))


def calls(*start):
    return [command for command in COMMANDS if command[: len(start)] == start]


PLANS = calls('python', 'tools/plan.py')
DIGITS = calls('python', 'tools/make_digits.py')
TRAININGS = calls('python', 'tools/train.py')
COMPARISONS = calls('python', 'tools/compare.py')
SMALL = [command for command in TRAININGS if command[2].startswith('configs/demo/')]
LARGE = [command for command in TRAININGS if command[2].startswith('configs/deit/')]
COPIES = calls('python', 'tools/resize_dataset.py')
RUN = [*calls('make'), *calls('pip'), *PLANS, *DIGITS, *SMALL, *LARGE, *COMPARISONS, *COPIES]
BRIEF = [
    'train_cfg.budget=None',
    'train_cfg.shares=None',
    *(f'{name}_dataloader.num_batch_per_epoch=2' for name in ('train', 'val', 'test')),
]


def test_each_command_of_the_readme_is_run_here():
    assert len(RUN) > 12
    assert set(commands(README)) <= set(RUN)


def test_files_of_all_commands_exist():
    found = [word for c in COMMANDS for word in c if word.startswith(('configs/', 'tools/'))]
    assert len(found) > 20
    for path in found:
        assert (ROOT / path).is_file(), path


def would_run(target):
    done = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_has_the_targets():
    runs = {'demo': 'tools/train.py', 'test': '-m pytest'}
    assert {command[1] for command in calls('make')} == set(runs)
    for target, expected in runs.items():
        assert expected in would_run(target)


def test_make_has_the_tests_that_need_no_operators():
    assert '`make test-core`' in README.read_text()
    core, all_ = would_run('test-core'), would_run('test')
    assert "-m 'not ops'" in core and 'compile_ops' not in core
    assert "-m 'not ops'" not in all_
    assert 'compile_ops' in all_ or (ROOT / '.venv' / 'ops').exists()


@pytest.mark.parametrize('command', calls('pip'), ids=' '.join)
def test_what_pip_installs_is_offered(command):
    offered = configparser.ConfigParser()
    offered.read(ROOT / 'setup.cfg')
    (extras,) = re.fullmatch(r'\.\[(.*)\]', command[-1]).groups()
    assert set(extras.split(',')) <= set(offered['options.extras_require'])


@pytest.fixture
def clone(tmp_path):
    """A folder that has what a clone has, for tools and configs."""
    for folder in ('configs', 'tools'):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize('command', PLANS, ids=' '.join)
def test_plan_commands_run(command, clone, digits):
    (clone / 'data').mkdir()
    (clone / 'data' / 'digits').symlink_to(digits)  # hours are timed on it
    stdout = script(*command[1:], cwd=clone)
    if '55,55,193' in command:
        (shown,) = blocks(START, 'text')
        assert shown.strip() in stdout
        assert (clone / 'plan.png').is_file()


@pytest.mark.parametrize('command', DIGITS, ids=' '.join)
def test_digits_are_written_where_the_demo_reads_them(command, clone):
    script(*command[1:], cwd=clone)
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py')
    counts = {'train': 4000, 'val': 1000}
    for name, count in counts.items():
        folder = clone / cfg[f'{name}_dataloader'].dataset.data_root
        assert len(list(folder.rglob('*.png'))) == count


def few_images(digits, folder):
    """Five classes of the digits, fourteen images each, for two batches."""
    for part in ('train', 'val'):
        for name in '01234':
            (folder / part / name).mkdir(parents=True)
            for file in islice((digits / part / name).iterdir(), 14):
                shutil.copy(file, folder / part / name)


@pytest.mark.parametrize('command', SMALL, ids=' '.join)
def test_training_commands_run(command, clone, digits):
    """As they are, for an epoch of two batches a stage."""
    stages = len(Config.fromfile(ROOT / command[2]).model.backbone.training_stages)
    (clone / 'data').mkdir()
    (clone / 'data' / 'digits').symlink_to(digits)
    few_images(digits, clone / 'MY')
    brief = [f'train_cfg.epochs={[1] * stages}'.replace(' ', ''), *BRIEF]
    more = brief if '--cfg-options' in command else ['--cfg-options', *brief]
    script(*command[1:], *more, cwd=clone)
    work_dirs = [file.parent for file in clone.glob(f'work_dirs/*/epoch_{stages}.pth')]
    assert [(folder / 'ledger.json').is_file() for folder in work_dirs] == [True]


@pytest.mark.parametrize('command', COPIES, ids=' '.join)
def test_data_sets_are_copied(command, clone, digits):
    few_images(digits, clone / command[2])
    script(*command[1:], cwd=clone)
    copied = list((clone / command[3]).rglob('*.png'))
    assert len(copied) == len(list((clone / command[2]).rglob('*.png'))) == 140


@pytest.mark.parametrize('command', LARGE, ids=' '.join)
def test_training_commands_of_imagenet_have_plans(command):
    cfg = Config.fromfile(ROOT / command[2])
    options = command[command.index('--cfg-options') + 1 :] if '--cfg-options' in command else ()
    cfg.merge_from_dict(dict(option.split('=', 1) for option in options))
    plan, _ = plan_of_config(cfg)
    assert 0.49 < plan.cost / plan.full_cost <= 0.5  # as the name of the config says


@pytest.mark.parametrize('command', COMPARISONS, ids=' '.join)
def test_comparisons_plan_their_runs(command, clone):
    stdout = script(*command[1:], '--dry-run', cwd=clone)
    assert all(method in stdout for method in ('bvit', 'rex', 'cosine'))


@pytest.mark.parametrize('page', [README, OPTIONS], ids=lambda page: page.name)
def test_config_snippet_builds(page):
    snippet = blocks(page, 'python')[0]
    cfg = Config.fromstring(snippet, file_format='.py')
    backbone = MODELS.build(cfg.model.backbone)
    of_the_loop = ('_delete_', 'type', 'val_interval', 'schedule')
    options = {k: v for k, v in cfg.train_cfg.items() if k not in of_the_loop}
    gflops = [backbone.flops(k) / 1e9 for k in range(backbone.num_training_stages)]
    assert make_plan(gflops, **options).cost > 1000
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == ['StageSwitchHook']


def test_backbones_of_the_pyramids_build():
    _, snippet, *_ = blocks(OPTIONS, 'python')
    expected = [(0.7947, 1.7876, 3.9093), (1.3173, 3.6422, 8.7678)]  # Table 6 without classifier
    for part, gflops in zip(snippet.split('backbone = ')[1:], expected):
        backbone = MODELS.build(eval(part))
        assert [backbone.flops(k) / 1e9 for k in range(3)] == pytest.approx(gflops, abs=1e-4)


def test_config_of_the_added_backbone_has_a_plan():
    cfg = Config.fromstring(CONFIG, file_format='.py')
    plan, backbone = plan_of_config(cfg)
    assert type(backbone).__name__ == 'ElasticRIFormer'
    assert 0.49 < plan.cost / plan.full_cost <= 0.5
    assert plan.gflops[-1] == pytest.approx(1.8, abs=0.05)  # the RIFormer paper's, of S12


def test_command_of_the_added_backbone_finds_its_laws():
    (command,) = blocks(PAGE, 'bash')
    python, dash, module, *arguments = shlex.split(command)
    assert (Path(python).name, dash, module) == ('python', '-m', 'pytest')
    pytest_script = Path(pytest.__file__).with_name('__main__.py')
    found = script(pytest_script, *arguments, '--collect-only', '-q', cwd=ROOT)
    assert found.count('riformer]') > 8
