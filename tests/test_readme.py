# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The README: its commands run, its config builds, its files exist."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

from bvit_mm.cost import plan_of_config
from bvit_mm.plan import make_plan

from .support.added_backbone import CONFIG, PAGE
from .support.tools import script

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, flags=re.S)


COMMANDS = [
    shlex.split(line, comments=True)
    for block in blocks('bash')
    for line in block.replace('\\\n', ' ').splitlines()
]


def commands(*start):
    return [c for c in COMMANDS if tuple(c[: len(start)]) == start]


def would_run(target):
    done = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_has_the_two_commands():
    runs = {'demo': 'tools/train.py', 'test': '-m pytest'}
    assert [c[1] for c in commands('make')] == list(runs)
    for target, expected in runs.items():
        assert expected in would_run(target)


def test_make_has_the_tests_that_need_no_operators():
    assert '`make test-core`' in README
    core, all_ = would_run('test-core'), would_run('test')
    assert "-m 'not ops'" in core and 'compile_ops' not in core
    assert "-m 'not ops'" not in all_
    assert 'compile_ops' in all_ or (ROOT / '.venv' / 'ops').exists()


@pytest.mark.parametrize('command', commands('python', 'tools/plan.py'), ids=' '.join)
def test_plan_commands_run(command, tmp_path):
    for folder in ('configs', 'tools'):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    if '--hours' in command:  # times the stages on the data that `make demo` makes
        make = [sys.executable, 'tools/make_digits.py', 'data/digits']
        subprocess.run(make, cwd=tmp_path, check=True)
    stdout = script(*command[1:], cwd=tmp_path)
    if '55,55,193' in command:
        (shown,) = blocks('text')
        assert shown.strip() in stdout
        assert (tmp_path / 'plan.png').is_file()


def test_train_commands_name_configs_that_exist():
    found = [word for c in COMMANDS for word in c if word.startswith(('configs/', 'tools/'))]
    assert len(found) > 8
    for path in found:
        assert (ROOT / path).is_file(), path


def test_config_snippet_builds():
    snippet, _ = blocks('python')
    cfg = Config.fromstring(snippet, file_format='.py')
    backbone = MODELS.build(cfg.model.backbone)
    options = {
        k: v for k, v in cfg.train_cfg.items() if k not in ('_delete_', 'type', 'val_interval')
    }
    gflops = [backbone.flops(k) / 1e9 for k in range(3)]
    assert make_plan(gflops, **options).cost > 1000
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == ['StageSwitchHook']


def test_backbones_of_the_pyramids_build():
    _, snippet = blocks('python')
    expected = [(0.7947, 1.7876, 3.9093), (1.3173, 3.6422, 8.7678)]  # Table 6 without classifier
    for part, gflops in zip(snippet.split('backbone = ')[1:], expected):
        backbone = MODELS.build(eval(part))
        assert [backbone.flops(k) / 1e9 for k in range(3)] == pytest.approx(gflops, abs=1e-4)


def test_config_of_the_added_backbone_has_a_plan():
    cfg = Config.fromstring(CONFIG, file_format='.py')
    plan, backbone = plan_of_config(cfg)
    assert type(backbone).__name__ == 'ElasticT2TViT'
    assert 0.49 < plan.cost / plan.full_cost <= 0.5
    assert plan.gflops[-1] == pytest.approx(6.1, abs=0.05)  # the T2T paper's, of T2T-ViT_t-14


def test_command_of_the_added_backbone_finds_its_laws():
    (command,) = re.findall(r'```bash\n(.*?)\n```', PAGE.read_text(), flags=re.S)
    _, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *arguments, '--collect-only', '-q'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('t2t]') > 8


PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', page.read_text()):
        assert (page.parent / target).exists(), target
