# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Scripts of ours in this process, each as ``python FILE`` has it: with what lies beside it."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent.parent
TOOLS = ROOT / 'tools'


def run_script(file: Path, *arguments: object) -> None:
    """Runs a script with arguments; it may exit."""
    argv, sys.argv = sys.argv, [str(file), *map(str, arguments)]
    try:
        with _beside(file):
            runpy.run_path(str(file), run_name='__main__')
    finally:
        sys.argv = argv


def run_tool(name: str, *arguments: object) -> None:
    """As ``run_script``, of a tool."""
    run_script(TOOLS / f'{name}.py', *arguments)


def load_script(file: Path) -> ModuleType:
    """A script as a module, which no other import finds."""
    spec = spec_from_file_location(f'script_{file.stem}', file)
    module = module_from_spec(spec)
    with _beside(file):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Lets a script import what lies beside it, as Python does, and forgets it again.

    Else ``import test`` or ``import plan`` would mean these files in all tests that follow.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))
        for name in set(sys.modules) - before:
            where = getattr(sys.modules[name], '__file__', None)
            if where and Path(where).parent == file.parent:
                del sys.modules[name]
