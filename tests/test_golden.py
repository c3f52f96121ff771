# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Tiny runs of every row of the table of laws: they end as they did, resumed or not.

Other tests compare what this code computes in two ways; these numbers show a drift of both.
"""

import pytest
from torch.nn.utils import parameters_to_vector

from .support.cases import CASES
from .support.files import assert_same_run, last_file
from .support.trainings import resume, run
from .support.variants import RECORD, SWITCH

# Networks of full size cost minutes, and differ from the small ones in nothing that a run asks.
SMALL = {case.name: case for case in CASES if case.batch > 1}

# Rounding in float32 grows in a few steps to less than this share; a change of what is computed,
# such as another order of random numbers, is far above it.
CLOSE = 1e-4
# mmpretrain's T2T-ViT multiplies scores where others divide them, so its attention is nearly a
# step: weights changed by 1e-7 of their size end 1e-2 apart after twenty iterations.
ROUGH = {'t2t': 1e-2}

# The losses of each iteration, two a stage, and the norm of all weights at the end. Print those of
# a new row with `python -m pytest tests/test_golden.py -k NAME`, which fails for it.
GOLDEN = {
    'vit-tiny': [1.38629, 1.40485, 1.36996, 1.47012, 1.34264, 1.50356, 17.5191],
    'pvtv2-tiny': [1.38133, 1.37695, 1.30149, 1.29383, 1.27142, 1.24811, 22.4887],
    'swin-tiny': [1.38195, 1.38741, 1.28889, 1.39388, 1.38043, 1.51476, 21.1632],
    'vit-base': [1.38629, 1.40947, 1.36238, 1.65266, 1.46647, 1.42247, 32.0342],
    'vit-number': [1.38629, 1.41358, 1.40021, 1.63798, 1.26566, 1.75523, 32.0119],
    'vit-two': [1.38629, 1.41843, 1.3785, 1.67705, 31.9709],
    'vit-four': [1.38629, 1.41861, 1.44895, 1.53517, 1.38648, 1.5806, 1.51367, 1.26288, 32.2365],
    'vit-uneven': [1.38629, 1.41851, 1.33633, 1.67095, 1.39502, 1.55107, 32.0324],
    'vit-no-bias': [1.38629, 1.41455, 1.41643, 1.56377, 1.35612, 1.64943, 33.0832],
    'vit-no-cls': [1.38629, 1.41075, 1.36682, 1.60816, 1.30774, 1.73127, 32.8027],
    'vit-featmap': [1.37941, 1.44303, 1.37707, 1.59255, 1.38556, 1.54294, 32.0023],
    'vit-raw': [1.38082, 1.44305, 1.37006, 1.61187, 1.3795, 1.55784, 32.0074],
    'vit-outputs': [1.38629, 1.40947, 1.36238, 1.65266, 1.46647, 1.42247, 32.0342],
    'vit-pre-norm': [1.38629, 1.42752, 1.3886, 1.55672, 1.50394, 1.39045, 32.9196],
    'vit-oblong': [1.38629, 1.4068, 1.38203, 1.61902, 1.3439, 1.66073, 32.052],
    'pvtv2-base': [1.38869, 1.3624, 1.4364, 1.42038, 1.40224, 1.38791, 37.2379],
    'pvtv2-linear': [1.40215, 1.41258, 1.37301, 1.41398, 1.37526, 1.36852, 38.5956],
    'pvtv2-two': [1.3894, 1.36277, 1.35451, 1.51229, 37.0112],
    'pvtv2-three': [1.40224, 1.41332, 1.37292, 1.41226, 1.3743, 1.37453, 38.485],
    'pvtv2-no-bias': [1.3955, 1.36268, 1.33989, 1.42654, 1.39212, 1.31501, 35.7949],
    'pvtv2-outputs': [1.38869, 1.3624, 1.4364, 1.42038, 1.40224, 1.38791, 37.2379],
    'pvtv2-oblong': [1.36349, 1.38668, 1.34816, 1.36605, 1.42932, 1.39882, 38.5172],
    'swin-base': [1.39481, 1.40283, 1.35123, 1.95174, 1.25075, 2.03522, 54.5725],
    'swin-number': [1.35814, 1.42896, 1.24756, 1.42623, 1.15622, 2.18576, 54.3964],
    'swin-heads-only': [1.38785, 1.45317, 1.22804, 2.05507, 54.2897],
    'swin-window-only': [1.38548, 1.45239, 1.51645, 1.98858, 54.3336],
    'swin-padded': [1.37686, 1.473, 1.37281, 2.09276, 1.27535, 2.22138, 54.5469],
    'swin-small-maps': [1.43269, 1.43111, 1.50624, 2.041, 54.3346],
    'swin-position': [1.41036, 1.43026, 1.44613, 2.00304, 1.33954, 1.96942, 54.5992],
    'swin-no-bias': [1.39379, 1.40152, 1.44622, 1.87048, 1.1674, 2.52544, 54.5413],
    'swin-outputs': [1.39481, 1.40283, 1.35123, 1.95174, 1.25075, 2.03522, 55.2283],
    'swin-after-downsample': [1.39481, 1.40283, 1.35123, 1.95174, 1.25075, 2.03522, 55.0106],
    'swin-oblong': [1.34474, 1.40853, 1.46543, 1.92173, 1.26153, 2.33243, 54.525],
    'swin-windows': [1.35688, 1.45169, 1.53977, 1.88169, 1.26334, 2.06709, 54.5865],
    'swin-levels': [1.41167, 1.43764, 1.46651, 1.99389, 54.3395],
    't2t': [1.38629, 1.41824, 1.39352, 1.50848, 1.40849, 1.23851, 38.112],
}  # fmt: skip


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
    assert found == pytest.approx(GOLDEN.get(name, []), rel=ROUGH.get(name, CLOSE)), str(found)
    resumed = resume(tmp_path / 'resumed', tmp_path / 'whole', 4, changes)
    assert_same_run(resumed, last_file(tmp_path / 'whole'))
