# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One row opens a door: a new axis of training stages, and a new initializer, by toys.

The backbone has no heads. Its blocks are slices of two parameters, so its one elastic module
follows two axes: hidden units, and depth, which ``bvit_mm`` does not know.
"""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from bvit_mm import flops, growth
from bvit_mm.elastic import ElasticBackbone, center_crop
from bvit_mm.elastic_modules import ElasticModule, UnitSlot
from bvit_mm.growth import grow_
from bvit_mm.registry import MODELS
from bvit_mm.report import plan_table
from bvit_mm.testing.case import Case
from bvit_mm.testing.laws import LAWS
from bvit_mm.training_stages import AXES, Axis, TrainingStage, parse_training_stages

from .support.runs import build
from .support.trainings import log_of
from .support.variants import SWITCH


class Stack(ElasticModule, nn.Module):
    """So many two-layer MLPs, one after the other."""

    slots = (
        UnitSlot('up', 0, 'depth'),
        UnitSlot('up', 1, 'hidden'),
        UnitSlot('down', 0, 'depth'),
        UnitSlot('down', 2, 'hidden', out=True),
    )
    axes = dict(depth='depth', hidden='hidden')

    def __init__(self, width, hidden, depth):
        super().__init__()
        self.depth, self.hidden = depth, hidden
        self.active = dict(depth=depth, hidden=hidden)
        self.up = nn.Parameter(0.2 * torch.randn(depth, hidden, width))
        self.down = nn.Parameter(0.2 * torch.randn(depth, width, hidden))

    def forward(self, x):
        for up, down in zip(self.active_parameter('up'), self.active_parameter('down')):
            x = x + F.linear(F.gelu(F.linear(x, up)), down)
        return x


class PlainToy(BaseModule):
    """Knows neither training stages nor the size of its images."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.stack = Stack(8, 16, 4)

    def forward(self, x):
        x = self.embed(x)
        return (self.stack(x.flatten(2).mT).mT.unflatten(2, x.shape[2:]),)


@MODELS.register_module(force=True)
class ToyStack(ElasticBackbone, PlainToy):
    plain_type = 'PlainToy'

    def __init__(self, init_cfg=None, *, training_stages=None, img_size=16):
        super().__init__(init_cfg)
        self.img_size = (img_size, img_size)
        axes = dict(hidden=16, grid=(4, 4), depth=4)
        whole = TrainingStage(**{name: axes[name] for name in axes if name in AXES})
        self.init_training_stages(training_stages, whole)

    def units(self, k):
        stage = self.training_stages[k]
        yield self.stack, 'depth', getattr(stage, 'depth', self.stack.depth)
        yield self.stack, 'hidden', stage.hidden

    def forward(self, x):
        x, grid = self.embed(x), (4, 4)
        crop = self.active_grid(grid, self.training_stage)
        x = self.stack(center_crop(x.flatten(2).transpose(1, 2), grid, crop))
        return (x.transpose(1, 2).unflatten(2, crop),)

    def flops(self, k, input_size=None):
        self._check_training_stage(k)
        stage = self.training_stages[k]
        rows, columns = stage.grid
        depth = getattr(stage, 'depth', self.stack.depth)
        mlps = depth * flops.mlp(rows * columns, 8, stage.hidden)
        return flops.conv(self.embed, (4, 4)) + mlps


def read_depth(name, given, whole):
    value = given[name]
    if not 1 <= value <= whole.depth:
        raise ValueError(f'{name}={value}, but the model has {whole.depth} blocks')
    return value


DEPTH = Axis(read_depth, lambda k, count, whole: -(-whole.depth * k // count), label='blocks')


@pytest.fixture
def depth(monkeypatch):
    monkeypatch.setitem(AXES, 'depth', DEPTH)


def run(tmp_path, hook=SWITCH, **backbone):
    changes = {
        'model.backbone': dict(_delete_=True, type='bvit_mm.ToyStack', **backbone),
        'model.neck': dict(type='GlobalAveragePooling'),
        'model.head': dict(type='LinearClsHead', in_channels=8),
        'custom_hooks': [hook],
        'train_cfg.epochs': [1] * len(ToyStack(**backbone).training_stages),
    }
    runner = build(tmp_path, **changes)
    runner.train()
    return runner


def test_a_network_without_heads_trains(tmp_path):
    stages = ToyStack(training_stages=3).training_stages
    assert stages == tuple(
        TrainingStage(hidden=hidden, grid=grid)
        for hidden, grid in ((4, (2, 2)), (8, (4, 4)), (16, (4, 4)))
    )
    assert str(stages[0]) == 'hidden=4, grid=2'
    with pytest.raises(
        ValueError, match=r"heads=1, but ToyStack has no heads; give .*\('hidden', 'g"
    ):
        ToyStack(training_stages=[dict(heads=1), dict()])
    runner = run(tmp_path, training_stages=3)
    switches = re.findall(r'begins: (.*?), GFLOPs', log_of(runner))
    assert switches == ['hidden 4 -> 8, grid (2, 2) -> (4, 4)', 'hidden 8 -> 16']
    header, first, *_ = plan_table(runner.train_loop.plan, stages).splitlines()
    assert header.split() == ['stage', 'hidden', 'tokens', 'GFLOPs', 'epochs', 'cost', 'share']
    assert first.split()[:3] == ['1', '4', '4']


@pytest.mark.parametrize(
    'name',
    [
        'same_seed_gives_the_plain_network',
        'whole_network_equals_plain_class-False',
        'inactive_units_get_exactly_zero_gradients',
        'growth_leaves_old_units_untouched-copy',
        'half_growth_preserves_the_function-torch.float64',
        'weights_of_an_unfinished_run_do_not_load_elsewhere',
        'finished_weights_make_the_whole_network',
    ],
)
def test_laws_ask_nothing_of_heads(name):
    """Nor of a plain class what only the elastic one has."""
    assert ToyStack.own_arguments() == {'training_stages', 'img_size'}
    LAWS[name](Case('toy', ToyStack, PlainToy, None, stages=3, kwargs=dict(img_size=16)))


def test_a_new_axis_is_one_row(tmp_path, depth):
    stages = ToyStack(training_stages=2).training_stages
    assert stages == (
        TrainingStage(depth=2, hidden=8, grid=(2, 2)),
        TrainingStage(depth=4, hidden=16, grid=(4, 4)),
    )
    assert stages[0].keys == ('hidden', 'grid', 'depth')
    assert str(stages[0]) == 'hidden=8, grid=2, depth=2'
    for spec, message in (
        ([dict(depth=5), dict()], 'training stage 1: depth=5, but the model has 4 blocks'),
        ([dict(depth=3), dict(depth=2), dict()], 'training stage 2: depth=2 is less than 3'),
    ):
        with pytest.raises(ValueError, match=message):
            parse_training_stages(spec, stages[-1])
    runner = run(tmp_path, training_stages=2)
    assert 'begins: hidden 8 -> 16, grid (2, 2) -> (4, 4), depth 2 -> 4, GFLOPs' in log_of(runner)
    plan = runner.train_loop.plan
    embedding, classifier = 4 * 4 * 8 * 3 * 4 * 4, 8 * 4
    blocks = [2 * (2 * 4 * 8 * 8), 4 * (2 * 16 * 8 * 16)]
    assert plan.gflops == tuple((embedding + n + classifier) / 1e9 for n in blocks)
    header, first, second, *_ = plan_table(plan, stages).splitlines()
    assert header.split()[:4] == ['stage', 'hidden', 'tokens', 'blocks']
    assert (first.split()[:4], second.split()[:4]) == (['1', '8', '4', '2'], ['2', '16', '16', '4'])
    kept = torch.load(tmp_path / 'stage_1.pth', weights_only=False)['state_dict']
    assert kept._metadata['backbone']['training_stage'] == dict(hidden=8, grid=(2, 2), depth=2)
    assert json.loads((tmp_path / 'plan.json').read_text())['stages'][1]['epochs'] == 1


def test_a_module_that_follows_two_axes_grows_along_both(depth):
    backbone = ToyStack(training_stages=2)
    backbone.set_training_stage(0)
    images = torch.randn(2, 3, 16, 16)
    backbone(images)[0].sum().backward()
    up, down = backbone.stack.up, backbone.stack.down
    assert torch.count_nonzero(up.grad) == torch.count_nonzero(up.grad[:2, :8]) == 2 * 8 * 8
    assert torch.count_nonzero(down.grad) == torch.count_nonzero(down.grad[:2, :, :8]) == 2 * 8 * 8
    before = up.detach().clone()
    grow_(backbone, 1)
    for block in range(4):
        for unit in range(16):
            assert torch.equal(up[block, unit], before[block % 2, unit % 8])
    backbone.shrink_(0)
    assert up.shape == (2, 8, 8) and down.shape == (2, 8, 8)
    assert backbone.stack.is_whole and backbone.stack.total('depth') == 2


def start_at_zero_(weight, units, material):
    """New units give zero, and are read as those they are copies of."""
    values = units.copies(weight)
    units.put_(weight, values if units.slot.out else torch.zeros_like(values))


def test_a_new_initializer_is_one_row(tmp_path, monkeypatch):
    hook = dict(SWITCH, init='zero')
    with pytest.raises(ValueError, match="init='zero' is not known; give one of"):
        run(tmp_path / 'a', hook, training_stages=2)
    monkeypatch.setitem(growth.INITS, 'zero', start_at_zero_)
    runner = run(tmp_path / 'b', hook, training_stages=2)
    before, after = re.findall(r'loss of one batch (\S+) -> (\S+)', log_of(runner))[0]
    assert before != after  # there are more tokens
    backbone = ToyStack(training_stages=[dict(hidden=8), dict()])
    backbone.set_training_stage(0)
    images = torch.randn(2, 3, 16, 16)
    expected = backbone(images)[0]
    grow_(backbone, 1, init='zero')
    assert torch.count_nonzero(backbone.stack.up[:, 8:]) == 0
    assert torch.allclose(backbone(images)[0], expected, atol=1e-6)


@pytest.mark.parametrize('init', growth.INITS)
def test_material_is_made_only_for_who_asks(init):
    made = []

    def fresh():
        made.append(ToyStack())
        return made[-1]

    backbone = ToyStack(training_stages=[dict(hidden=8), dict()])
    backbone.set_training_stage(0)
    grow_(backbone, 1, init=init, fresh=fresh)
    assert len(made) == (init == 'random')
    if made:
        assert torch.equal(backbone.stack.up[:, 8:], made[0].stack.up[:, 8:])
