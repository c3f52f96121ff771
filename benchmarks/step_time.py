# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Times a training step of each training stage against the plain class.

Forward, backward and AdamW, on random images. All networks are timed in turn in one run, and
the ratios are medians over rounds, so that a machine that slows down slows all of them. The
plain class is mmpretrain's own; of PVTv2, which it does not have, timm's.

``no attention`` is the whole network with every product of attention, every softmax, bias and
mask left out: what no implementation of attention can beat.
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from unittest import mock

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformer, VisionTransformer
from torch import nn

from bvit_mm import ElasticPVTv2, ElasticSwinTransformer, ElasticVisionTransformer


def timm_pvtv2_b2_linear() -> nn.Module:
    """timm's PVTv2-b2-linear without classifier."""
    from timm.models import create_model

    return create_model('pvt_v2_b2_li', num_classes=0, drop_path_rate=0.1)


DEIT = dict(arch='deit-small', img_size=224, patch_size=16, drop_path_rate=0.1)
SWIN = dict(arch='small', drop_path_rate=0.3)
PVTV2 = dict(
    arch='b2',
    linear=True,
    drop_path_rate=0.1,
    training_stages=[
        dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512), grid=40),
        dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024), grid=48),
        dict(),
    ],
)
NETWORKS = {  # the plain network, and the elastic one
    'deit-small': (
        lambda: VisionTransformer(**DEIT),
        lambda: ElasticVisionTransformer(**DEIT, training_stages=3),
    ),
    'swin-small': (
        lambda: SwinTransformer(**SWIN),
        lambda: ElasticSwinTransformer(**SWIN, training_stages=3),
    ),
    'pvtv2-b2-linear': (timm_pvtv2_b2_linear, lambda: ElasticPVTv2(**PVTV2)),
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network', nargs='?', default='deit-small', choices=NETWORKS)
    parser.add_argument('--batch', type=int, default=32, help='images a step')
    parser.add_argument('--rounds', type=int, default=10, help='timed steps of each network')
    parser.add_argument('--amp', action='store_true', help='in bfloat16 (autocast)')
    parser.add_argument('--inference', action='store_true', help='time forwards alone')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


class Trainer:
    """A network with its optimizer, on one random batch.

    Args:
        backbone: The network; it is moved to where the images are.
        images: The batch.
        amp: Whether to compute in bfloat16 (autocast).
        inference: Whether to time forwards alone.
        steps: How many are timed at once; more let an accelerator be kept busy, as in training.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: torch.Tensor,
        amp: bool = False,
        inference: bool = False,
        steps: int = 1,
    ) -> None:
        self.backbone = backbone.to(images.device)
        self.optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-5)
        self.images = images
        self.amp, self.inference, self.steps = amp, inference, steps
        self.backbone.train(not inference)

    def step(self) -> float:
        """Seconds of one step."""
        wait_for(self.images.device)
        begin = time.perf_counter()
        for _ in range(self.steps):
            self._step()
        wait_for(self.images.device)
        return (time.perf_counter() - begin) / self.steps

    def _step(self) -> None:
        self.optimizer.zero_grad()
        with (
            torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.amp),
            torch.set_grad_enabled(not self.inference),
        ):
            out = self.backbone(self.images)
        if not self.inference:
            out = out[-1] if isinstance(out, tuple) else out
            out.float().square().mean().backward()
            self.optimizer.step()


class WithoutAttention(Trainer):
    """Attention gives back its values."""

    def step(self) -> float:
        """Seconds of one step."""
        with mock.patch.object(F, 'scaled_dot_product_attention', lambda q, k, v, **_: v):
            return super().step()


def wait_for(device: torch.device) -> None:
    """Waits until a device has done all that it was asked for."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def times_in_turn(trainers: Mapping[str, Trainer], rounds: int) -> dict[str, list[float]]:
    """Seconds of steps of each network, by round; in each round all take their turn.

    Each step finds the memory as another left it, so none may always follow the same one.
    """
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(rounds + 1):
        for name in random.Random(round_).sample(sorted(trainers), len(trainers)):
            seconds = trainers[name].step()
            if round_:  # the first warms up
                times[name].append(seconds)
    return times


def ratio(seconds: Sequence[float], to: Sequence[float]) -> float:
    """The median over rounds of the ratio of two networks' seconds."""
    return statistics.median(a / b for a, b in zip(seconds, to))


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    build_plain, build = NETWORKS[args.network]
    options = dict(amp=args.amp, inference=args.inference)
    trainers = {'plain': Trainer(build_plain(), images, **options)}
    backbone = build()
    flops = [backbone.flops(k) for k in range(3)]
    for k in reversed(range(3)):
        backbone = build()
        backbone.set_training_stage(k)
        trainers[f'stage {k + 1}'] = Trainer(backbone, images, **options)
    if args.network == 'swin-small':  # the others call attention by names of their own
        trainers['no attention'] = WithoutAttention(build(), images, **options)
    times = times_in_turn(trainers, args.rounds)

    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    what = 'inference' if args.inference else 'training'
    what += ', autocast' if args.amp else ''
    print(
        f'{args.network}, {what}, batch {args.batch}, {device}, {torch.get_num_threads()} threads'
    )
    print('network       seconds  of plain  FLOPs share  time / (share x whole step)')
    for name, seconds in times.items():
        of_plain = ratio(seconds, times['plain'])
        row = f'{name:12}  {statistics.median(seconds):7.3f}  {of_plain:8.3f}'
        if name.startswith('stage'):
            share = flops[int(name[-1]) - 1] / flops[-1]
            row += f'  {share:11.3f}  {ratio(seconds, times["stage 3"]) / share:27.3f}'
        print(row)


if __name__ == '__main__':
    main()
