# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Subsets that are chosen by gradients or drawn, and runs on them."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from bvit_mm.running.randomness import derived_seed
from bvit_mm.subsets.gradients import last_layer, mini_batch_gradients, mini_batches
from bvit_mm.subsets.matching import gram_matrix, match
from bvit_mm.subsets.sampler import samples_of
from bvit_mm.testing.closeness import assert_near

from .support.files import differences
from .support.runs import build
from .support.subset_runs import DRAW, RANDOM, SEE, run
from .support.trainings import log_of
from .support.variants import MATCH, SUBSET, SWITCH


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
