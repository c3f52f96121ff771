# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Tiny runs of every row of the table of laws: they end as they did, resumed or not.

Other tests compare what this code computes in two ways; these numbers show a drift of both.
"""

import pytest
from torch.nn.utils import parameters_to_vector

from .support.cases import CASES, GOLDEN
from .support.files import assert_same_run, last_file
from .support.trainings import resume, run
from .support.variants import RECORD, SWITCH

# Networks of full size cost minutes, and differ from the small ones in nothing that a run asks.
SMALL = {case.name: case for case in CASES if case.batch > 1}

# Rounding in float32 grows in a few steps to less than this share; a change of what is computed,
# such as another order of random numbers, is far above it.
CLOSE = 1e-4


def changes_of(case):
    return {
        **case.run_changes(),
        'default_hooks.checkpoint': dict(type='CheckpointHook', interval=3, by_epoch=False),
        'custom_hooks': [{**SWITCH, 'moments': 'corrected'}, RECORD],
        'train_cfg': dict(_delete_=True, type='bvit_mm.BudgetedTrainLoop', val_interval=99),
        'train_cfg.epochs': [1] * case.build().num_training_stages,
        'train_dataloader.batch_size': case.batch,
        'train_dataloader.dataset.number': 2 * case.batch,
    }


@pytest.mark.parametrize('name', SMALL)
def test_golden_run(tmp_path, name):
    """Law 8 for it too: resumed in the middle of the second stage."""
    changes = changes_of(SMALL[name])
    runner, record = run(tmp_path / 'whole', **changes)
    norm = parameters_to_vector(runner.model.parameters()).norm().item()
    found = [float(f'{number:.6g}') for number in (*record.losses, norm)]
    assert found == pytest.approx(GOLDEN.get(name, []), rel=CLOSE), str(found)
    resumed = resume(tmp_path / 'resumed', tmp_path / 'whole', 4, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))
