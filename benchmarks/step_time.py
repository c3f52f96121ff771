# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Times a training step of each training stage, in both views, against the plain class.

Forward, backward and AdamW, on random images. All networks are timed in turn in one run, and
the ratios are medians over rounds, so that a machine that slows down slows all of them. The
plain class is mmpretrain's own; of PVTv2, which it does not have, timm's. CSWin is in neither.

``no attention`` is the whole network with every product of attention, every softmax, bias and
mask left out: what no implementation of attention can beat.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import (
    ConvNeXt,
    DeiT3,
    PoolFormer,
    SwinTransformer,
    SwinTransformerV2,
    T2T_ViT,
    VisionTransformer,
)
from torch import nn

from bvit_mm import (
    ElasticConvNeXt,
    ElasticCSWin,
    ElasticDeiT3,
    ElasticPoolFormer,
    ElasticPVTv2,
    ElasticSwinTransformer,
    ElasticSwinTransformerV2,
    ElasticT2TViT,
    ElasticVisionTransformer,
)
from bvit_mm.elastic import ElasticBackbone


def timm_pvtv2_b2_linear() -> nn.Module:
    """timm's PVTv2-b2-linear without classifier."""
    from timm.models import create_model

    return create_model('pvt_v2_b2_li', num_classes=0, drop_path_rate=0.1)


DEIT = dict(arch='deit-small', img_size=224, patch_size=16, drop_path_rate=0.1)
SWIN = dict(arch='small', drop_path_rate=0.3)
SWINV2 = dict(arch='tiny', img_size=256, drop_path_rate=0.2)
PVTV2 = dict(arch='b2', linear=True, drop_path_rate=0.1)
PVTV2_STAGES = [
    dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512), grid=40),
    dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024), grid=48),
    dict(),
]
CONVNEXT = dict(arch='tiny', drop_path_rate=0.1)
POOLFORMER = dict(arch='s12', drop_path_rate=0.1, frozen_stages=-1)
CSWIN = dict(arch='tiny', drop_path_rate=0.2)
T2T = dict(  # T2T-ViT_t-14
    img_size=224,
    embed_dims=384,
    num_layers=14,
    layer_cfgs=dict(num_heads=6, feedforward_channels=1152),
    drop_path_rate=0.1,
)
DEIT3 = dict(arch='small', img_size=224, patch_size=16, drop_path_rate=0.05)
NETWORKS = {  # the plain network, or None, and the elastic one
    'deit-small': (
        lambda: VisionTransformer(**DEIT),
        lambda stages=3: ElasticVisionTransformer(**DEIT, training_stages=stages),
    ),
    'swin-small': (
        lambda: SwinTransformer(**SWIN),
        lambda stages=3: ElasticSwinTransformer(**SWIN, training_stages=stages),
    ),
    'swinv2-tiny': (
        lambda: SwinTransformerV2(**SWINV2),
        lambda stages=3: ElasticSwinTransformerV2(**SWINV2, training_stages=stages),
    ),
    'pvtv2-b2-linear': (
        timm_pvtv2_b2_linear,
        lambda stages=PVTV2_STAGES: ElasticPVTv2(**PVTV2, training_stages=stages),
    ),
    'convnext-tiny': (
        lambda: ConvNeXt(**CONVNEXT),
        lambda stages=3: ElasticConvNeXt(**CONVNEXT, training_stages=stages),
    ),
    'poolformer-s12': (
        lambda: PoolFormer(**POOLFORMER),
        lambda stages=3: ElasticPoolFormer(**POOLFORMER, training_stages=stages),
    ),
    'cswin-tiny': (None, lambda stages=3: ElasticCSWin(**CSWIN, training_stages=stages)),
    't2t-vit-t-14': (
        lambda: T2T_ViT(**T2T),
        lambda stages=3: ElasticT2TViT(**T2T, training_stages=stages),
    ),
    'deit3-small': (
        lambda: DeiT3(**DEIT3),
        lambda stages=3: ElasticDeiT3(**DEIT3, training_stages=stages),
    ),
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network', nargs='?', default='deit-small', choices=NETWORKS)
    parser.add_argument('--batch', type=int, default=32, help='images a step')
    parser.add_argument('--rounds', type=int, default=10, help='timed steps of each network')
    parser.add_argument('--amp', action='store_true', help='in bfloat16 (autocast)')
    parser.add_argument('--fused', action='store_true', help="with AdamW's fused step")
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
        fused: Whether AdamW updates in one pass over the memory.
        steps: How many are timed at once; more let an accelerator be kept busy, as in training.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: torch.Tensor,
        amp: bool = False,
        inference: bool = False,
        fused: bool = False,
        steps: int = 1,
    ) -> None:
        self.backbone = backbone.to(images.device)
        self.optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-5, fused=fused)
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
        if self.inference:
            with torch.no_grad():
                self.out()
            return
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def out(self) -> torch.Tensor:
        """The last output of the network."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.amp):
            out = self.backbone(self.images)
        return out[-1] if isinstance(out, tuple) else out

    def loss(self) -> torch.Tensor:
        """Something to learn."""
        return self.out().float().square().mean()


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


def in_view(backbone: ElasticBackbone, view: str) -> list[dict[str, Any]]:
    """The training stages of a backbone, all but the last in a view."""
    *smaller, whole = (stage.as_dict() for stage in backbone.training_stages)
    return [*({**stage, 'view': view} for stage in smaller), whole]


def stages(build: Callable[..., ElasticBackbone]) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """A network for each training stage in each view, and its share of the whole one's FLOPs."""
    networks, flops = {}, {}
    for view in ('crop', 'scale'):
        for k in range(3):
            network = build(in_view(build(), view))
            network.set_training_stage(k)
            name = 'whole' if network.is_whole else f'stage {k + 1}, {view}'
            networks[name], flops[name] = network, network.flops(k)
    return networks, {name: each / flops['whole'] for name, each in flops.items()}


def main() -> None:
    """Runs the benchmark."""
    args = parse_args()
    build_plain, build = NETWORKS[args.network]
    images = torch.randn(args.batch, 3, *build().img_size, device=args.device)
    options = dict(amp=args.amp, inference=args.inference, fused=args.fused)
    networks, shares = stages(build)
    if build_plain is not None:
        networks['plain'] = build_plain()
    trainers = {name: Trainer(network, images, **options) for name, network in networks.items()}
    if args.network.startswith('swin'):  # the others call attention by names of their own
        trainers['no attention'] = WithoutAttention(build(), images, **options)
    times = times_in_turn(trainers, args.rounds)

    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    what = 'inference' if args.inference else 'training'
    what += ', autocast' if args.amp else ''
    what += ', fused AdamW' if args.fused else ''
    print(
        f'{args.network}, {what}, batch {args.batch}, {device}, {torch.get_num_threads()} threads'
    )
    print('network         seconds  of plain  FLOPs share  time / (share x whole step)')
    for name, seconds in times.items():
        of_plain = f'{ratio(seconds, times["plain"]):.3f}' if 'plain' in times else '-'
        row = f'{name:14}  {statistics.median(seconds):7.3f}  {of_plain:>8}'
        if name in shares:
            share = shares[name]
            row += f'  {share:11.3f}  {ratio(seconds, times["whole"]) / share:27.3f}'
        print(row)


if __name__ == '__main__':
    main()
