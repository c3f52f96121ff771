# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One budget for growing, searching and retraining, in real runs."""

import json
import re
from math import isnan

import pytest
import torch
from mmengine.hooks import EMAHook

from bvit_mm.elastic import find_backbone
from bvit_mm.plan import make_plan
from bvit_mm.report import ledger_table, plan_table
from bvit_mm.slim.cutting import flops_of
from bvit_mm.slim.phases import (
    Slimming,
    add_phases_,
    begin_search_,
    cut_,
    read_slimming,
    units_to_keep,
)

from .support.cases import FAMILIES as CASES
from .support.clock import PassTimeHook, patched_clock, run
from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, FAMILIES, build
from .support.scripts import load_script
from .support.tools import ROOT
from .support.trainings import log_of, resume
from .support.variants import EMA, EVERY_ITERATION, SWITCH

SLIM = {
    'model.backbone.gates': True,
    'train_cfg.epochs': [1, 1, 1, 1, 2],
    'train_cfg.slim': dict(flops=0.6),
    'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(gate=dict(decay_mult=0.0))),
    'custom_hooks': [SWITCH, EMA],
}
SEARCH, RETRAIN = 3 * BATCHES, 4 * BATCHES  # iterations before them


def of_family(family):
    """The tiny T2T-ViT is mostly the network that makes its tokens, which is not cut."""
    changes = {**FAMILIES[family], **SLIM}
    return {**changes, 'train_cfg.slim': dict(flops=0.9 if family == 't2t' else 0.6)}


def of_gates(gates):
    """Of whole heads, or of their dimensions."""
    return {**SLIM, **EVERY_ITERATION, 'model.backbone.gates': gates}


@pytest.fixture(scope='module', params=[True, 'dims'])
def trained(tmp_path_factory, request):
    """A run with a checkpoint and a line of the log after each iteration, its folder and gates."""
    folder = tmp_path_factory.mktemp('slim')
    runner = build(folder, **of_gates(request.param), **{'default_hooks.logger.interval': 1})
    runner.train()
    return runner, folder, request.param


def test_it_grows_searches_cuts_and_retrains(trained):
    runner, _, gates = trained
    loop, backbone = runner.train_loop, find_backbone(runner.model)
    begun = re.findall(r'training stage (\d) of 5 begins: (.*?), GFLOPs', log_of(runner))
    assert [stage for stage, _ in begun] == ['2', '3', '4', '5']
    assert begun[2][1] == 'gates learn'
    units = r'dims 48 -> \d+ in all' if gates == 'dims' else r'heads 6 -> \d in all'
    assert re.fullmatch(units + r', hidden 96 -> \d+ in all', begun[3][1])
    assert backbone.training_stage == 4 and not backbone.is_whole
    widths = dict(backbone.training_stages[-1].widths)
    cost, whole = flops_of(backbone, widths), backbone.flops(backbone.whole_stage)
    head = 24 * 4
    assert 0.6 * (whole + head) - 2 * 65 * 24 < cost + head <= 0.6 * (whole + head)
    # the ledger charges what was trained: the budget of the cut less what it left
    ledger = loop.ledger
    assert ledger.iterations == [BATCHES, BATCHES, BATCHES, BATCHES, 2 * BATCHES]
    assert ledger.costs[-1] == pytest.approx(2 * (cost + head) / 1e9, rel=1e-12)
    assert loop.plan.costs[-1] == pytest.approx(2 * int(0.6 * (whole + head)) / 1e9, rel=1e-12)
    table = plan_table(loop.plan, backbone.training_stages)
    assert '4 search' in table and ('dims in all' in table) == (gates == 'dims')
    assert ledger_table(loop.plan, ledger, loop.budget)


def test_the_penalty_is_logged_while_it_is_paid(trained):
    (file,) = trained[1].glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    steps = {line['step']: 'loss_slim' in line for line in lines if 'loss' in line}
    assert steps == {step: SEARCH < step <= RETRAIN for step in range(1, RETRAIN + 2 * BATCHES + 1)}


def test_gates_rest_until_they_are_searched_and_after(trained):
    """Until then the run is the one without gates, bit for bit; after it they are folded."""
    _, folder, kind = trained
    total = dict(dims=48).get(kind, 6) + 96

    def gates(name):
        weights = torch.load(folder / name, weights_only=False)['ema_state_dict']
        return torch.cat([v for k, v in weights.items() if k.endswith('.gate')])

    assert torch.equal(gates(f'iter_{SEARCH}.pth'), torch.ones(total))
    assert not torch.equal(gates(f'iter_{RETRAIN}.pth'), torch.ones(total))
    assert torch.equal(gates(f'iter_{RETRAIN + 1}.pth'), torch.ones(total))
    plain = {**SLIM, **EVERY_ITERATION, 'model.backbone.gates': False, 'train_cfg.slim': None}
    plain['train_cfg.epochs'] = [1, 1, 4]  # as many, so that learning rates are the same
    build(folder / 'plain', **plain).train()
    ours, theirs = (
        torch.load(each / f'iter_{SEARCH}.pth', weights_only=False)['ema_state_dict']
        for each in (folder, folder / 'plain')
    )
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())


def test_the_average_is_cut_as_the_network_is(trained):
    runner, _, _ = trained
    (twin,) = (find_backbone(h.ema_model.module) for h in runner.hooks if isinstance(h, EMAHook))
    assert twin.training_stages == find_backbone(runner.model).training_stages
    assert twin.training_stage == 4


@pytest.mark.parametrize('at', [SEARCH - 1, SEARCH, SEARCH + 2, RETRAIN, RETRAIN + 1, RETRAIN + 6])
def test_stopped_and_resumed(trained, tmp_path, at):
    """Before, at and after each switch; law 8."""
    _, folder, gates = trained
    resumed = resume(tmp_path, folder, at, of_gates(gates))
    assert_same_run(resumed, last_file(folder))


@pytest.mark.parametrize('family', list(FAMILIES)[1:])
def test_other_families(tmp_path, family):
    """They are cut too, and resumed in the last stage they go on as they would have."""
    changes = {**of_family(family), **EVERY_ITERATION}
    build(tmp_path / 'whole', **changes).train()
    resumed = resume(tmp_path / 'resumed', tmp_path / 'whole', RETRAIN + 3, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))


def test_a_budget_pays_for_all_of_it():
    plan = make_plan([1.0, 2.0, 4.0, 4.0, 2.0], 0.5, 100, slim=(0.05, 0.45))
    assert plan.cost <= 200 < plan.cost + 1
    assert plan.costs[3] == pytest.approx(10, abs=4) and plan.costs[4] == pytest.approx(90, abs=2)
    grown = make_plan([1.0, 2.0, 4.0], 0.25, 100)
    assert plan.epochs[:3] == pytest.approx(grown.epochs, abs=2)
    shared = make_plan([1.0, 4.0, 4.0, 2.0], 0.5, 100, shares=[0.5, 0.5], slim=(0.1, 0.4))
    assert shared.costs == pytest.approx((50, 50, 20, 80), abs=4)


@pytest.mark.parametrize('gates', [True, 'dims'])
def test_what_is_folded_begins_anew_in_the_optimizer(gates):
    """After the cut the weights that gates scaled are other numbers; the others go on."""
    backbone = CASES['vit'].build(gates=gates)
    add_phases_(backbone, Slimming(0.6), 0)
    optimizer = torch.optim.AdamW(backbone.parameters())
    begin_search_(backbone, optimizer.state)
    backbone(CASES['vit'].images())[0].square().sum().backward()
    optimizer.step()
    cut_(backbone, units_to_keep(backbone, Slimming(0.6), 0), optimizer.state)
    anew = {name for name, p in backbone.named_parameters() if not optimizer.state[p]}
    scaled = ['attn.proj.weight', 'attn.gate', 'ffn.layers.1.weight', 'ffn.gate']
    if gates == 'dims':
        scaled += ['attn.qkv.weight', 'attn.qkv.bias']
    assert anew == {f'layers.{i}.{name}' for i in range(2) for name in scaled}


@pytest.mark.parametrize('gates', [True, 'dims'])
def test_plan_of_slimming_is_drawn(gates):
    """Of heads and hidden units that single modules keep, a share would say nothing."""
    backbone = CASES['vit'].build(gates=gates)
    add_phases_(backbone, Slimming(0.6), 0)
    shares = load_script(ROOT / 'tools' / 'plan.py').active_shares(backbone.training_stages)
    assert isnan(shares['heads'][-1]) and isnan(shares['hidden'][-1])
    assert shares['heads'][-2] == shares['tokens'][-1] == 1


def test_table_of_a_network_that_is_slimmed_already():
    backbone = CASES['vit'].build(training_stages=None, widths=dict(heads=[1, 2], hidden=[10, 20]))
    plan = make_plan([backbone.flops(0) / 1e9], 1.0, 3)
    header, row, *_ = plan_table(plan, backbone.training_stages).splitlines()
    assert header.split()[:4] == ['stage', 'heads', 'hidden', 'tokens']
    assert row.split()[:8] == ['1', '3', 'in', 'all', '30', 'in', 'all', '64']


def test_hours_pay_for_all_of_it(tmp_path, monkeypatch):
    """On a drawn clock; shares are of the time that training takes."""
    monkeypatch.setattr(PassTimeHook, 'seconds', (1.0, 2.0, 4.0, 4.0, 2.5))
    clock = patched_clock(monkeypatch)
    more = {key: SLIM[key] for key in SLIM if key not in ('custom_hooks', 'train_cfg.epochs')}
    loop = run(tmp_path, clock, '1000s', more=more).train_loop
    assert clock.now - 1000 == pytest.approx(1000, rel=0.02)
    assert loop.stage == 4
    seconds = loop.ledger.seconds
    assert seconds[3] / sum(seconds) == pytest.approx(0.05, abs=0.02)
    assert seconds[4] / sum(seconds) == pytest.approx(0.45, abs=0.03)


@pytest.mark.parametrize(
    'slim, message',
    [
        (0.7, 'train_cfg.slim=0.7 must be a dict with flops, such as dict'),
        (dict(search=0.1), 'must be a dict with flops'),
        (dict(flops=0.7, epochs=3), 'must be a dict with flops'),
        (dict(flops=0.7, search=0.0), 'search=0.0 must be a share of the budget, above 0'),
        (dict(flops=0.7, retrain='half'), "retrain='half' must be a share of the budget"),
        (dict(flops=0.7, search=0.5, retrain=0.5), 'leave nothing of the budget'),
        (dict(flops=0.7, scores='taylor'), "scores='taylor' is not known; give one of"),
    ],
)
def test_wrong_options(slim, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_slimming(slim)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model.backbone.gates': False}, 'the backbone does not have; give it gates=True, or'),
        ({'model.backbone.gates': 'dim'}, "gates='dim' must be True or False, or 'dims' for"),
        ({'train_cfg.slim': dict(flops=0.01)}, 'is less than the smallest choice costs'),
        ({'train_cfg.slim': dict(flops=1.2)}, 'must be a share above 0 and up to 1'),
        ({'train_cfg.slim': dict(flops=0.6, by='size')}, "by='size' is not known"),
        ({'train_cfg.epochs': [1, 1, 1]}, 'must be a list of 5 numbers'),
    ],
)
def test_wrong_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(tmp_path, **{**SLIM, **changes}).train()


def test_read_slimming():
    assert read_slimming(None) is None
    assert read_slimming(dict(flops=0.7)) == Slimming(0.7)
    assert read_slimming(dict(flops='2.8 GFLOPs', by='cost')).options['by'] == 'cost'
    for given, fill in (({}, True), ({'multiple': 8}, False), ({'only': 'heads'}, False)):
        assert read_slimming(dict(flops=0.7, **given)).options['fill'] is fill
