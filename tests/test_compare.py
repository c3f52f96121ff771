# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/compare.py: its methods, its costs, its statistics, and going on after a stop."""

import fcntl
import json
import math
import os
import signal
import statistics
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace

import cv2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS

from bvit_mm.compare import (
    ABLATIONS,
    METHODS,
    Method,
    Record,
    markdown_tables,
    paired_difference,
    pareto_front,
    read_records,
)
from bvit_mm.compare.ablations import TABLE_13
from bvit_mm.compare.amounts import read_amounts, time_text
from bvit_mm.compare.figure import draw, front, lines
from bvit_mm.compare.runner import group
from bvit_mm.compare.runs import Run, record_of, run_config
from bvit_mm.cost import budget_of_config, plan_of_config
from bvit_mm.hours import parse_duration
from bvit_mm.ledger import Ledger
from bvit_mm.training_stages import per_level

from .support import fresh
from .support.configs import planned
from .support.scripts import run_tool
from .support.tools import DEIT_S, ROOT, script

SWIN_S = ROOT / 'configs' / 'swin' / 'swin-small_bvit-b50_16xb64_in1k.py'
PVT = ROOT / 'configs' / 'pvtv2' / 'pvtv2-b2-linear_bvit-b50_8xb128_in1k.py'
DIGITS = ROOT / 'configs' / 'compare' / 'deit-digits.py'


def record(method, budget, seed, value, cost=None):
    return Record(
        method,
        budget,
        seed,
        cost or budget,
        {'training': 60.0},
        [1, 2],
        'accuracy/top1',
        value,
        [],
        'cpu',
    )


# What methods are.


@pytest.mark.parametrize(
    'file, share',
    [(DEIT_S, 0.25), (DEIT_S, 0.75), (DEIT_S, 1.0), (SWIN_S, 0.5), (PVT, 0.5)],
    ids=['deit-25', 'deit-75', 'deit-100', 'swin-50', 'pvtv2-50'],
)
@pytest.mark.parametrize('name', METHODS)
def test_methods_cost_the_same(built_once, file, name, share):
    plan, _, full, _ = planned(file, METHODS[name], share, single_labels=name.startswith('grad'))
    assert plan.cost / full == pytest.approx(share, rel=0.01)
    assert plan.cost <= share * full * (1 + 1e-9)


def test_mixed_labels_are_refused_before_a_run():
    with pytest.raises(ValueError, match="selection='gradmatch' cannot be right with this model"):
        planned(DEIT_S, METHODS['gradmatch'], 0.5)


@pytest.mark.parametrize('share', [0.25, 1.0])
def test_updates_are_as_many_as_the_growing_networks(share):
    growing, _, _, cfg = planned(DIGITS, METHODS['bvit'], share)
    plan, _, _, changed = planned(DIGITS, METHODS['equal-updates'], share)
    ours, theirs = (
        sum(p.epochs) / c.train_dataloader.batch_size for p, c in ((growing, cfg), (plan, changed))
    )
    assert theirs == pytest.approx(ours, rel=0.02)
    size, rate = changed.train_dataloader.batch_size, changed.optim_wrapper.optimizer.lr
    assert rate == pytest.approx(cfg.optim_wrapper.optimizer.lr * math.sqrt(size / 64))


@pytest.mark.parametrize(
    'share, side, tokens', [(0.25, 112, 49), (0.5, 160, 100), (0.75, 192, 144)]
)
def test_downsampling_is_the_papers(built_once, share, side, tokens):
    """Table 12: 112, 160 and 192 pixels for about a quarter, a half and three quarters."""
    plan, backbone, _, cfg = planned(DEIT_S, METHODS['downsample'], share)
    assert cfg.model.backbone.img_size == side
    assert math.prod(backbone.whole.grid) == tokens
    assert plan.gflops[0] == pytest.approx({112: 1.1, 160: 2.3, 192: 3.3}[side], abs=0.06)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        *_, resize, pack = loader.dataset.pipeline
        assert resize.type == 'Resize' and resize.scale == (side, side)
        assert pack.type == 'PackInputs'


def test_downsampled_swin_computes():
    """Its last level is smaller than a window."""
    *_, cfg = planned(SWIN_S, METHODS['downsample'], 0.5)
    backbone = MODELS.build(cfg.model.backbone)
    side = cfg.model.backbone.img_size
    backbone.eval()
    assert side < 224 and backbone(torch.zeros(1, 3, side, side))[0].isfinite().all()


@pytest.mark.parametrize(
    'file, grids, windows',
    [
        (DEIT_S, [8, 11, 14], None),
        (DIGITS, [4, 5, 7], None),
        (PVT, [32, 42, 56], None),
        (SWIN_S, [32, 40, 56], [4, 5, 7]),
    ],
    ids=['deit', 'digits', 'pvtv2', 'swin'],
)
def test_scaled_stages(built_once, file, grids, windows):
    """By the same factor from stage to stage; with growth they keep the config's units."""
    given = planned(file, METHODS['bvit'], 0.5)[1].training_stages
    for name, units in (('scale', given), ('scale-whole', given[-1:] * 3)):
        stages = planned(file, METHODS[name], 0.5)[1].training_stages
        assert [stage.grid for stage in stages] == [(n, n) for n in grids]
        assert [stage.view for stage in stages] == ['scale', 'scale', 'whole']
        assert [(s.heads, s.hidden) for s in stages] == [(s.heads, s.hidden) for s in units]
        if windows:
            assert [stage.window for stage in stages] == windows


TENTHS = [6] * 2 + [10] * 4 + [12] * 2 + [14] * 2  # its patches a side, 96 to 224 pixels
OF_SWIN = [24] * 2 + [40] * 4 + [56] * 4


@pytest.mark.parametrize(
    'file, name, grids, heads',
    [
        (DEIT_S, 'etpp', TENTHS, [6] * 10),
        (DEIT_S, 'etpp-grow', TENTHS, [2] * 2 + [4] * 6 + [6] * 2),
        (PVT, 'etpp', [24] * 2 + [40] * 4 + [48] * 2 + [56] * 2, [8] * 10),
        (SWIN_S, 'etpp', OF_SWIN, [24] * 10),
        (SWIN_S, 'etpp-grow', OF_SWIN, [8] * 2 + [16] * 4 + [24] * 4),
    ],
    ids=['deit', 'deit-grow', 'pvtv2', 'swin', 'swin-grow'],
)
def test_efficient_train(built_once, file, name, grids, heads):
    """Its schedule: 96, 160, 192, 224 pixels of 224, in tenths that cost the same."""
    plan, backbone, full, cfg = planned(file, METHODS[name], 0.325)
    stages = backbone.training_stages
    assert [stage.grid for stage in stages] == [(n, n) for n in grids]
    assert [stage.view for stage in stages] == [
        'whole' if n == grids[-1] else 'scale' for n in grids
    ]
    assert [per_level(stage.heads, 1)[-1] for stage in stages] == heads  # of the last level
    if file is SWIN_S:
        assert [stage.window for stage in stages] == [n // 8 for n in grids]
    assert plan.costs == pytest.approx([0.0325 * full] * 10, abs=max(plan.gflops))
    (hook,) = cfg.custom_hooks
    assert hook['recipes'] == [dict(magnitude=i) for i in range(10)]
    assert cfg.train_dataloader.sampler.type == 'DefaultSampler'
    assert cfg.train_cfg.schedule == 'budget'


def test_efficient_train_without_rand_augment():
    """Digits have none, so equal tenths are one training stage: 3, 5, 6, 7 of 7 patches."""
    for name, hidden in (('etpp', [192] * 4), ('etpp-grow', [48, 96, 96, 192])):
        _, backbone, _, cfg = planned(DIGITS, METHODS[name], 0.5)
        stages = backbone.training_stages
        assert [stage.grid[0] for stage in stages] == [3, 5, 6, 7]
        assert [stage.hidden for stage in stages] == hidden
        assert cfg.train_cfg.shares == [0.2, 0.4, 0.2, 0.2]
        assert [hook['recipes'] for hook in cfg.custom_hooks] == [None]


def test_baselines_of_a_config_with_shares_and_recipes(built_once):
    """They have one stage, and the recipe of the last."""
    images = ROOT / 'configs' / 'demo' / 'deit-images_recommended-b50.py'
    for name in ('rex', 'downsample', 'random-subset', 'equal-updates'):
        plan, backbone, _, cfg = planned(images, METHODS[name], 0.5)
        assert backbone.num_training_stages == len(plan.epochs) == 1
        assert cfg.train_cfg.shares is None
        assert cfg.custom_hooks[0].recipes == [dict(magnitude=6)]


@pytest.mark.parametrize('name', ['alpha=0', 'linear-up', 'stages=2', 'grow-tokens', 'half'])
def test_ablations_of_a_config_with_shares_and_recipes(built_once, name):
    images = ROOT / 'configs' / 'demo' / 'deit-images_recommended-b50.py'
    if name == 'grow-tokens':
        cfg = Config.fromfile(images)
        stages = ABLATIONS[name](cfg, 0.5)['model.backbone.training_stages']
        assert [stage['view'] for stage in stages] == ['scale'] * 3 + ['whole']
        return
    plan, backbone, _, cfg = planned(images, ABLATIONS[name], 0.5)
    assert backbone.num_training_stages == (2 if name == 'stages=2' else 4)
    assert plan.cost <= plan.budget


def test_one_stage_cannot_be_scaled():
    cfg = Config.fromfile(DIGITS)
    cfg.model.backbone.training_stages = None
    with pytest.raises(ValueError, match=r'scaling needs model\.backbone\.training_stages, two'):
        METHODS['scale'](cfg, 0.5)


@pytest.mark.parametrize('name', ['narrow', 'narrow-recommended'])
def test_narrow_networks_have_half_of_the_flops(built_once, name):
    """Fewer channels, as many layers and heads; they cost what the config's network would."""
    plan, backbone, _, cfg = planned(DIGITS, ABLATIONS[name], 0.5)
    whole_plan, whole, _, _ = planned(DIGITS, METHODS['rex'], 0.5)
    assert 0.49 < plan.gflops[-1] / whole_plan.gflops[-1] <= 0.5
    assert plan.cost == pytest.approx(whole_plan.cost, rel=0.03)  # whole epochs
    layers, heads = len(whole.layers), whole.whole.heads
    assert (len(backbone.layers), backbone.whole.heads) == (layers, heads)
    assert backbone.embed_dims < whole.embed_dims and backbone.embed_dims % heads == 0
    assert cfg.model.head.in_channels == backbone.embed_dims
    assert backbone.num_training_stages == (1 if name == 'narrow' else 4)


def test_narrow_needs_to_know_the_channels():
    with pytest.raises(ValueError, match=r"backbone\.arch='deit-small' does not say"):
        ABLATIONS['narrow'](Config.fromfile(DEIT_S), 0.5)


def test_schedule_of_a_config_without_one():
    cfg = Config.fromfile(DEIT_S)
    cfg.param_scheduler = None
    with pytest.raises(ValueError, match='no scheduler of learning rates'):
        METHODS['rex'](cfg, 0.5)
    cfg.param_scheduler = dict(type='CosineAnnealingLR', begin=0)
    assert METHODS['rex'](cfg, 0.5)['param_scheduler'] == [dict(type='bvit_mm.REXLR', begin=0)]


def test_schedules_follow_the_warm_up(built_once):
    for name, kind in (('linear', 'bvit_mm.LinearDecayLR'), ('rex', 'bvit_mm.REXLR')):
        *_, cfg = planned(DEIT_S, METHODS[name], 0.5)
        warm_up, main = cfg.param_scheduler
        assert warm_up.type == 'LinearLR' and main.type == kind
        assert main.begin == warm_up.end == 5
    *_, ours = planned(DEIT_S, METHODS['cosine'], 0.5)
    theirs = Config.fromfile(ROOT / 'configs' / 'deit' / 'deit-small_cosine-b50_4xb256_in1k.py')
    assert ours.param_scheduler == theirs.param_scheduler


@pytest.mark.parametrize(
    'file, name',
    [*((DIGITS, name) for name in ABLATIONS), *((SWIN_S, name) for name in TABLE_13)],
    ids=lambda value: value if isinstance(value, str) else value.parent.name,
)
def test_ablations_have_plans_of_the_budget(built_once, file, name):
    plan, _, full, _ = planned(file, ABLATIONS[name], 0.5)
    assert plan.cost / full == pytest.approx(0.5, rel=0.02)
    assert plan.cost <= 0.5 * full * (1 + 1e-9)
    if name == 'longest-second':
        assert plan.epochs[1] == max(plan.epochs)
    if name.startswith('stages='):
        assert len(plan.epochs) == int(name[-1])


def test_components_grow_alone():
    """Table 13's GFLOPs: tokens only, against the sum by hand."""
    plan, backbone, *_ = planned(DEIT_S, ABLATIONS['grow-tokens'], 0.5)
    assert [stage.heads for stage in backbone.training_stages] == [6, 6, 6]
    assert [stage.grid for stage in backbone.training_stages] == [(10, 10), (12, 12), (14, 14)]
    assert math.fsum(c * n for c, n in zip(plan.gflops, (50, 100, 150))) == pytest.approx(
        1140.1, abs=0.1
    )  # docs/tables.md: the paper prints 973.9, which cannot be


def test_initializers_keep_other_hooks():
    cfg = Config.fromfile(DEIT_S)
    cfg.custom_hooks = [dict(type='EMAHook'), dict(type='bvit_mm.StageSwitchHook')]
    hooks = ABLATIONS['half'](cfg, 0.5)['custom_hooks']
    assert hooks[0] == dict(type='EMAHook')
    assert hooks[1] == dict(type='bvit_mm.StageSwitchHook', init='half', moments='drop')


def test_methods_together():
    """Keeps the changes of each: copies at half their weight, and REX instead of the cosine."""
    changes = ABLATIONS['half-rex'](Config.fromfile(DEIT_S), 0.5)
    assert [hook.get('init') for hook in changes['custom_hooks']] == ['half']
    assert changes['param_scheduler'][-1]['type'] == 'bvit_mm.REXLR'
    assert set(changes) == {'custom_hooks', 'param_scheduler'}


def test_methods_one_after_the_other():
    """Of one hook, each changes its own: the tenths' magnitudes, and how new weights start."""
    changes = METHODS['recommended'](Config.fromfile(DEIT_S), 0.5)
    (hook,) = changes['custom_hooks']
    assert hook['recipes'] == [dict(magnitude=i) for i in range(10)] and hook['init'] == 'half'
    assert changes['param_scheduler'][-1]['type'] == 'bvit_mm.REXLR'
    assert changes['train_cfg.shares'] == [0.1] * 10


def test_methods_with_shares():
    """In place of alpha and seed, and the learning rate may go by the spent budget."""
    cfg = Config.fromfile(DEIT_S)
    changes = ABLATIONS['half-rex-early-by-budget'](cfg, 0.5)
    cfg.merge_from_dict(changes)
    assert (cfg.train_cfg.shares, cfg.train_cfg.schedule) == ([0.15, 0.35, 0.5], 'budget')
    plan, _ = plan_of_config(cfg)
    costs = [epochs * gflops / plan.budget for epochs, gflops in zip(plan.epochs, plan.gflops)]
    assert costs == pytest.approx([0.15, 0.35, 0.5], abs=plan.gflops[-1] / plan.budget)


# Statistics.


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8))
def test_paired_difference(values):
    """Student's interval by its textbook formula."""
    t = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}[len(values) - 1]
    ours = {seed: record('a', 0.5, seed, a) for seed, (a, _) in enumerate(values)}
    theirs = {seed: record('b', 0.5, seed, b) for seed, (_, b) in enumerate(values)}
    theirs[99] = record('b', 0.5, 99, 0.0)  # has no partner
    mean, low, high, n = paired_difference(ours, theirs)
    differences = [a - b for a, b in values]
    half = t * statistics.stdev(differences) / math.sqrt(n)
    assert n == len(values) and mean == pytest.approx(statistics.fmean(differences), abs=1e-9)
    rounded = 0.0005 / t * half + 1e-9  # the table's t
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=0, abs=rounded)


def test_paired_difference_of_one_and_of_none():
    one, other = {0: record('a', 0.5, 0, 3.0)}, {0: record('b', 0.5, 0, 1.0)}
    mean, low, high, n = paired_difference(one, other)
    assert (mean, n) == (2.0, 1) and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match='no seed was run by both'):
        paired_difference(one, {1: record('b', 0.5, 1, 1.0)})


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=12))
def test_pareto_front(points):
    """A point is on it if none costs less and reaches as much, or costs as much and more."""
    front = pareto_front(points)
    brute = {p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)}
    assert set(front) == brute and front == sorted(front)


def test_tables():
    records = [
        *(record('bvit', 0.5, seed, value) for seed, value in enumerate([90.0, 92.0, 94.0])),
        *(record('linear', 0.5, seed, value) for seed, value in enumerate([89.0, 90.0, 94.0])),
        record('bvit', 1.0, 0, 95.0),
    ]
    text = markdown_tables(records)
    assert '| bvit | 92.00 ± 2.00 (3) | 95.00 (1) |' in text
    assert '| linear | 91.00 ± 2.65 (3) |  |' in text
    assert '| linear | +1.00 [-1.48, +3.48] (3) |  |' in text


def test_only_charged_methods_are_on_the_front():
    """Others cost more than is counted, whatever their names; methods of old files are charged."""
    methods = {'paid': Method({}), 'gradmatch': Method({}, charged=False)}
    records = [
        *(record('paid', budget, seed, 90 + 2 * seed) for budget in (0.5, 1.0) for seed in (0, 1)),
        record('gradmatch', 0.25, 0, 99.0),
        record('old', 0.75, 0, 93.0),
    ]
    points = lines(records)
    assert points['paid'] == [(50.0, 91.0, 2**0.5), (100.0, 91.0, 2**0.5)]
    assert front(points, methods) == [(50.0, 91.0), (75.0, 93.0)]
    assert front(points, {}) == [(25.0, 99.0)]


def test_costs_of_the_front_are_equal_to_a_percent():
    """A method that met the same budget a little more closely is not on it beside a better one."""
    points = {
        'ours': [(25.0, 68.0, 1.0)],
        'theirs': [(24.9, 63.0, 1.0)],
        'cheap': [(24.0, 60.0, 1.0)],
    }
    assert front(points, {}) == [(24.0, 60.0), (25.0, 68.0)]


def test_methods_that_are_not_charged():
    known = {**METHODS, **ABLATIONS}
    assert [name for name in known if not known[name].charged] == ['gradmatch-uncharged']


def test_importing_the_package_leaves_comparisons_and_figures_alone(tmp_path):
    """mmpretrain imports matplotlib, where it is installed; nothing that is imported here does."""
    file = tmp_path / 'imports.py'
    file.write_text(
        'import sys, bvit_mm\nprint(*(m for m in sys.modules if m.startswith("bvit_mm.")))'
    )
    imported = script(file, cwd=ROOT).splitlines()[-1].split()
    assert 'bvit_mm.plan' in imported and len(imported) > 20
    assert not [name for name in imported if name.startswith('bvit_mm.compare')]
    for name in imported:
        path = ROOT / name.replace('.', '/')
        file = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
        assert 'matplotlib' not in file.read_text(), name


def test_damaged_records_are_named(tmp_path):
    (tmp_path / 'runs.jsonl').write_text(json.dumps(record('a', 1.0, 0, 1.0)._asdict()) + '\n{"x"')
    with pytest.raises(ValueError, match=r'line 2 of .*runs.jsonl is no record of a run'):
        read_records(tmp_path / 'runs.jsonl')


# Equal time.


@given(st.integers(1, 10**6), st.integers(1, 999))
def test_times_have_one_text(whole, part):
    for seconds in (float(whole), 60.0 * whole, 3600.0 * whole, whole + part / 1000):
        text = time_text(seconds)
        assert parse_duration(text) == pytest.approx(seconds, abs=1e-6)
        assert read_amounts([text]) == [text]


def test_amounts_are_read_once():
    assert read_amounts(['60s', '1min', '0.5min', '120 min']) == ['1min', '30s', '2h']
    assert read_amounts([0.25, '0.25', '1']) == [0.25, 1.0]


def test_tables_and_figure_of_times(tmp_path):
    records = [
        record(name, budget, seed, value + seed, cost)._replace(seconds={'a': took, 'b': 30.0})
        for name, budget, value, cost, took in (
            ('bvit', '90min', 92.0, 0.5, 5400.0),
            ('bvit', '2h', 93.0, 0.625, 7170.0),
            ('bvit', '20min', 90.0, 0.125, 1170.0),
            ('rex', '20min', 88.0, 0.25, 1170.0),
        )
        for seed in (0, 1)
    ]
    text = markdown_tables(records)
    assert '| method | 20min | 90min | 2h |' in text
    assert '| bvit | 90.50 ± 0.71 (2) | 92.50 ± 0.71 (2) | 93.50 ± 0.71 (2) |' in text
    assert '| bvit | 12.50%, 20 min | 50.00%, 90.5 min | 62.50%, 2 h |' in text
    assert '| rex | +2.00 [+2.00, +2.00] (2) |  |  |' in text
    points = lines(records)
    ours = [(20.0, 90.5), (90.5, 92.5), (120.0, 93.5)]
    assert points['bvit'] == [(*point, 0.5**0.5) for point in ours]
    assert front(points, METHODS) == ours
    draw(records, tmp_path / 'figure.png', METHODS)
    assert cv2.imread(str(tmp_path / 'figure.png')).shape[1] == 900


@pytest.mark.parametrize('took', [3.0, 19.9])
def test_a_run_that_left_its_time(took, tmp_path):
    """Something stopped it before it was over."""
    cfg = run_config(Config.fromfile(DIGITS), METHODS['rex'], '20s', 1.0, seed=0)
    _, plan, _ = budget_of_config(cfg)
    run = Run(tmp_path, 'rex', '20s', 0, cfg, plan, plan.full_cost)
    ledger = Ledger.of_run(plan, 4, 64)
    ledger.iterations, ledger.seconds = [10], [took]
    (tmp_path / 'ledger.json').write_text(json.dumps(ledger.as_dict()))
    log = tmp_path / 'now' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({'accuracy/top1': 50.0, 'step': 3}) + '\n')
    if took < 18:
        with pytest.raises(ValueError, match='was stopped after 3 s of 20s, so it has not spent'):
            record_of(run)
    else:
        assert record_of(run).epochs == [2.5] and record_of(run).value == 50.0
        assert record_of(run).cost == pytest.approx(2.5 / 32)


# The tool.


@pytest.fixture(scope='module')
def compare_here():
    """Runs the tool in this process; what it printed, or what was wrong."""

    def run(*args):
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                run_tool('compare', *args)
            except SystemExit as stop:
                if stop.code != 2:  # of the parser, which has printed it
                    print(stop, file=sys.stderr)
        return SimpleNamespace(out=out.getvalue(), err=err.getvalue())

    return run


@pytest.mark.parametrize(
    'args, message',
    [
        (['--methods', 'magic'], '--methods magic is not known; give bvit, linear'),
        (['--budgets', '1.5'], '--budgets 1.5 must be shares of the full cost'),
        (
            ['--budgets', 'much'],
            '--budgets much must be shares of the full cost, above 0, up to 1, or',
        ),
        (['--budgets', '0min'], "budget='0min' must be above 0 and finite"),
        (
            ['--budgets', '0.5', '20min'],
            '--budgets 0.5 20min are shares of the full cost and times',
        ),
        (['--budgets', '9s', '--jobs', '2'], '--jobs 2 with times: runs that share a machine slow'),
        (
            ['--budgets', '9s', '--cfg-options', 'train_cfg.max_epochs=9'],
            "bvit at budget 9s: budget='9s' is spent to the end, whatever the epochs",
        ),
        (['--budgets', '0.001'], 'bvit at budget 0.001: budget='),
        (['--seeds', '0'], '--seeds 0 must be at least 1'),
        (['--jobs', '0'], '--jobs 0 must be at least 1'),
        (['--gpus', '0'], '--gpus 0 must be at least 1'),
        (['--first-seed', '-1'], '--first-seed -1 must be at least 0, and its last seed'),
        (['--report', 'nan'], '--report nan must be seconds, above 0'),
        (['--methods-of', 'nowhere.py'], '--methods-of nowhere.py is no file'),
        (['--methods-of', __file__], 'must set METHODS'),
        (['--cfg-options', 'train_cfg.alpha=x'], "alpha='x' must be a finite number"),
        (
            ['--cfg-options', 'train_cfg.val_begin=9'],
            'val_begin=9 of train_cfg is after the last of 8',
        ),
        (['--cfg-options', 'visualizer.vis_backends=[]'], "must have dict(type='LocalVisBackend')"),
    ],
)
def test_wrong_arguments(compare_here, tmp_path, args, message):
    if args[-1] == __file__:  # it has METHODS of its own by import
        (tmp_path / 'mine.py').write_text('METHOD = {}\n')
        args = ['--methods-of', tmp_path / 'mine.py']
    out = tmp_path / 'out'
    assert message in compare_here(DIGITS, '--out', out, *args).err
    assert not out.exists()


def test_what_would_be_run(compare_here, tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from bvit_mm.compare import Method\n'
        "METHODS = {'few': Method({'train_cfg.alpha': 4.0}, charged=False)}\n"
    )
    printed = compare_here(
        DIGITS, '--dry-run', '--out', tmp_path / 'out', '--methods', 'few', 'cosine',
        '--methods-of', tmp_path / 'mine.py', '--budgets', '0.25', '--seeds', '2',
    ).out.splitlines()  # fmt: skip
    assert printed[0].startswith('4 of 4 runs are left, 0.9')
    assert [line.split(':')[0] for line in printed[1:]] == [
        'few-b0.25-s0', 'cosine-b0.25-s0', 'few-b0.25-s1', 'cosine-b0.25-s1',
    ]  # fmt: skip
    assert 'epochs [8]' in printed[2]


def test_uneven_costs_are_told(compare_here, tmp_path):
    options = ['--cfg-options', 'train_cfg.full_epochs=11']
    told = compare_here(
        DIGITS, '--dry-run', '--out', tmp_path, '--methods', 'cosine', '--budgets', '0.5', *options
    ).err
    assert 'warning: cosine-b0.5-s0 costs 45.45% of the full cost, not 50%: epochs [5]' in told


def test_folder_in_use_is_refused(compare_here, tmp_path):
    with (tmp_path / 'lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = compare_here(DIGITS, '--out', tmp_path, '--methods', 'bvit', '--seeds', '1').err
    assert f'{tmp_path} is in use by another compare.py, or by a run that a killed one' in error
    assert [f.name for f in tmp_path.iterdir()] == ['lock']


@pytest.mark.parametrize(
    'name', [name for name, method in {**METHODS, **ABLATIONS}.items() if not method.takes_time]
)
def test_methods_that_need_a_share(compare_here, tmp_path, name):
    args = ['--budgets', '20min', '--out', tmp_path / 'out']
    error = compare_here(DIGITS, '--methods', name, *args).err
    assert (
        f'{name} at budget 20min: it must know which share of the full cost it may spend' in error
    )
    assert len(error.splitlines()[-1]) < 250 and not (tmp_path / 'out').exists()


def test_all_other_methods_take_a_time(built_once):
    known = {**METHODS, **ABLATIONS}
    assert [name for name in METHODS if not known[name].takes_time] == [
        'downsample', 'equal-updates', 'random-subset', 'gradmatch', 'gradmatch-uncharged',
    ]  # fmt: skip
    assert [name for name in ABLATIONS if not known[name].takes_time] == [
        'epochs<=0.75', 'epochs<=1', 'longest-second',
    ]  # fmt: skip
    for method in (method for method in known.values() if method.takes_time):
        cfg = run_config(Config.fromfile(DIGITS), method, '20min', 1.0, seed=0)
        assert budget_of_config(cfg)[0].as_dict()['seconds'] == 1200


def test_what_would_be_run_in_a_time(compare_here, tmp_path):
    args = ['--budgets', '90s', '1.5min', '60s', '--methods', 'bvit', 'rex', '--seeds', '2']
    printed = compare_here(DIGITS, '--dry-run', '--out', tmp_path / 'out', *args)
    first, *others = printed.out.splitlines()
    assert first == '8 of 8 runs are left, 10 min' and 'warning' not in printed.err
    assert others[0] == 'bvit-b90s-s0: as many epochs as fit'
    assert [line.split(':')[0] for line in others[1:3]] == ['rex-b90s-s0', 'bvit-b1min-s0']


def test_a_folder_has_one_kind(compare_here, tmp_path):
    line = json.dumps(record('bvit', 0.5, 0, 90.0)._asdict())
    (tmp_path / 'runs.jsonl').write_text(line + '\n')
    error = compare_here(DIGITS, '--budgets', '9s', '--methods', 'rex', '--out', tmp_path).err
    assert f'{tmp_path} has runs of the other kind of --budgets' in error


@pytest.fixture(scope='module')
def short(digits, lean_starts):
    """Options of eight epochs of four batches."""
    return [
        '--budgets', '0.5', '--seeds', '1', '--cfg-options',
        'train_cfg.full_epochs=8', 'train_dataloader.num_batch_per_epoch=4',
        'val_dataloader.num_batch_per_epoch=1', 'param_scheduler.0.end=2',
        'param_scheduler.1.begin=2', 'default_hooks.logger.interval=1',
        f'train_dataloader.dataset.data_root={digits}/train',
        f'val_dataloader.dataset.data_root={digits}/val',
    ]  # fmt: skip


@pytest.fixture(scope='module')
def whole(compare_here, short, tmp_path_factory):
    """A run beside one that fails: the folder of these, and what was printed."""
    folder = tmp_path_factory.mktemp('compared')
    broken = {'train_dataloader.dataset.data_root': str(folder / 'nowhere')}
    (folder / 'mine.py').write_text(f"METHODS = {{'broken': {broken}}}\n")
    printed = compare_here(
        DIGITS, '--methods', 'broken', 'rex', '--methods-of', folder / 'mine.py',
        '--jobs', '2', '--out', folder / 'out', *short,
    )  # fmt: skip
    return SimpleNamespace(out=folder / 'out', printed=printed)


def test_a_run_that_fails_does_not_stop_others(whole):
    error = whole.printed.err
    assert 'these runs failed:' in error and 'broken-b0.5-s0 ended with 1' in error
    assert 'nowhere' in error
    (record,) = read_records(whole.out / 'runs.jsonl')
    assert record.method == 'rex'


def test_a_run_has_several_processes(compare_here, short, tmp_path):
    """One a GPU, or on the CPU; meanwhile it is told how far they are."""
    printed = compare_here(
        DIGITS, '--methods', 'cosine', '--gpus', '2', '--report', '1', '--out', tmp_path, *short
    ).out
    assert 'training: cosine-b0.5-s0 ' in printed
    assert '[1/1] cosine-b0.5-s0: accuracy/top1' in printed
    ledger = json.loads((tmp_path / 'cosine-b0.5-s0' / 'ledger.json').read_text())
    assert ledger['samples'] == [4 * 4 * 2 * 64]  # epochs, batches, processes, images


def test_gpus_are_dealt_out_in_turn():
    devices = ['3', '5', '6', '7', '9']
    assert [group(devices, 2, slot) for slot in range(3)] == [['3', '5'], ['6', '7'], ['3', '5']]
    assert [group(devices[:2], 1, slot) for slot in range(3)] == [['3'], ['5'], ['3']]


@pytest.mark.parametrize(
    'text, message',
    [
        ("METHODS = {'mine': 3}", 'mine in METHODS of {} is 3; give a dict of changes'),
        (
            "METHODS = {'mine': lambda cfg: {}}",
            'mine at budget 0.25: <lambda>() takes 1',
        ),
        ('METHODS = {', '--methods-of {} is no Python: '),
    ],
)
def test_methods_that_are_none(compare_here, tmp_path, text, message):
    file = tmp_path / 'mine.py'
    file.write_text(text)
    args = ['--methods-of', file, '--methods', 'mine', '--out', tmp_path / 'out']
    assert message.format(file) in compare_here(DIGITS, *args).err


def test_folder_that_cannot_be_made(compare_here, tmp_path):
    (tmp_path / 'file').touch()
    error = compare_here(DIGITS, '--methods', 'cosine', '--out', tmp_path / 'file' / 'out').err
    assert f'--out {tmp_path}/file/out cannot be made: ' in error


def test_mixed_precision_without_a_gpu(compare_here, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    error = compare_here(DIGITS, '--amp', '--out', tmp_path / 'out').err
    assert '--amp needs a GPU' in error and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'name, changes, message',
    [
        ('downsample', {'model.backbone.img_size': (28, 28)}, 'needs a number as model.backbone'),
        ('downsample', {'val_dataloader.dataset.pipeline': []}, 'needs val_dataloader.dataset.pip'),
    ],
)
def test_configs_that_methods_cannot_change(name, changes, message):
    cfg = Config.fromfile(DIGITS)
    cfg.merge_from_dict(changes)
    with pytest.raises(ValueError, match=message):
        METHODS[name](cfg, 0.5)


def test_more_gpus_than_there_are(compare_here, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    error = compare_here(DIGITS, '--gpus', '2', '--out', tmp_path / 'out').err
    assert '--gpus 2, but torch sees 1' in error and not (tmp_path / 'out').exists()


def stopped(args, log, folder):
    """What the tool says when it is stopped in the second epoch of a run."""
    command = list(map(str, [ROOT / 'tools' / 'compare.py', *args]))
    process = fresh.start(command, cwd=folder, outputs=folder)
    for _ in range(900):
        if log.is_file() and 'Epoch(train) [2]' in log.read_text().replace('  ', ' '):
            break
        time.sleep(0.1)
    else:
        raise AssertionError(log.read_text())
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert process.exitcode
    return (folder / 'stderr').read_text()


def test_interrupted_and_gone_on_with(compare_here, short, whole, tmp_path):
    """The table is the same as without the stop."""
    args = [DIGITS, '--methods', 'bvit', 'rex', *short]
    assert '[1/2] rex-b0.5-s0: accuracy/top1' in whole.printed.out
    log = tmp_path / 'stopped' / 'rex-b0.5-s0' / 'output.txt'
    (tmp_path / 'stopped').mkdir()
    line = json.dumps(record('bvit', 0.5, 0, 90.0)._asdict())  # a run that has ended before
    (tmp_path / 'stopped' / 'runs.jsonl').write_text(line + '\n')

    told = stopped([*args, '--out', tmp_path / 'stopped'], log, tmp_path)
    assert 'stopped by signal 15; the same command goes on' in told
    assert len(read_records(tmp_path / 'stopped' / 'runs.jsonl')) == 1
    assert (log.parent / 'interrupted.pth').is_file()

    went_on = compare_here(*args, '--out', tmp_path / 'stopped').out
    assert '1 of 2 runs are left' in went_on and 'resumed epoch' in log.read_text()
    ours, theirs = (
        read_records(out / 'runs.jsonl')[-1]._replace(seconds={})
        for out in (tmp_path / 'stopped', whole.out)
    )
    assert ours == theirs
    assert ours.cost == 0.5 and ours.epochs == [4] and 0 <= ours.value <= 100
    assert cv2.imread(str(tmp_path / 'stopped' / 'figure.png')).shape[1] == 900
    assert not list(tmp_path.glob('stopped/*/*.pth'))

    args[args.index('train_cfg.full_epochs=8')] = 'train_cfg.full_epochs=10'
    error = compare_here(*args, '--out', tmp_path / 'stopped').err
    assert 'config.py is another config, or another --gpus; give another --out, or' in error


def test_equal_time_gone_on_with(compare_here, short, tmp_path):
    """A run stopped while it trains: the time between its sessions is not counted."""
    args = [DIGITS, *short, '--methods', 'rex', '--out', tmp_path, '--budgets', '6s']
    told = stopped(args, tmp_path / 'rex-b6s-s0' / 'output.txt', tmp_path)
    assert 'stopped by signal 15; the same command goes on' in told
    assert not (tmp_path / 'runs.jsonl').exists()

    printed = compare_here(*args).out
    assert '1 of 1 runs are left, 6 s' in printed
    assert 'resumed epoch' in (tmp_path / 'rex-b6s-s0' / 'output.txt').read_text()
    (found,) = read_records(tmp_path / 'runs.jsonl')
    assert (found.budget, found.seed) == ('6s', 0) and found.took > 0.9 * 6
    assert found.epochs[0] > 1 and found.cost == pytest.approx(found.epochs[0] / 8)
    assert '| method | 6s |' in printed
    assert compare_here(*args, '--dry-run').out == '0 of 1 runs are left\n'
