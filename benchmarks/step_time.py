# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Times a training step of each training stage against mmpretrain's own class.

Forward, backward and AdamW, on random images. All networks are timed in turn in one run, and
the ratios are medians over rounds, so that a machine that slows down slows all of them.
"""

import argparse
import random
import statistics
import time

import torch
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from bvit_mm import ElasticVisionTransformer


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='deit-small')
    parser.add_argument('--batch', type=int, default=32, help='images a step')
    parser.add_argument('--rounds', type=int, default=10, help='timed steps of each network')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


class Trainer:
    """A network with its optimizer, on one random batch."""

    def __init__(self, backbone: nn.Module, images: torch.Tensor) -> None:
        self.backbone = backbone.to(images.device)
        self.optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-5)
        self.images = images

    def step(self) -> float:
        """Seconds of one training step."""
        self._wait()
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        self.backbone(self.images)[-1].square().mean().backward()
        self.optimizer.step()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.images.is_cuda:
            torch.cuda.synchronize()


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    options = dict(arch=args.arch, img_size=224, patch_size=16, drop_path_rate=0.1)
    trainers = {'mmpretrain': Trainer(VisionTransformer(**options), images)}
    for k in reversed(range(3)):
        backbone = ElasticVisionTransformer(**options, training_stages=3)
        backbone.set_training_stage(k)
        trainers[f'stage {k + 1}'] = Trainer(backbone, images)
    flops = [backbone.flops(k) for k in range(3)]

    times: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(args.rounds + 1):
        # Each step finds the memory as another left it, so none may always follow the same one.
        for name in random.Random(round_).sample(sorted(trainers), len(trainers)):
            seconds = trainers[name].step()
            if round_:  # the first warms up
                times[name].append(seconds)

    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    print(f'{args.arch}, batch {args.batch}, {device}, {torch.get_num_threads()} threads')
    print('network     seconds  of mmpretrain  FLOPs share  time / (share x whole step)')
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times['mmpretrain']))
        row = f'{name:10}  {statistics.median(seconds):7.3f}  {ratio:13.3f}'
        if name != 'mmpretrain':
            share = flops[int(name[-1]) - 1] / flops[-1]
            whole = statistics.median(a / b for a, b in zip(seconds, times['stage 3']))
            row += f'  {share:11.3f}  {whole / share:27.3f}'
        print(row)


if __name__ == '__main__':
    main()
