# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs mmpretrain's own unit tests of a backbone against the elastic one.

Its packages do not carry them, and they are not copied here: give a checkout of mmpretrain.

    python -m tests.upstream PATH/TO/mmpretrain

Each test runs twice: as the class is, and with training stages.
"""

import functools
import sys
from pathlib import Path

import mmpretrain.models.backbones as backbones
import pytest

from bvit_mm import ElasticVisionTransformer

TESTS = {
    'VisionTransformer': (ElasticVisionTransformer, 'test_vision_transformer.py'),
}


def main(checkout: Path) -> int:
    """Runs the tests; the exit status of the first that fails."""
    for name, (elastic, file) in TESTS.items():
        test = checkout / 'tests' / 'test_models' / 'test_backbones' / file
        if not test.is_file():
            raise SystemExit(f'{test} does not exist; give the folder of an mmpretrain checkout')
        for variant in (elastic, functools.partial(elastic, training_stages=3)):
            setattr(backbones, name, variant)
            for module in [m for m in sys.modules if m.endswith(test.stem)]:
                del sys.modules[module]  # so that it imports the class anew
            status = pytest.main(
                ['-q', '-p', 'no:cacheprovider', f'--rootdir={checkout}', str(test)]
            )
            if status:
                return status
    return 0


if __name__ == '__main__':
    raise SystemExit(main(Path(sys.argv[1])))
