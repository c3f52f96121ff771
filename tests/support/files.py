# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a run leaves: its checkpoints and its folder."""

import re

import torch


def last_file(work_dir):
    path = (work_dir / 'last_checkpoint').read_text().strip()
    return torch.load(path, weights_only=False, map_location='cpu')


def differences(a, b, where=''):
    """The places where two nested structures differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f'{where}: {sorted(map(str, a.keys() ^ b.keys()))}']
        return [d for key in a for d in differences(a[key], b[key], f'{where}.{key}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{where}: {len(a)} and {len(b)} long']
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f'{where}.{i}')]
    return [] if type(a) is type(b) and a == b else [f'{where}: {a} and {b}']


def forget_times(file):
    """Removes from a checkpoint what differs between two runs of the same."""
    for key in ('time', 'cfg', 'experiment_name', 'mmengine_version'):  # the last: git's commit
        file['meta'].pop(key)
    for key in ('seconds', 'other', 'waiting'):
        file['meta']['bvit_mm']['ledger'].pop(key)
    file.pop('message_hub')  # logged values, with times


def assert_same_run(ours, theirs):
    """Weights, averages, optimizer, schedulers, position, what was spent: all equal."""
    for file in (ours, theirs):
        forget_times(file)
    assert not differences(ours, theirs)
    assert ours['state_dict']._metadata == theirs['state_dict']._metadata


def content(folder):
    """What lies in a folder and may not change: all but what mmengine logs of each start."""
    files = {}
    for path in sorted(folder.rglob('*')):
        place = path.relative_to(folder)
        if not re.fullmatch(r'\d{8}_\d{6}(\.py)?', place.parts[0]):
            files[str(place)] = path.read_bytes() if path.is_file() else None
    return files
