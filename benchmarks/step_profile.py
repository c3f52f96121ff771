# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Profiles a training step by kind of work, on the CPU: mmpretrain's network beside ours.

With ``--stage``, of a training stage beside the whole network: what of it does not shrink with
the FLOPs. ``beyond its share`` is the stage's milliseconds less the FLOPs share of the whole's.
"""

import argparse
import statistics

import torch
from step_time import NETWORKS, Trainer, stages
from torch.profiler import ProfilerActivity, profile

PARTS = {
    'matrix products of linear layers': ('aten::mm', 'aten::addmm'),
    'convolutions': ('aten::mkldnn_convolution', 'aten::convolution_backward'),
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
    'norms': ('aten::native_layer_norm', 'aten::native_layer_norm_backward'),
    'filling: masks, gradients of what rests': ('aten::fill_', 'aten::zero_'),
}


def milliseconds(trainer: Trainer) -> dict[str, float]:
    """Of each part in one training step."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        trainer.loss().backward()
    times = {event.key: event.self_cpu_time_total / 1e3 for event in record.key_averages()}
    parts = {part: sum(times.get(op, 0) for op in ops) for part, ops in PARTS.items()}
    parts['all else'] = sum(times.values()) - sum(parts.values())
    with profile(activities=[ProfilerActivity.CPU]) as record:
        trainer.optimizer.step()
    parts['AdamW'] = sum(event.self_cpu_time_total / 1e3 for event in record.key_averages())
    trainer.optimizer.zero_grad()
    return parts


def main() -> None:
    """Runs the profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network', nargs='?', default='swin-small', choices=NETWORKS)
    parser.add_argument('--batch', type=int, default=8, help='images a step')
    parser.add_argument('--rounds', type=int, default=5, help='profiled steps of each network')
    parser.add_argument('--stage', type=int, choices=(1, 2), help='on scaled images, by its number')
    parser.add_argument('--fused', action='store_true', help="with AdamW's fused step")
    args = parser.parse_args()
    build_plain, build = NETWORKS[args.network]
    if args.stage is None and build_plain is None:
        parser.error(f'there is no other {args.network} to compare with; give --stage')
    if args.stage is None:
        networks, share, last = {'mmpretrain': build_plain(), 'here': build()}, 1.0, 'difference'
    else:
        ours, shares = stages(build)
        name = f'stage {args.stage}, scale'
        networks, share = {'whole': ours['whole'], name: ours[name]}, shares[name]
        last = 'beyond its share'
    images = torch.randn(args.batch, 3, *build().img_size)
    trainers = [Trainer(network, images, fused=args.fused) for network in networks.values()]
    rounds = [list(map(milliseconds, trainers)) for _ in range(args.rounds + 1)][1:]
    columns = [
        {part: statistics.median(each[i][part] for each in rounds) for part in rounds[0][0]}
        for i in range(2)
    ]
    columns = [{**column, 'all': sum(column.values())} for column in columns]
    print(f'{"milliseconds":40}', *(f'{name:>16}' for name in networks), f'{last:>17}')
    for part in columns[0]:
        cells = (f'{c[part]:9.0f} ({c[part] / c["all"]:4.0%})' for c in columns)
        print(f'{part:40}', *cells, f'{columns[1][part] - share * columns[0][part]:17.0f}')


if __name__ == '__main__':
    main()
