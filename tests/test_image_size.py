# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Images of another size than ``img_size``: a budget refuses them, the ledger books them."""

import copy
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from bvit_mm.budget import read_budget
from bvit_mm.cost import find_backbone
from bvit_mm.ledger import Ledger
from bvit_mm.publish.network import publish
from bvit_mm.running.image_size import check_image_size, watched
from bvit_mm.testing.counting import counted

from .support import cases
from .support.data_sets import SIZE
from .support.files import assert_same_run, last_file
from .support.runs import BATCHES, FAMILIES, build
from .support.trainings import log_of, refused, run, stop_and_resume
from .support.variants import EVERY_ITERATION, SUBSET, SWITCH

SHORT = {'train_cfg.epochs': [1, 1, 1]}
BUDGET = {
    'train_cfg.epochs': None,
    'train_cfg.budget': 0.5,
    'train_cfg.full_epochs': 6,
    'train_cfg.val_interval': 100,
}


@HOOKS.register_module(force=True)
class ResizeHook(Hook):
    """Changes the size of the training images from an epoch on."""

    def __init__(self, size, epoch):
        self.size, self.epoch = size, epoch

    def before_train_epoch(self, runner):
        if runner.epoch >= self.epoch:
            runner.train_dataloader.dataset.size = self.size


def sized(*size, side=SIZE):
    return {
        'train_dataloader.dataset': dict(type='SizedDataset', size=size),
        'val_dataloader.dataset': dict(type='TinyDataset', size=(side, side)),
    }


def counted_gflops(model, size):
    """Of each training stage, by torch's counter, and the linear layers of the head."""
    backbone = copy.deepcopy(find_backbone(model)).to('meta')
    head = sum(m.weight.numel() for m in model.head.modules() if isinstance(m, nn.Linear))
    counts = []
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        counts.append(counted(backbone, torch.randn(1, 3, *size, device='meta')) + head)
    return [count / 1e9 for count in counts]


@pytest.mark.parametrize('size', [(2.0, 2.0), (1.25, 1.5)])
@pytest.mark.parametrize('family', FAMILIES)
def test_what_is_trained_is_booked(tmp_path, family, size):
    """As counted by another; in the log, the checkpoint and the published file as well."""
    side = cases.FAMILIES[family].kwargs['img_size']
    size = tuple(int(share * side) for share in size)
    runner, _ = run(tmp_path, **{**FAMILIES[family], **SHORT, **sized(*size, side=side)})
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    expected = counted_gflops(runner.model, size)
    assert ledger.costs == pytest.approx(expected, rel=0.01)
    planned = counted_gflops(runner.model, (side, side))
    assert plan.costs == pytest.approx(planned, rel=0.01)  # what was planned stays as it was
    file = last_file(tmp_path)
    assert Ledger.from_dict(file['meta']['bvit_mm']['ledger']).costs == ledger.costs
    published = publish(str(tmp_path / 'epoch_3.pth')).checkpoint
    assert published['meta']['bvit_mm']['spent'] == ledger.cost == pytest.approx(sum(expected))
    log = log_of(runner)
    assert re.search(rf'total +3 +3 +{ledger.cost:.4g} +{plan.cost:.4g} ', log)
    assert runner.train_loop.spent == pytest.approx(sum(expected) / sum(planned), rel=0.01)
    times = f'{expected[2] / planned[2]:.3g}'
    right = size[0] if size[0] == size[1] else size
    assert log.count('pixels reach the backbone') == 1
    assert (
        f'images of {size[0]}x{size[1]} pixels reach the backbone, but the plan is for '
        f'model.backbone.img_size={side}. An epoch of training stage 3 costs {times} times what is '
        'planned. The ledger books what is trained; to plan it too, give '
        f'model.backbone.img_size={right}'
    ) in log


@pytest.mark.parametrize('size', [(2.0, 2.0), (1.0, 1.5)])
@pytest.mark.parametrize('family', FAMILIES)
def test_budget_is_refused_and_the_advice_is_accepted(tmp_path, family, size):
    side = cases.FAMILIES[family].kwargs['img_size']
    size = tuple(int(share * side) for share in size)
    changes = {**FAMILIES[family], **BUDGET, **sized(*size, side=side)}
    right = size[0] if size[0] == size[1] else size
    model = build(tmp_path, **changes).model
    costs = [counted_gflops(model, each)[2] for each in (size, (side, side))]
    message = (
        f'images of {size[0]}x{size[1]} pixels reach the backbone, but the plan is for '
        f'model.backbone.img_size={side}. An epoch of training stage 3 costs '
        f'{costs[0] / costs[1]:.3g} times what is planned, so the budget would not be kept. Give '
        f'model.backbone.img_size={right}, with grids of that size where training_stages state '
        f'them. Or resize the images to {side} in train_pipeline. Where sizes vary on purpose, '
        'state epochs, or give a budget in hours'
    )
    refused(tmp_path / 'refused', f'^{re.escape(message)}$', **changes)
    if family == 't2t' and size[0] != size[1]:
        return  # it is built for square images only, and says so: test_t2t_vit.py
    for name, advised in (
        ('planned', {'model.backbone.img_size': right, 'val_dataloader.dataset.size': size}),
        ('resized', sized(side, side, side=side)),
    ):
        runner, _ = run(tmp_path / name, **{**changes, **advised})
        plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
        assert ledger.epochs == plan.epochs and ledger.extra == [0, 0, 0]
        assert ledger.cost == ledger.planned_cost == pytest.approx(plan.cost, rel=1e-12)
        assert 'pixels reach the backbone' not in log_of(runner)


def test_size_that_changes_in_a_budgeted_run(tmp_path):
    """It is booked from then on, and told once."""
    hook = dict(type='ResizeHook', size=(24, 24), epoch=2)
    changes = {**BUDGET, **sized(SIZE, SIZE), 'custom_hooks': [SWITCH, hook]}
    runner, _ = run(tmp_path, **changes)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    before, after = (counted_gflops(runner.model, (n, n)) for n in (SIZE, 24))
    costs = [0.0, 0.0, 0.0]
    for epoch in range(plan.total_epochs):
        stage = plan.stage_at(epoch)
        costs[stage] += (before if epoch < 2 else after)[stage]
    assert ledger.costs == pytest.approx(costs, rel=0.01)
    assert ledger.planned_cost == pytest.approx(plan.cost, rel=1e-12)
    log = log_of(runner)
    assert log.count('pixels reach the backbone') == 1
    assert 'in epoch 3, images of 24x24 pixels reach the backbone' in log


def test_resumed_ledger_is_the_uninterrupted_one(tmp_path):
    """Bit for bit, and a budgeted run whose size has changed goes on."""
    hook = dict(type='ResizeHook', size=(24, 24), epoch=2)
    changes = {**BUDGET, **sized(SIZE, SIZE), **EVERY_ITERATION, 'custom_hooks': [SWITCH, hook]}
    build(tmp_path / 'whole', **changes).train()
    whole = last_file(tmp_path / 'whole')
    assert whole['meta']['bvit_mm']['ledger']['extra'][2] > 0
    at = 2 * BATCHES + 2
    assert_same_run(stop_and_resume(tmp_path / 'a', at, changes), whole)
    changes.update(sized(24, 24))  # also where the batch that is tried has that size by now
    file = tmp_path / 'whole' / f'iter_{at}.pth'
    runner, _ = run(tmp_path / 'b', **changes, resume=True, load_from=str(file))
    assert runner.train_loop.ledger.extra == whole['meta']['bvit_mm']['ledger']['extra']
    log = log_of(runner)
    assert 'what is planned. The ledger books what is trained\n' in log
    assert log.count('pixels reach the backbone') == 1


def test_batch_in_parts_and_accumulation_are_counted_once(tmp_path):
    size = sized(24, 24)
    ledgers = []
    for i, more in enumerate(
        (
            {},
            {'train_cfg.accumulative_counts': [1, 2, 4]},
            {'optim_wrapper.accumulative_counts': 2},
        )
    ):
        ledgers.append(run(tmp_path / str(i), **SHORT, **size, **more)[0].train_loop.ledger)
    assert ledgers[0].extra == ledgers[1].extra == ledgers[2].extra
    assert min(ledgers[0].extra) > 0


def test_schedulers_end_with_the_plan(tmp_path):
    """Whatever the images cost, the rate goes from the start to the end of the run."""
    decay = [dict(type='bvit_mm.LinearDecayLR', convert_to_iter_based=True)]
    changes = {'train_cfg.schedule': 'budget', 'param_scheduler': decay, **SHORT}
    rates = [run(tmp_path / str(n), **changes, **sized(n, n))[1].rates for n in (SIZE, 32, 12)]
    assert rates[0] == rates[1] == rates[2]
    assert rates[0][0] == max(rates[0]) == 1e-2 and rates[0][-1] == min(rates[0]) <= 2e-3


def test_padding_of_batches_is_seen(tmp_path):
    """No pipeline says so: the data preprocessor pads to whole multiples."""
    changes = {**BUDGET, 'model.data_preprocessor.pad_size_divisor': 24}
    refused(tmp_path, 'images of 24x24 pixels reach the backbone', **changes)


def test_selection_looks_at_the_same_images(tmp_path):
    changes = {**SUBSET, **sized(32, 32), 'custom_hooks': SUBSET['custom_hooks'][:2]}
    runner, _ = run(tmp_path, **changes)
    ledger = runner.train_loop.ledger
    gflops = counted_gflops(runner.model, (32, 32))
    looked = (gflops[0] + gflops[1]) / 3  # before epochs 3 and 5, by the stage that was trained
    assert ledger.cost == pytest.approx(sum(gflops) * 2 / 2 + looked, rel=0.01)


def test_ledger_of_an_earlier_version_is_read():
    ledger = Ledger((1.0, 2.0), 5, 4)
    ledger.train(1, 4)
    saved = ledger.as_dict()
    del saved['extra']
    read = Ledger.from_dict(saved)
    assert read.cost == ledger.cost == 0.4
    read.train(1, 4, extra_gflops=1.0)
    assert read.cost == pytest.approx(1.0) and read.planned_cost == pytest.approx(0.8)


PLANS = [
    (dict(budget=0.5), True, False),
    (dict(budget='0.02 GFLOPs'), True, False),
    (dict(budget=0.5), False, True),  # a run that goes on
    (dict(budget='1h'), True, True),
    (dict(epochs=[1, 1, 1]), True, True),
]


@pytest.mark.parametrize('options, is_new, accepted', PLANS)
def test_which_runs_are_refused(tmp_path, options, is_new, accepted):
    backbone = find_backbone(build(tmp_path).model)
    gflops = [backbone.flops(k) / 1e9 for k in range(3)]
    budget, plan = read_budget(gflops, full_epochs=100, **options)
    sizes = [(16, 16), (32, 32)]  # of two processes
    if accepted:
        assert '16x16 and 32x32 pixels' in check_image_size(backbone, plan, budget, sizes, is_new)
        return
    with pytest.raises(ValueError, match=r'Give model\.backbone\.img_size=32, with'):
        check_image_size(backbone, plan, budget, [(32, 32)], is_new)


def test_watching_leaves_nothing(tmp_path):
    model = build(tmp_path).model
    with watched(find_backbone(model)) as seen:
        assert seen.size is None
        find_backbone(model)(x=torch.randn(1, 3, 20, 16))
        assert seen.size == (20, 16)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_compiled_network_is_watched():
    """What notes the size is traced with it, and neither breaks the graph nor is left out."""
    backbone, graphs = nn.Conv2d(3, 4, 3), []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    with watched(backbone) as seen, torch.no_grad():
        compiled = torch.compile(lambda images: backbone(images), backend=backend, fullgraph=True)
        for size in ((16, 16), (24, 16), (16, 16)):
            compiled(torch.randn(1, 3, *size))
            assert seen.size == size
    torch._dynamo.reset()
    assert graphs
