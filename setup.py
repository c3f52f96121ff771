# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Puts configs, tools and the model index into wheels, where mim looks; setup.cfg says the rest."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup
from setuptools.command.build_py import build_py

# openmim looks in the folder with the distribution's name. onedl-mim looks in the folder of the
# first file that pip recorded; pip sorts, 'bvit_mm-0.1.0.dist-info' comes before 'bvit_mm', and
# '_bvit_mm' before both. docs/mim.md has the measurement.
MIM_FOLDERS = ('bvit_mm/.mim', '_bvit_mm/.mim')
# compile_ops.py serves this repository's Makefile alone.
LEFT_OUT = shutil.ignore_patterns('__pycache__', 'compile_ops.py')


class BuildWithMim(build_py):
    """Builds the package, and mim's files into wheels; an editable install has them at its root."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in MIM_FOLDERS:
            target = Path(self.build_lib, folder)
            for name in ('configs', 'tools'):
                shutil.copytree(name, target / name, ignore=LEFT_OUT)
            shutil.copy('model-index.yml', target)


# Built outside the checkout: a copy of the configs left in build/ would be found by mim as well.
with TemporaryDirectory() as build_base:
    setup(cmdclass={'build_py': BuildWithMim}, options={'build': {'build_base': build_base}})
