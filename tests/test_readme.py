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

from bvit_mm.plan import make_plan

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


def test_make_has_the_two_commands():
    runs = {'demo': 'tools/train.py', 'test': '-m pytest'}
    assert [c[1] for c in commands('make')] == list(runs)
    for target, expected in runs.items():
        done = subprocess.run(['make', '-n', target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize('command', commands('python', 'tools/plan.py'), ids=' '.join)
def test_plan_commands_run(command, tmp_path):
    for folder in ('configs', 'tools'):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if '55,55,193' in command:
        (shown,) = blocks('text')
        assert shown.strip() in done.stdout
        assert (tmp_path / 'plan.png').is_file()


def test_train_commands_name_configs_that_exist():
    found = [word for c in COMMANDS for word in c if word.startswith(('configs/', 'tools/'))]
    assert len(found) > 8
    for path in found:
        assert (ROOT / path).is_file(), path


def test_config_snippet_builds():
    (snippet,) = blocks('python')
    cfg = Config.fromstring(snippet, file_format='.py')
    backbone = MODELS.build(cfg.model.backbone)
    options = {
        k: v for k, v in cfg.train_cfg.items() if k not in ('_delete_', 'type', 'val_interval')
    }
    gflops = [backbone.flops(k) / 1e9 for k in range(3)]
    assert make_plan(gflops, **options).cost > 1000
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == ['StageSwitchHook']


def test_links_lead_somewhere():
    pages = [README, *((ROOT / 'docs' / p).read_text() for p in ('laws.md', 'paper.md'))]
    for folder, page in zip((ROOT, ROOT / 'docs', ROOT / 'docs'), pages):
        for target in re.findall(r'\]\((?!http)([^)#]+)\)', page):
            assert (folder / target).exists(), target
