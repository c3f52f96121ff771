# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The command-line tools of mmpretrain, mmdet and mmseg, which their packages carry."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from mmengine.config import Config

PACKAGES = {
    'mmpretrain': 'mmpretrain',
    'mmdet': 'mmdetection',
    'mmseg': 'mmsegmentation',
}


def stock_tool(name: str, package: str = 'mmpretrain') -> ModuleType:
    """The module ``tools/<name>.py`` of an installed package.

    Args:
        name: Of the tool.
        package: ``'mmpretrain'``, ``'mmdet'`` or ``'mmseg'``: the ``default_scope`` of a config.

    Raises:
        SystemExit: If there is no such package, or it was installed without its tools.
    """
    if package not in PACKAGES:
        raise SystemExit(f'default_scope={package!r} of the config must be one of {(*PACKAGES,)}')
    found = find_spec(package)
    if found is None:
        raise SystemExit(
            f'the config is for {package}, which is not installed; '
            "pip install -e '.[downstream]' (onedl), or mmdet and mmsegmentation (classic)"
        )
    path = Path(found.origin).parent / '.mim' / 'tools' / f'{name}.py'
    if not path.is_file():
        raise SystemExit(
            f'{path} does not exist: this {package} was installed without its tools; '
            f'install it from a wheel (pip install onedl-{PACKAGES[package]})'
        )
    spec = spec_from_file_location(f'{package}_tools_{name}', path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_config(path: str, flags: Sequence[str] = ()) -> Config:
    """The config that mmpretrain's ``train.py`` makes of a file and its flags.

    Args:
        path: The config.
        flags: Flags of that tool, such as ``--amp``.
    """
    stock = stock_tool('train')
    given, sys.argv = sys.argv, ['train.py', path, *flags]  # its parser takes no others
    try:
        args = stock.parse_args()
    finally:
        sys.argv = given
    return stock.merge_args(Config.fromfile(path), args)
