# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Profiles a training step of Swin-S, mmpretrain's and ours, by kind of work, on the CPU."""

import argparse
import statistics

import torch
from step_time import NETWORKS
from torch import nn
from torch.profiler import ProfilerActivity, profile

PARTS = {
    'matrix products of linear layers': ('aten::mm', 'aten::addmm'),
    'copies': ('aten::copy_', 'aten::cat', 'aten::clone'),
    'GELU': ('aten::gelu', 'aten::gelu_backward'),
    'products of attention': ('aten::bmm',),
    'softmax': (
        'aten::_softmax',
        'aten::_softmax_backward_data',
        'aten::all',
        'aten::isneginf',
        'aten::where',
    ),
    'filling, mostly masks': ('aten::fill_', 'aten::zero_'),
}


def milliseconds(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Of each part in one forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        model.zero_grad()
        model(images)[-1].square().mean().backward()
    times = {event.key: event.self_cpu_time_total / 1e3 for event in record.key_averages()}
    parts = {part: sum(times.get(op, 0) for op in ops) for part, ops in PARTS.items()}
    return {**parts, 'all else': sum(times.values()) - sum(parts.values())}


def main() -> None:
    """Runs the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch', type=int, default=8, help='images a step')
    parser.add_argument('--rounds', type=int, default=5, help='profiled steps of each network')
    args = parser.parse_args()
    images = torch.randn(args.batch, 3, 224, 224)
    columns = []
    for build in NETWORKS['swin-small']:
        model = build()
        rounds = [milliseconds(model, images) for _ in range(args.rounds + 1)][1:]
        columns.append({part: statistics.median(r[part] for r in rounds) for part in rounds[0]})
    print('part                              mmpretrain, ms       here, ms')
    for part in columns[0]:
        cells = (f'{c[part]:8.0f} ({c[part] / sum(c.values()):4.0%})' for c in columns)
        print(f'{part:32}  {"  ".join(cells)}')


if __name__ == '__main__':
    main()
