# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The page of results: it is what its command writes from the records."""

from statistics import fmean

import cv2
import pytest

from bvit_mm.compare import ABLATIONS, METHODS, by_setting, read_records
from bvit_mm.compare.tables import OURS

from .support.configs import planned
from .support.scripts import load_script
from .support.tools import ROOT, tool

page = load_script(ROOT / 'tools' / 'results_page.py')
DATA = ('digits', 'letters')
RECORDS = sorted((ROOT / 'results').glob('*.jsonl'))


def test_page_is_what_its_command_writes(tmp_path):
    tool('results_page', tmp_path / 'results.md', cwd=tmp_path)
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs' / 'results.md').read_text()
    for drawn in tmp_path.glob('*.png'):
        kept, new = cv2.imread(str(ROOT / 'docs' / drawn.name)), cv2.imread(str(drawn))
        assert kept.shape == new.shape and (kept != new).mean() < 0.01, drawn.name


def test_records_are_whole():
    """Each has spent its budget, and kept what it reached."""
    assert RECORDS
    for file in RECORDS:
        for record in read_records(file):
            assert 0 < record.cost <= record.budget * (1 + 1e-9)
            assert record.value == record.history[-1][1] and 0 <= record.value <= 100
            assert record.history[-1][0] == sum(record.epochs)
            assert record.seconds['training'] > 0


@pytest.mark.parametrize('name, data', [*zip(DATA, DATA), ('digits_confirmed', 'digits')])
def test_records_are_of_the_config(name, data):
    """Each method's plan is the one that its config has now."""
    settings = by_setting(read_records(ROOT / 'results' / f'{name}.jsonl'))
    assert settings
    for (method, budget), runs in settings.items():
        config = ROOT / 'configs' / 'compare' / f'deit-{data}.py'
        plan, _, full, _ = planned(config, {**ABLATIONS, **METHODS}[method], budget)
        for run in runs.values():
            assert run.epochs == list(plan.epochs)
            assert run.cost == pytest.approx(plan.cost / full)


def test_confirming_seeds_are_new():
    used, new = (
        {record.seed for record in read_records(ROOT / 'results' / f'{name}.jsonl')}
        for name in ('digits', 'digits_confirmed')
    )
    assert used and new and not used & new


@pytest.mark.parametrize(
    'intervals, expected',
    [
        ([(0.1, 2), (1, 2)], 'better'),
        ([(-0.1, 2), (1, 2)], 'undecided'),
        ([(0.1, 2), (-2, -1)], 'worse than one'),
    ],
)
def test_verdicts(intervals, expected):
    assert page.verdict(intervals, 3) == expected
    assert page.verdict(intervals, 2) == 'too few seeds'


def test_wrong_folder(tmp_path):
    error = tool('results_page', tmp_path / 'nowhere' / 'results.md', cwd=tmp_path, fails=True)
    assert 'nowhere is no folder' in error
    error = tool('results_page', 'a.md', '--records', tmp_path, cwd=tmp_path, fails=True)
    assert f'--records {tmp_path} has none of digits, letters' in error
    (tmp_path / 'digits.jsonl').write_text('{"method": 1')
    error = tool('results_page', 'a.md', '--records', tmp_path, cwd=tmp_path, fails=True)
    assert f'error: line 1 of {tmp_path / "digits.jsonl"} is no record' in error
    assert not (tmp_path / 'a.md').exists()


@pytest.mark.parametrize('name', DATA)
def test_readme_says_what_the_records_say(name):
    settings = by_setting(read_records(ROOT / 'results' / f'{name}.jsonl'))
    readme = ' '.join((ROOT / 'README.md').read_text().split())
    for method in page.BASELINES:
        for budget in (0.25, 0.5, 0.75, 1.0):  # rex is the best, as it says
            ours, theirs = (settings[m, budget].values() for m in ('rex', method))
            assert fmean(run.value for run in ours) >= fmean(run.value for run in theirs)
    for method in (OURS, 'rex'):
        runs = (settings[method, budget].values() for budget in (0.25, 0.5, 0.75, 1.0))
        *first, last = (f'{fmean(run.value for run in each):.1f}' for each in runs)
        assert f'{", ".join(first)} and {last} %' in readme


def test_readme_says_what_smaller_images_reach():
    """Of the digits and of the letters, at a quarter of the cost."""
    settings = (by_setting(read_records(ROOT / 'results' / f'{n}.jsonl')) for n in DATA)
    runs = (each['downsample', 0.25].values() for each in settings)
    digits, letters = (f'{fmean(run.value for run in each):.1f}' for each in runs)
    readme = ' '.join((ROOT / 'README.md').read_text().split())
    assert f'{digits} and {letters} % so' in readme


def test_readme_says_what_the_best_setting_reaches():
    settings = by_setting(read_records(ROOT / 'results' / 'digits_confirmed.jsonl'))
    runs = (settings[method, 0.25].values() for method in ('half-rex', OURS))
    best, ours = (f'{fmean(run.value for run in each):.1f}' for each in runs)
    readme = ' '.join((ROOT / 'README.md').read_text().split())
    assert f'{best} instead of {ours} %' in readme
