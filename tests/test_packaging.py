# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What wheels and source distributions hold, and that mim finds it in a wheel.

tests/support/mim_matrix.py tries every command of mim, under either fork; this is the fast part.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from mim.commands.download import download
from mim.utils import get_installed_path
from mmengine.config import Config

ROOT = Path(__file__).parent.parent
FOR_MIM = {
    'model-index.yml',
    *(
        str(path.relative_to(ROOT))
        for folder in ('configs', 'tools')
        for path in ROOT.glob(f'{folder}/**/*')
        if path.is_file() and path.suffix != '.pyc'
    ),
}
MODULES = {str(p.relative_to(ROOT)) for p in ROOT.glob('bvit_mm/**/*.py')}


def call(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what git holds, as far as it is built from."""
    folder = tmp_path_factory.mktemp('packaging') / 'checkout'
    ignore = shutil.ignore_patterns('__pycache__')
    for name in ('.dev_scripts', 'bvit_mm', 'configs', 'docs', 'tests', 'tools'):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(checkout):
    before = set(checkout.rglob('*'))
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    call(*command, '--no-index', '-w', checkout.parent, checkout, cwd=checkout.parent)
    left = {p for p in set(checkout.rglob('*')) - before if 'egg-info' not in str(p)}
    assert not left, 'a copy of a config there would be found by mim as well'
    (path,) = checkout.parent.glob('*.whl')
    return path


def test_wheel_holds_the_package_and_mims_files(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    assert len(FOR_MIM) > 40
    given = FOR_MIM - {'tools/compile_ops.py'}  # which this repository's Makefile calls
    for_mim = {f'{p}/.mim/{name}' for p in ('bvit_mm', '_bvit_mm') for name in given}
    assert names == MODULES | for_mim
    assert 'bvit_mm/compare/runner.py' in names  # and no script that writes pages
    assert not [name for name in names if 'dev_scripts' in name or 'results' in name]


def test_source_distribution_holds_what_a_wheel_is_built_from(checkout):
    code = 'from setuptools import build_meta; print(build_meta.build_sdist(".."))'
    path = checkout.parent / call(sys.executable, '-c', code, cwd=checkout).splitlines()[-1]
    with tarfile.open(path) as archive:
        files = {m.name.split('/', 1)[1] for m in archive.getmembers() if m.isfile()}
    assert FOR_MIM | MODULES | {'setup.py', 'setup.cfg', 'pyproject.toml', 'README.md'} <= files
    assert not any('.mim/' in name or 'dev_scripts' in name for name in files)


def test_mim_finds_the_files_of_a_wheel(wheel, tmp_path, monkeypatch):
    """`mim download` writes a config of an installed wheel; it has no weights to fetch."""
    site, here = tmp_path / 'site', tmp_path / 'here'
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', site]
    call(*pip, wheel, cwd=tmp_path)
    monkeypatch.syspath_prepend(site)
    assert Path(get_installed_path('bvit_mm')) == site / '_bvit_mm'
    name = 'deit-small_bvit-b50_4xb256_in1k'
    download('bvit_mm', [name], str(here))
    assert [p.name for p in here.iterdir()] == [f'{name}.py']
    ours = Config.fromfile(ROOT / 'configs' / 'deit' / f'{name}.py')
    assert Config.fromfile(here / f'{name}.py').to_dict() == ours.to_dict()
