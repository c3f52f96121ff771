# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs mmpretrain's and mmdet's own unit tests of a backbone against the elastic one.

Their packages do not carry them, and they are not copied here: give a checkout of either.

    python -m tests.support.upstream PATH/TO/mmpretrain
    python -m tests.support.upstream PATH/TO/mmdetection

Each test runs twice: as the class is, and with training stages where it can be split. A failure
ends nothing: the end counts what passed and failed, and the exit status is 1 if anything failed.
"""

import importlib
import sys
import warnings
from collections import Counter
from pathlib import Path

import mmpretrain.models.backbones as mmpretrain_backbones
import pytest

from bvit_mm import ElasticPVTv2, ElasticSwinTransformer, ElasticVisionTransformer


def pvtv2_as_mmdet(training_stages=None, pretrain_img_size=224, **kwargs):
    """ElasticPVTv2 with mmdet's defaults and argument names; mmdet asserts what is refused here."""
    try:
        return ElasticPVTv2(
            'b2',
            img_size=pretrain_img_size,
            out_indices=(0, 1, 2, 3),
            training_stages=training_stages,
            **kwargs,
        )
    except ValueError as error:
        raise AssertionError(str(error)) from error


def in_stages(elastic):
    """The class with training stages; where it refuses to be split, whole, with a warning."""

    def build(**kwargs):
        try:
            return elastic(training_stages=3, **kwargs)
        except ValueError as error:
            warnings.warn(f'built whole: {error}', stacklevel=2)
            return elastic(**kwargs)

    return build


FOLDER = Path('tests') / 'test_models' / 'test_backbones'
TESTS = {  # file: module that holds the class, its name there, ours
    'test_vision_transformer.py': (
        lambda: mmpretrain_backbones,
        'VisionTransformer',
        ElasticVisionTransformer,
    ),
    'test_swin_transformer.py': (
        lambda: mmpretrain_backbones,
        'SwinTransformer',
        ElasticSwinTransformer,
    ),
    'test_pvt.py': (
        lambda: importlib.import_module('mmdet.models.backbones.pvt'),
        'PyramidVisionTransformerV2',
        pvtv2_as_mmdet,
    ),
}


class Outcomes(Counter):
    """A plugin of pytest that counts tests by their outcome."""

    def pytest_runtest_logreport(self, report):
        if report.when == 'call' or not report.passed:
            self[report.outcome] += 1

    def pytest_collectreport(self, report):
        self['failed'] += report.failed  # a file that cannot be read is a failure too


def run(file: Path, checkout: Path) -> Outcomes:
    """The outcomes of one file of tests."""
    for loaded in [m for m in sys.modules if m.endswith(file.stem)]:
        del sys.modules[loaded]  # so that it imports the class anew
    outcomes = Outcomes()
    options = ['-q', '-p', 'no:cacheprovider', f'--rootdir={checkout}', str(file)]
    status = pytest.main(options, plugins=[outcomes])
    if status and not outcomes['failed']:
        outcomes['failed'] = 1  # there is no test, or pytest itself failed
    return outcomes


def main(checkout: Path) -> int:
    """Runs the tests that the checkout has; 1 if any failed, else 0."""
    found = [name for name in TESTS if (checkout / FOLDER / name).is_file()]
    if not found:
        raise SystemExit(
            f'{checkout / FOLDER} has none of {", ".join(TESTS)}; '
            'give the folder of an mmpretrain or mmdetection checkout'
        )
    table = []
    for name in found:
        module, attribute, elastic = TESTS[name]
        for variant, built in (('whole', elastic), ('in stages', in_stages(elastic))):
            setattr(module(), attribute, built)
            table.append((name, variant, run(checkout / FOLDER / name, checkout)))
    print(f'{"tests":28} {"built":10} passed failed')
    for name, variant, outcomes in table:
        print(f'{name:28} {variant:10} {outcomes["passed"]:6} {outcomes["failed"]:6}')
    return int(any(outcomes['failed'] for *_, outcomes in table))


if __name__ == '__main__':
    if len(sys.argv) != 2:
        raise SystemExit('give the folder of an mmpretrain or mmdetection checkout')
    raise SystemExit(main(Path(sys.argv[1])))
