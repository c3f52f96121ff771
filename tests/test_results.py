# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The page of results: it is what its command writes from the records."""

import math
import sys

import cv2

from .test_tools import ROOT, tool

sys.path.insert(0, str(ROOT / 'tools'))
from _runs import read_records
from results_page import verdict

RECORDS = sorted((ROOT / 'results').glob('*.jsonl'))


def test_page_is_what_its_command_writes(tmp_path):
    tool('results_page', tmp_path / 'results.md', cwd=tmp_path)
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs' / 'results.md').read_text()
    for drawn in tmp_path.glob('*.png'):
        kept = cv2.imread(str(ROOT / 'docs' / drawn.name))
        assert kept.shape == cv2.imread(str(drawn)).shape


def test_records_are_whole():
    """Each has spent its budget, and kept what it reached."""
    assert RECORDS
    for file in RECORDS:
        for record in read_records(file):
            assert 0 < record.cost <= record.budget * (1 + 1e-9)
            assert record.value == record.history[-1][1] and 0 <= record.value <= 100
            assert record.history[-1][0] == sum(record.epochs)
            assert record.seconds['training'] > 0


def test_verdicts():
    assert [verdict(*ends) for ends in ((0.1, 2), (-2, -0.1), (-1, 1))] == ['better', 'worse', 'no']
    assert verdict(math.nan, math.nan) == 'one seed'


def test_wrong_folder(tmp_path):
    error = tool('results_page', tmp_path / 'nowhere' / 'results.md', cwd=tmp_path, fails=True)
    assert 'nowhere is no folder' in error
    error = tool('results_page', 'a.md', '--records', tmp_path, cwd=tmp_path, fails=True)
    assert f'--records {tmp_path} has none of digits, letters' in error
    assert not (tmp_path / 'a.md').exists()
