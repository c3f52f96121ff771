# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training on less data: what a share costs, and the sampler."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bvit_mm import SubsetSampler, make_plan, subset_share
from bvit_mm.budget import StatedEpochs
from bvit_mm.running.old_records import plan_of_today
from bvit_mm.running.resumption import check_same
from bvit_mm.subsets.gradients import mini_batches
from bvit_mm.subsets.sampler import random_subset, samples_of
from bvit_mm.subsets.share import selection_charge


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
        ValueError, match=r"x with charges=\['selection every 2 epochs'\], and this one has \[\]"
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
