# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Times slimmed networks against the whole one: a training step, and a forward alone.

Which units stay is drawn at random, so blocks differ as those of a search do. All networks are
timed in turn in one run, and ratios are medians over rounds (``step_time``).
"""

import argparse
import copy
import statistics

import torch
from step_time import NETWORKS, Trainer, ratio, times_in_turn

from bvit_mm.slim.cutting import chosen, flops_of, slim_, units_of


def slimmed(build, share: float, dims: bool):
    """A network cut to a share of the FLOPs of its backbone, and the share that it has."""
    backbone = build(None)
    if dims:
        backbone.split_heads_()
    whole = flops_of(backbone, backbone.totals())
    generator = torch.Generator().manual_seed(0)
    drawn = (
        torch.rand(module.total(axis), generator=generator).tolist()
        for module, axis in backbone.read_units()
    )
    kept = chosen(backbone, units_of(backbone, drawn), 0, int(share * whole), fill=True)
    slim_(backbone, kept)
    return backbone, backbone.flops(0) / whole


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network', nargs='?', default='deit-small', choices=NETWORKS)
    parser.add_argument('--shares', type=float, nargs='+', default=[0.7, 0.5])
    parser.add_argument('--dims', action='store_true', help='cut single dimensions of heads')
    parser.add_argument('--batch', type=int, default=32, help='images a step')
    parser.add_argument('--rounds', type=int, default=10, help='timed steps of each network')
    args = parser.parse_args()
    _, build = NETWORKS[args.network]
    networks, flops = {'whole': build(None)}, {'whole': 1.0}
    for share in args.shares:
        name = f'{share:.0%}'
        networks[name], flops[name] = slimmed(build, share, args.dims)
    images = torch.randn(args.batch, 3, *networks['whole'].img_size)
    print(f'{args.network}, batch {args.batch}, CPU, {torch.get_num_threads()} threads')
    for inference in (False, True):
        trainers = {
            name: Trainer(copy.deepcopy(network), images, inference=inference)
            for name, network in networks.items()
        }
        times = times_in_turn(trainers, args.rounds)
        what = 'forward' if inference else 'training step'
        print(f'{what:14}  seconds  of whole  FLOPs share')
        for name, seconds in times.items():
            of_whole = ratio(seconds, times['whole'])
            median = statistics.median(seconds)
            print(f'{name:14}  {median:7.3f}  {of_whole:8.3f}  {flops[name]:11.3f}')


if __name__ == '__main__':
    main()
