# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""model-index.yml and the metafiles: what they state is what the code says."""

import pytest
from modelindex.load_model_index import load

from .support.configs import CONFIGS as TRANSFER
from .support.configs import read
from .support.tools import ROOT


@pytest.fixture(scope='module')
def models():
    index = load(str(ROOT / 'model-index.yml'))
    return {model.config: model for model in index.models}


LISTED = sorted(p.parent for p in ROOT.glob('configs/*/metafile.yml'))
CONFIGS = [p for folder in LISTED for p in sorted(folder.glob('*.py'))]


def test_every_config_is_listed_once(models):
    listed = sorted(models)
    assert listed == sorted(str(path.relative_to(ROOT)) for path in CONFIGS + TRANSFER)
    assert {model.name for model in models.values()} == {path.stem for path in CONFIGS + TRANSFER}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_metafile_is_true_to_the_code(path, models):
    model = models[str(path.relative_to(ROOT))]
    _, plan, parameters = read(path)
    stated = model.metadata.data
    assert stated['FLOPs'] == round(plan.gflops[-1] * 1e9)
    assert stated['Parameters'] == parameters
    assert stated['Schedule'] == ', '.join(map(str, plan.epochs)) + ' epochs'
    assert stated['Training Cost'] == f'{plan.cost:.1f} GFLOPs x epochs'


def test_accuracies_are_marked_as_the_papers(models):
    """There are no results of our own, and every schedule of Table 1 has the paper's."""
    mark = 'Reported by the paper, not reproduced here'
    reported = {m.name for m in models.values() if mark in m.metadata.data}
    assert {m.name for m in models.values() if '-paper_' in m.name} <= reported
    assert all(model.results is None for model in models.values())
    swin = models['configs/swin/swin-small_bvit-b25-paper_16xb64_in1k.py'].metadata.data[mark]
    assert swin == {'Top 1 Accuracy': 80.0, 'In': 'Table 1'}
