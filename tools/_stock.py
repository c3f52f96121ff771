# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's own command-line tools, which its package carries."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def stock_tool(name: str) -> ModuleType:
    """The module ``tools/<name>.py`` of the installed mmpretrain."""
    package = Path(find_spec('mmpretrain').origin).parent
    path = package / '.mim' / 'tools' / f'{name}.py'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist: this mmpretrain was installed without its tools; '
            'install it from a wheel (pip install onedl-mmpretrain)'
        )
    spec = spec_from_file_location(f'mmpretrain_tools_{name}', path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
