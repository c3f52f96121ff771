# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Two processes: law 8 for them, the same growth everywhere, and the same run as with one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import bvit_mm
from bvit_mm.running.processes import shared_seed
from bvit_mm.testing.closeness import tolerance_of_training

from .support import cases
from .support.files import last_file
from .support.runs import BATCHES, FAMILIES, build
from .support.two_processes import (
    GROWTH,
    PLAIN,
    STOPS,
    distance_of_weights,
    variants,
)
from .support.variants import EVERY_ITERATION, ONE_TWO_ONE, SEARCH, SUBSET, VARIANTS

ROUNDING = tolerance_of_training(6 * BATCHES)  # no run has more epochs


# Of the package: a network of the docs differs in nothing that processes share.
OWN = [name for name, case in cases.FAMILIES.items() if hasattr(bvit_mm, case.elastic.__name__)]


@pytest.fixture(scope='module')
def started(request, tmp_path_factory):
    """The folder of what two processes found of all families that are asked for."""
    folder = tmp_path_factory.mktemp('two')
    cases = [getattr(item, 'callspec', None) for item in request.session.items]
    families = {case.params['two'] for case in cases if case and 'two' in case.params}
    command = [sys.executable, '-m', 'tests.support.two_processes', str(folder), *sorted(families)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope='module', params=OWN)
def two(request, started):
    """What two processes found of a family, with the folder of their runs."""
    folder = started / request.param
    results = json.loads((folder / 'results.json').read_text())
    return SimpleNamespace(results=results, folder=folder, family=request.param)


RESUMED = pytest.mark.parametrize(
    'two, name', [(family, name) for family in OWN for name in variants(family)], indirect=['two']
)


@pytest.mark.parametrize('place', STOPS)
@RESUMED
def test_resumed_equals_uninterrupted(two, name, place):
    """Bit for bit, gradients that each process is accumulating included."""
    assert two.results[name][place] == []


@RESUMED
def test_processes_end_with_the_same_weights(two, name):
    assert two.results[name]['alike']


@pytest.mark.parametrize('name', GROWTH)
def test_random_growth_is_the_same_in_all_processes(two, name):
    assert two.results['growth'][name]


@pytest.mark.parametrize('name', ['neither', 'both'])
def test_two_processes_equal_one(two, name, tmp_path):
    """With the same global batch, through two switches."""
    build(tmp_path, **FAMILIES[two.family], **PLAIN, **VARIANTS[name], **ONE_TWO_ONE).train()
    one, both = last_file(tmp_path), last_file(two.folder / f'plain {name}')
    for key in ('state_dict', 'ema_state_dict'):
        if key in one:
            assert distance_of_weights(one[key], both[key]) <= ROUNDING
    ledgers = [file['meta']['bvit_mm']['ledger'] for file in (one, both)]
    assert ledgers[0]['samples'] == ledgers[1]['samples'] == [20, 40, 20]


VIT = pytest.mark.parametrize('two', ['vit'], indirect=True)  # the network does not matter


@VIT
def test_two_processes_train_by_recipes(two):
    """Before, at and after a change of them, resumed and not; and by images of the stage's size."""
    assert two.results['recipes'] == {'alike': True, **{place: [] for place in STOPS}}


@VIT
def test_two_processes_match_as_one(two, tmp_path):
    """The same mini-batches, with weights that count alike in both; also resumed."""
    matched = two.results['matched']
    assert matched['alike'] and matched['resumed'] == []
    changes = {**PLAIN, **SUBSET, **EVERY_ITERATION}
    build(tmp_path, **changes).train()
    one, both = last_file(tmp_path), last_file(two.folder / 'matched' / 'whole')
    assert torch.equal(*(file['bvit_mm_subset']['selected'][0] for file in (one, both)))
    for key in ('state_dict', 'ema_state_dict'):
        assert distance_of_weights(one[key], both[key]) <= ROUNDING
    ledgers = [file['meta']['bvit_mm']['ledger'] for file in (one, both)]
    assert ledgers[0]['charges'] == ledgers[1]['charges'] and ledgers[0]['charges']['selection'] > 0


def test_one_process_goes_on_from_two(two, tmp_path):
    """The ledger and the plan survive a change of the number of processes."""
    changes = {**FAMILIES[two.family], **PLAIN, **VARIANTS['neither'], **ONE_TWO_ONE}
    source = two.folder / 'plain neither' / 'epoch_2.pth'
    build(tmp_path / 'b', **changes, resume=True, load_from=str(source)).train()
    one, both = last_file(tmp_path / 'b'), last_file(two.folder / 'plain neither')
    assert distance_of_weights(one['state_dict'], both['state_dict']) <= ROUNDING
    assert one['meta']['bvit_mm']['ledger']['samples'] == [20, 40, 20]


@VIT
def test_processes_decide_alike(two):
    """One gets a signal, all stop; and they part neither over hours nor over parts of batches."""
    decided = two.results['decided']
    assert decided['hours'] and decided['parts']
    assert decided['codes'] == [143, 143] and decided['stopped at'] in (13, 14)
    # A signal saves where nothing was due, so gradients that are pending are rounded once more.
    assert decided['by'] <= ROUNDING


@VIT
def test_static_graph_is_refused(two):
    """The trial would be taken for the first step, after which no gradients are shared."""
    message = two.results['decided']['static']
    assert message.startswith('static_graph=True of model_wrapper_cfg lets')
    assert message.endswith('gradients would not be shared. Leave it out')


@VIT
def test_processes_book_alike(two):
    """The mean of what images of different sizes cost; and all refuse a budget they do not keep."""
    booked = two.results['booked']
    assert booked['extra'][0] == booked['extra'][1] == pytest.approx(booked['expected'], rel=1e-9)
    assert min(booked['expected']) > 0
    assert len(set(booked['refusals'])) == 1
    assert 'images of 16x16 and 24x24 pixels reach the backbone' in booked['refusals'][0]
    assert 'Give model.backbone.img_size=24, with' in booked['refusals'][0]


@VIT
def test_two_processes_search_as_one(two, tmp_path):
    """The penalty on gates does not depend on how many processes there are."""
    assert two.results['slimmed']
    build(tmp_path, **PLAIN, **SEARCH).train()
    one, both = (last_file(each)['state_dict'] for each in (tmp_path, two.folder / 'slimmed'))
    assert distance_of_weights(one, both) <= ROUNDING
    gates = [{k: v for k, v in each.items() if k.endswith('.gate')} for each in (one, both)]
    assert len(gates[0]) == 4 and distance_of_weights(*gates) <= ROUNDING
    assert all((gate < 1).any() for gate in gates[0].values())


def test_shared_seed_is_without_the_rank(monkeypatch):
    """mmengine adds it to the runner's seed, which then differs between processes."""
    monkeypatch.setattr('bvit_mm.running.processes.get_rank', lambda: 3)
    for diff, seed in ((True, 7), (False, 10)):
        runner = SimpleNamespace(seed=10, _randomness_cfg=dict(diff_rank_seed=diff))
        assert shared_seed(runner) == seed
