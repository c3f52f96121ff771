# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training on subsets, random or matched: what is read, what it costs, exact resume, refusals."""

import copy
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from bvit_mm import SubsetHook, SubsetSampler, make_plan, subset_share
from bvit_mm.budget import StatedEpochs
from bvit_mm.cost import plan_of_config
from bvit_mm.ledger import Ledger
from bvit_mm.running.old_records import ledger_of_today, plan_of_today
from bvit_mm.running.randomness import derived_seed
from bvit_mm.running.resumption import check_same
from bvit_mm.subsets.gradients import last_layer, mini_batch_gradients, mini_batches
from bvit_mm.subsets.matching import gram_matrix, match
from bvit_mm.subsets.sampler import random_subset, samples_of
from bvit_mm.subsets.share import SELECTION_COST, selection_charge
from bvit_mm.testing.closeness import assert_near

from .support.files import assert_same_run, differences, last_file
from .support.runs import FAMILIES, build, config
from .support.tools import tool
from .support.trainings import log_of, stop_and_resume
from .support.variants import EMA, EVERY_ITERATION, MATCH, SAMPLER, SUBSET, SWITCH

DRAW = dict(type='bvit_mm.SubsetHook', selection='random', interval=2)
RANDOM = {'train_dataloader.sampler': SAMPLER, 'custom_hooks': [SWITCH, DRAW]}


@HOOKS.register_module(force=True)
class SeeSubsetHook(Hook):
    """Writes down, of each epoch, the subset, its weights and the losses."""

    priority = 'LOWEST'

    def __init__(self):
        self.subsets, self.weights, self.read = [], [], []

    def before_train_epoch(self, runner):
        subset, weights = runner.train_dataloader.sampler.selected
        self.subsets.append(subset.tolist())
        self.weights.append(weights.tolist())
        self.read.append([])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        labels = torch.cat([sample.gt_label for sample in data_batch['data_samples']])
        self.read[-1].extend(labels.tolist())


SEE = dict(type='SeeSubsetHook')


def run(work_dir, **changes):
    runner = build(work_dir, **changes)
    runner.train()
    return runner, next((h for h in runner.hooks if isinstance(h, SeeSubsetHook)), None)


# What a share costs.


@given(
    budget=st.floats(0.01, 1),
    full_epochs=st.integers(1, 400),
    interval=st.integers(1, 50),
    counts=st.booleans(),
)
def test_share_spends_the_budget(budget, full_epochs, interval, counts):
    """Training and selections of its plan cost what it says, to rounding."""
    try:
        share = subset_share(budget, full_epochs, interval, counts)
    except ValueError as error:
        alone = cost_of_selections(full_epochs, interval)
        assert counts and alone >= budget * full_epochs and 'selections alone cost' in str(error)
        return
    plan = make_plan(
        [1.5],
        epochs=[full_epochs],
        full_epochs=full_epochs,
        epoch_share=share,
        charges=[selection_charge(interval)] if counts else [],
    )
    assert plan.cost == pytest.approx(budget * plan.full_cost, rel=1e-9)


def cost_of_selections(epochs, interval):
    return len(range(interval, epochs, interval)) / 3


def test_share_of_the_paper():
    """350 epochs with a selection every 20: 17 looks at all data are a third more than 5 %."""
    selections = selection_charge(20)
    assert list(selections.before(350)) == list(range(20, 350, 20))
    assert len(selections.before(350)) == 17
    assert subset_share(0.05, 350, 20, count_selection=False) == 0.05
    share = subset_share(0.05, 350, 20)
    assert share == pytest.approx(0.05 - 17 / 3 / 350)
    assert 2 - share / 0.05 == pytest.approx(1.324, abs=0.001)  # what they cost of the 5 %
    assert list(selections.before(20)) == []
    # Table 10 prints 31.9G, 63.70G and 191.10G for 5, 10 and 30 %: 350 epochs of 1.82 GFLOPs.
    for share, printed in ((0.05, 31.9), (0.1, 63.7), (0.3, 191.1)):
        assert make_plan([1.82], epochs=[350], epoch_share=share).cost == pytest.approx(
            printed, abs=0.06
        )


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(budget=0.01, full_epochs=300, interval=20),
            'budget=0.01 of 300 epochs is 3 epochs on all data, and 14 selections alone cost '
            '4.667; give a budget of at least 0.01556, an interval of at least 34, or '
            'count_selection=False',
        ),
        (dict(budget=0), 'budget=0 must be a share of the full cost, above 0 and up to 1'),
        (dict(budget=1.5), 'budget=1.5 must be a share of the full cost, above 0 and up to 1'),
        (dict(budget=0.5, interval=0), 'interval=0 must be a whole number of epochs, at least 1'),
        (dict(budget=0.5, full_epochs=2.5), 'full_epochs=2.5 must be a whole number of epochs'),
    ],
)
def test_no_such_share(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        subset_share(**options)


@given(
    budget=st.floats(0.1, 1),
    share=st.floats(0.05, 1),
    gflops=st.sampled_from([[1.0], [0.69, 1.9, 4.6]]),
)
def test_budget_of_a_subset(budget, share, gflops):
    """Law 5 of plans holds, with epochs that cost their share."""
    plan = make_plan(gflops, budget, full_epochs=100, epoch_share=share)
    assert plan.cost <= plan.budget * (1 + 1e-9)
    assert plan.budget - plan.cost < gflops[0] * share * (1 + 1e-9)
    assert plan.budget == pytest.approx(budget * 100 * gflops[-1])


def test_cost_of_selections_in_stages():
    """Each costs a third of an epoch of the network that looks; a stage begins after that."""
    plan = make_plan([1.0, 3.0], epochs=[4, 5], epoch_share=0.5, charges=[selection_charge(2)])
    assert plan.costs == (2.0, 7.5)
    assert plan.charged['selection'] == pytest.approx((1 + 1 + 3 + 3) / 3)
    assert plan.cost == pytest.approx(9.5 + 8 / 3)
    assert plan.spent(4) == pytest.approx(2 + 1 / 3)  # not yet the one before epoch 5
    assert plan.spent(5) == pytest.approx(3.5 + 2 / 3)
    assert plan.spent(9) == pytest.approx(plan.cost)


def test_plans_of_other_data_differ():
    plan = make_plan([1.0], epochs=[4], epoch_share=0.5, charges=[selection_charge(2)])
    saved = json.loads(json.dumps(plan.as_dict()))
    assert saved['epoch_share'] == 0.5
    assert saved['charges'] == [dict(name='selection', interval=2, share=1 / 3)]
    stated = StatedEpochs()
    check_same(plan, stated, saved, 'x')
    whole = make_plan([1.0], epochs=[4])
    assert 'epoch_share' not in whole.as_dict()
    with pytest.raises(ValueError, match=r'x with epoch_share=1\.0, and this one has 0.5'):
        check_same(plan, stated, whole.as_dict(), 'x')
    other = make_plan([1.0], epochs=[4], epoch_share=0.5)
    with pytest.raises(
        ValueError, match=r"x with charges=\[{'name': 'sele.*, and this one has \[\]"
    ):
        check_same(other, stated, saved, 'x')


def test_plans_of_earlier_versions():
    """They named what was charged after the only thing that was."""
    plan = make_plan([1.0, 3.0], epochs=[4, 5], epoch_share=0.5, charges=[selection_charge(2)])
    saved = {k: v for k, v in plan.as_dict().items() if k not in ('epoch_share', 'charges')}
    saved.update(data_share=0.5, selection_interval=2)
    assert plan_of_today(saved) == plan.as_dict()
    saved['selection_interval'] = None
    assert plan_of_today(saved)['charges'] == []
    whole = make_plan([1.0, 3.0], epochs=[4, 5]).as_dict()
    assert plan_of_today(whole) == whole


def test_a_budget_does_not_say_the_share():
    message = r'state epochs, such as \[300\], and give the sampler the share of bvit_mm.subset_sh'
    with pytest.raises(ValueError, match=message):
        make_plan([1.0], 0.5, charges=[selection_charge(20)])


# The sampler.


def test_sampler_reads_its_subset_in_a_new_order():
    sampler = SubsetSampler(range(100), share=0.29, seed=3)
    assert len(sampler) == sampler.size == 29
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == 29 and list(sampler) == epochs[1]
    assert set(SubsetSampler(range(100), share=0.29, seed=4)) != set(epochs[0])
    assert sorted(SubsetSampler(range(7), share=1.0, seed=0)) == list(range(7))


def test_a_selection_of_another_size_is_refused():
    sampler = SubsetSampler(range(20), share=0.5, seed=1)
    with pytest.raises(ValueError, match=r'4 samples are selected, but share=0\.5 of 20 is 10'):
        sampler.select(torch.arange(4), torch.ones(4))


def test_processes_divide_the_subset(monkeypatch):
    parts = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        sampler = SubsetSampler(range(20), share=0.5, seed=1)
        sampler.select(torch.arange(5, 15), torch.arange(10.0))
        assert len(sampler) == 5
        parts.append(list(sampler))
        assert sampler.weights().tolist() == [i - 5 for i in parts[-1]]
    assert sorted(parts[0] + parts[1]) == list(range(5, 15))


@given(
    total=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_samples_of_mini_batches(total, batch_size, share, seed):
    batches, size = mini_batches(total, batch_size, 0), max(1, int(share * total))
    assert sorted(i for batch in batches for i in batch) == list(range(total))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    n = min(len(batches), -(-size // batch_size))
    chosen = random_subset(len(batches), n, seed)
    weights = torch.arange(2.0, 2 + n, dtype=torch.float64)
    subset, given_weights = samples_of(chosen, weights, batches, size, seed)
    assert len(subset) == len(given_weights) == size == len(set(subset.tolist()))
    whose = {i: float(w) for j, w in zip(chosen.tolist(), weights) for i in batches[j]}
    assert given_weights.tolist() == [whose.get(i, 1.0) for i in subset.tolist()]


def test_mini_batches_mix_what_lies_class_by_class():
    """As image folders do: 400 images of each of ten classes, one after another."""
    classes = [{i // 400 for i in batch} for batch in mini_batches(4000, 64, 0)]
    assert min(map(len, classes[:-1])) >= 8
    assert mini_batches(4000, 64, 0) != mini_batches(4000, 64, 1)


# Selection.


def test_gradients_are_of_the_model_as_it_is(tmp_path):
    """Against autograd, sample by sample in another order; and nothing is disturbed."""
    runner = build(tmp_path, **SUBSET, **{'train_dataloader.dataset.noise': 0.0})
    loader = runner.build_dataloader(runner._train_dataloader)
    model = runner.model
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    batches = mini_batches(20, 3, 0)
    rows = mini_batch_gradients(model, loader, batches, True, 4096, seed=0)
    assert rows.shape == (7, 4 * 25) and torch.equal(torch.get_rng_state(), random)
    assert not differences(state, model.state_dict()) and model.training
    model.eval()
    layer = last_layer(model.head)
    data = loader.dataset
    for row, batch in zip(rows, batches):
        images = torch.stack([data[i]['inputs'] for i in batch])
        labels = torch.cat([data[i]['data_samples'].gt_label for i in batch])
        scores = model.head(model.extract_feat(images))
        loss = nn.functional.cross_entropy(scores, labels)
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        assert_near(row, torch.cat([weight, bias[:, None]], 1).flatten(), passes=3)
    short = mini_batch_gradients(model, loader, batches, False, 4096, seed=0)
    assert_near(short, rows.view(7, 4, 25)[:, :, -1])
    assert mini_batch_gradients(model, loader, batches, True, 99, seed=0).shape == (7, 99)


def test_augmentation_follows_the_seed(tmp_path):
    runner = build(tmp_path, **SUBSET)
    loader = runner.build_dataloader(runner._train_dataloader)
    rows = [
        mini_batch_gradients(runner.model, loader, mini_batches(20, 4, 0), True, 4096, seed)
        for seed in (1, 2, 1)
    ]
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


def test_matched_run(tmp_path):
    """The first subset is drawn, others are what matching says; epochs between keep theirs."""
    found = []

    class MatchedHook(Hook):
        priority = 'NORMAL'  # before SubsetHook

        def before_train_epoch(self, runner):
            if runner.epoch != 2:
                return
            found.extend([torch.get_rng_state(), copy.deepcopy(runner.model.state_dict())])
            loader = runner.train_dataloader
            seed = derived_seed(0, 2)
            model, batches = runner.model, mini_batches(20, 2, derived_seed(0))
            gram = gram_matrix(mini_batch_gradients(model, loader, batches, True, 4096, seed))
            chosen, weights = match(gram, gram.sum(1), float(gram.sum()), 5, 0.5)
            found.append(samples_of(chosen, weights, batches, 10, seed))

    HOOKS.register_module(name='MatchedHook', module=MatchedHook, force=True)
    hooks = [SWITCH, dict(type='MatchedHook'), MATCH, SEE]
    runner, seen = run(tmp_path, **{**SUBSET, 'custom_hooks': hooks})
    assert seen.weights[0] == [1.0] * 10
    assert seen.subsets[0] == seen.subsets[1] != seen.subsets[2]
    assert seen.subsets[2] == seen.subsets[3] and seen.weights[2] == seen.weights[3]
    assert seen.subsets[4] == seen.subsets[5]
    subset, weights = found[2]
    assert seen.subsets[2] == subset.tolist() and seen.weights[2] == weights.tolist()
    assert len(set(seen.weights[2])) > 2
    for subset, labels in zip(seen.subsets, seen.read):
        assert sorted(labels) == sorted(i % 4 for i in subset)
    log = log_of(runner)
    assert log.count('gradient matching chose') == 2
    assert 'of 10 mini-batches of 2, for 10 of 20 samples' in log


def test_losses_are_weighed(tmp_path):
    """Each mini-batch trains on sum(w l) / sum(w), with the weights of its own samples."""
    seen = []

    class WeighHook(Hook):
        priority = 'VERY_LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            sampler = runner.train_dataloader.sampler
            weights = dict(zip(*(x.tolist() for x in sampler.selected)))
            size = runner.train_dataloader.batch_size
            numbers = list(sampler)[batch_idx * size : (batch_idx + 1) * size]
            labels = [int(sample.gt_label) for sample in data_batch['data_samples']]
            assert labels == [i % 4 for i in numbers]
            model = runner.model
            inputs = torch.stack(list(data_batch['inputs']))
            with torch.no_grad():
                scores = model.head(model.extract_feat(inputs))
            losses = nn.functional.cross_entropy(scores, torch.tensor(labels), reduction='none')
            w = torch.tensor([weights[i] for i in numbers])
            self.expected = float((w * losses).sum() / w.sum())
            self.plain = float(losses.mean())

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append((float(outputs['loss']), self.expected, self.plain))

    HOOKS.register_module(name='WeighHook', module=WeighHook, force=True)
    changes = {**SUBSET, 'model.backbone.drop_path_rate': 0.0}
    changes['custom_hooks'] = [SWITCH, MATCH, dict(type='WeighHook')]
    run(tmp_path, **changes)
    ours, expected, plain = torch.tensor(seen).T
    assert_near(ours, expected)
    assert_near(ours[:6], plain[:6])
    assert (ours - plain)[6:].abs().max() > 1e-3


def test_random_run(tmp_path):
    """Drawn anew every two epochs, with mixed labels, and no selection is charged."""
    hooks = [SWITCH, DRAW, SEE]
    runner, seen = run(tmp_path, **{**RANDOM, 'custom_hooks': hooks})
    a, b, c = seen.subsets[::2]
    assert seen.subsets == [a, a, b, b, c, c] and a != b != c != a
    ledger, plan = runner.train_loop.ledger, runner.train_loop.plan
    assert ledger.charges == plan.charged == {} and 'selection' not in ledger.other
    assert ledger.cost == pytest.approx(plan.cost)


def test_stock_loop_and_plain_backbone(tmp_path):
    """A ResNet in mmengine's own loop, stopped and resumed after an epoch."""
    plain = {
        **SUBSET,
        'model.backbone': dict(_delete_=True, type='ResNet', depth=18, base_channels=8),
        'model.neck': dict(type='GlobalAveragePooling'),
        'model.head.type': 'LinearClsHead',
        'model.head.in_channels': 64,
        'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=6),
        'param_scheduler': None,
        'custom_hooks': [MATCH, SEE],
    }
    plain['model.backbone']['stem_channels'] = 8
    runner, seen = run(tmp_path / 'whole', **plain)
    assert type(runner.train_loop).__name__ == 'EpochBasedTrainLoop' and runner.iter == 18
    assert len({tuple(each) for each in seen.subsets}) == 3
    again, resumed = run(
        tmp_path / 'b', **plain, resume=True, load_from=str(tmp_path / 'whole' / 'epoch_3.pth')
    )
    assert resumed.subsets[0] == seen.subsets[2] and resumed.weights[0] == seen.weights[2]
    assert again.iter == 18


# Resume.


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('subset')
    for name, changes in (('match', SUBSET), ('random', RANDOM)):
        build(folder / name, **changes, **EVERY_ITERATION).train()
    return folder


@pytest.mark.parametrize('at', [2, 5, 6, 7, 8, 12, 13, 17])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, at):
    """Bit for bit: before, at and after selections and switches, which are at 6 and 12."""
    resumed = stop_and_resume(tmp_path, at, {**SUBSET, **EVERY_ITERATION})
    assert_same_run(resumed, last_file(uninterrupted / 'match'))


def test_resumed_with_data_workers(tmp_path):
    """Whose augmentation follows the seed in a selection too."""
    changes = {**SUBSET, **EVERY_ITERATION, 'train_dataloader.num_workers': 2}
    build(tmp_path / 'whole', **changes).train()
    resumed = stop_and_resume(tmp_path / 'resumed', 7, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))


@pytest.mark.parametrize('at', [6, 8])
def test_random_resumed_equals_uninterrupted(tmp_path, uninterrupted, at):
    resumed = stop_and_resume(tmp_path, at, {**RANDOM, **EVERY_ITERATION})
    assert_same_run(resumed, last_file(uninterrupted / 'random'))


def test_resumed_with_other_options(tmp_path, uninterrupted):
    source = str(uninterrupted / 'match' / 'iter_7.pth')
    other = {**SUBSET, 'custom_hooks': [SWITCH, {**MATCH, 'ridge': 0.1}, EMA]}
    with pytest.raises(ValueError, match=r"SubsetHook options .*'ridge': 0\.5.*'ridge': 0\.1"):
        build(tmp_path, **other, resume=True, load_from=source).train()
    less = {**SUBSET, 'train_dataloader.sampler': {**SAMPLER, 'share': 0.25}}
    with pytest.raises(ValueError, match=r'a run with epoch_share=0\.5, and this one has 0.25'):
        build(tmp_path, **less, resume=True, load_from=source).train()


# Costs.


@pytest.mark.parametrize('family', FAMILIES)
def test_ledger_is_the_plan(tmp_path, family):
    """To the epoch and the selection, as tools/plan.py and the log say."""
    changes = {**FAMILIES[family], **SUBSET}
    runner, _ = run(tmp_path, **changes)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert plan.epoch_share == 0.5 and plan.charges[0].interval == 2
    trained = sum(g * n for g, n in zip(plan.gflops, plan.epochs)) / 2
    looked = (plan.gflops[0] + plan.gflops[1]) / 3
    assert plan.cost == pytest.approx(trained + looked)
    assert ledger.cost == pytest.approx(plan.cost, rel=1e-12)
    assert ledger.charges['selection'] == pytest.approx(looked, rel=1e-12)
    assert ledger.other['selection'] > 0 and runner.train_loop.spent == pytest.approx(1)
    log = log_of(runner)
    assert 'an epoch reads 0.5 of the data' in log
    assert re.search(rf'selection +{looked:.4g} +{looked:.4g}', log)
    assert plan_of_config(config(tmp_path, **changes))[0] == plan
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [s['gflops_epochs'] for s in map(json.loads, lines) if 'gflops_epochs' in s]
    assert logged[-1] == pytest.approx(plan.cost, rel=0.1)
    assert last_file(tmp_path)['meta']['bvit_mm']['plan'] == plan.as_dict()


def test_selection_that_is_not_charged(tmp_path):
    hooks = [SWITCH, {**MATCH, 'count_selection': False}]
    runner, _ = run(tmp_path, **{**SUBSET, 'custom_hooks': hooks})
    ledger = runner.train_loop.ledger
    assert ledger.charges == {} and ledger.other['selection'] > 0
    assert ledger.cost == pytest.approx(runner.train_loop.plan.cost)


def test_a_run_meets_its_budget(tmp_path):
    """60 % of six epochs, of which two selections take a ninth."""
    share = subset_share(0.6, full_epochs=6, interval=2)
    one = {'model.backbone.training_stages': 1, 'train_cfg.epochs': [6]}
    one['train_cfg.full_epochs'] = 6
    sampler = {**SAMPLER, 'share': share}
    runner, _ = run(tmp_path, **{**SUBSET, 'train_dataloader.sampler': sampler}, **one)
    plan, ledger = runner.train_loop.plan, runner.train_loop.ledger
    assert ledger.cost == pytest.approx(0.6 * plan.full_cost)
    assert runner.train_dataloader.sampler.size <= share * 20


def test_ledgers_of_earlier_runs_load():
    saved = Ledger((1.0, 2.0), 5, 4).as_dict()
    for name in ('epoch_share', 'charges'):
        del saved[name]
    ledger = Ledger.from_dict(ledger_of_today(saved))
    assert ledger.epoch_share == 1.0 and ledger.cost == 0
    ledger.pass_time('selection', 2.0)
    ledger.charge('selection', 1, SELECTION_COST)
    assert ledger.other['selection'] == 2 and ledger.cost == 2 * SELECTION_COST
    selected = ledger_of_today(dict(saved, data_share=0.5, selection=ledger.cost))
    assert Ledger.from_dict(selected).charges == ledger.charges
    assert Ledger.from_dict(selected).epoch_share == 0.5


# What is refused.


MULTI_LABEL = dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=4, in_channels=24)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler', shuffle=True)},
            r"but train_dataloader.sampler is DefaultSampler; give dict\(type='bvit_mm.SubsetSam",
        ),
        (
            {'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)])},
            r'batch augments \(Mixup, CutMix; train_cfg of the model\) mix samples',
        ),
        ({'model.head.loss.use_soft': True}, 'use_soft=True of CrossEntropyLoss takes scores'),
        ({'model.head.loss.use_sigmoid': True}, 'is not the cross-entropy of a softmax'),
        ({'model.head.loss.class_weight': [1, 2, 3, 4]}, 'class_weight has no part'),
        (
            {'model.head': MULTI_LABEL},
            'classifier of single labels, but the head of ImageClassifier is MultiLabelLinear',
        ),
        ({'train_cfg.accumulative_counts': [1, 1, 2]}, 'accumulative_counts of train_cfg divides'),
        ({'train_cfg.accumulative_counts': 'auto'}, 'accumulative_counts of train_cfg divides'),
        ({'compile': dict(backend='eager')}, 'leave out compile'),
        ({'train_cfg.epochs': None, 'train_cfg.budget': 0.5}, 'state epochs, such as'),
        ({'train_dataloader.sampler.share': 0.01}, r'share=0.01 .* no sample of 20; give at lea'),
        ({'train_dataloader.sampler.share': 1.5}, 'share=1.5 .* above 0 and up to 1'),
        ({'train_cfg.data_share': 0.5}, 'data_share=0.5, which is not known'),
    ],
)
def test_refused(tmp_path, changes, message):
    merged = {**SUBSET, **{k: v for k, v in changes.items() if k in SUBSET}}
    cfg = config(tmp_path, **merged)
    cfg.merge_from_dict({k: v for k, v in changes.items() if k not in SUBSET})
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not list(tmp_path.glob('*.pth')) and not (tmp_path / 'plan.json').exists()


def test_hours_with_matching_are_refused(tmp_path):
    hooks = [SWITCH, {**MATCH, 'count_selection': False}]
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '1h', 'custom_hooks': hooks}
    with pytest.raises(ValueError, match='takes time that a budget in hours does not plan'):
        build(tmp_path, **{**SUBSET, **hours}).train()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(selection='best'), "selection='best' is not known; give one of"),
        (dict(selection='random', interval=0), 'interval=0 must be a whole number of epochs'),
        (dict(selection='random', batch_size=0), 'batch_size=0 of SubsetHook must be'),
        (dict(selection='random', width=1.5), 'width=1.5 of SubsetHook must be'),
        (dict(selection='random', ridge=-1), 'ridge=-1 of SubsetHook must be a number'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SubsetHook(**options)


def test_tool_prints_the_plan(tmp_path):
    cfg = Config.fromfile('configs/demo/deit-digits_bvit-b50.py')
    cfg.train_cfg.update(budget=None, epochs=[5, 5, 10])
    cfg.train_dataloader.sampler = dict(type='bvit_mm.SubsetSampler', share=0.1)
    cfg.custom_hooks.append(dict(type='bvit_mm.SubsetHook', selection='gradmatch', interval=5))
    cfg.dump(tmp_path / 'subset.py')
    plan = json.loads(tool('plan', 'subset.py', '--json', cwd=tmp_path))
    gflops = [stage['gflops'] for stage in plan['stages']]
    trained = sum(0.1 * g * n for g, n in zip(gflops, (5, 5, 10)))
    assert plan['cost'] == pytest.approx(trained + (gflops[0] + gflops[1] + gflops[2]) / 3)
    assert plan['epoch_share'] == 0.1 and plan['charges'][0]['interval'] == 5
    table = tool('plan', 'subset.py', cwd=tmp_path)
    assert 'an epoch reads 0.1 of the data' in table and re.search(r'selection +[\d.]+', table)
