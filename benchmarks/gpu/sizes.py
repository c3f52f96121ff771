# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How much is measured: in full on a GPU, and so little that a test can run all of it on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

import bvit_mm  # noqa: F401  registers
from benchmarks.step_time import in_view
from bvit_mm.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
VIEWS = ('crop', 'scale')


@dataclass(frozen=True)
class Family:
    """A network of a shipped config.

    Attributes:
        config: The config's file, below ``configs``.
        timm: timm's name of it, if it has it.
        changes: Of the config; as of ``Config.merge_from_dict``.
        timm_changes: Arguments of timm's network.
    """

    config: str
    timm: str | None
    changes: dict[str, Any] = field(default_factory=dict)
    timm_changes: dict[str, Any] = field(default_factory=dict)

    def read(self, view: str = 'crop') -> Config:
        """The config, with all stages but the last in a view."""
        config = Config.fromfile(CONFIGS / self.config)
        config.merge_from_dict(self.changes)
        backbone = config.model.backbone
        backbone.training_stages = in_view(MODELS.build(backbone), view)
        return config

    @property
    def image_size(self) -> int:
        """Pixels of a side of the images that it is for."""
        return self.read().model.backbone.img_size


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        families: The networks that are timed, by name.
        compiled: The network that is compiled, a ViT.
        batch: Images of a step of a run.
        step_batch: Images of a step that is timed alone; halved where they do not fit. Few leave
            a fast GPU waiting for the program, so that all stages take the same time.
        rounds, steps: Timed rounds, and steps that are timed at once.
        loaded: The families that are trained from files.
        files, names: How many JPEGs are drawn, and under how many names each is there.
        iterations: Of each stage, in runs that are timed.
        workers: Of the data loader, at most.
        compiler: The backend of torch.compile.
        trained: The small families that are stopped and resumed.
        stops: The iterations after which they are, of 30 with switches after 10 and 20.
        cases: The rows of the table of laws that are checked.
    """

    families: dict[str, Family]
    compiled: Family
    batch: int = 128
    step_batch: int = 1024
    rounds: int = 6
    steps: int = 3
    loaded: Sequence[str] = ('DeiT-S',)
    files: int = 64
    names: int = 40
    iterations: int = 20
    workers: int = 16
    compiler: str = 'inductor'
    trained: Sequence[str] = ('vit', 'swin', 'pvtv2')
    stops: Sequence[int] = (8, 13, 21)
    cases: Sequence[str] = ()


def vit(embed_dims: int, layers: int, heads: int) -> dict[str, Any]:
    """The ``arch`` of a ViT, in place of a config's."""
    hidden = 4 * embed_dims
    return dict(
        _delete_=True,
        embed_dims=embed_dims,
        num_layers=layers,
        num_heads=heads,
        feedforward_channels=hidden,
    )


DEIT = Family('deit/deit-small_bvit-b100_4xb256_in1k.py', 'deit_small_patch16_224')
SWIN = Family('swin/swin-small_bvit-b100_16xb64_in1k.py', 'swin_small_patch4_window7_224')
PVTV2 = Family('pvtv2/pvtv2-b2-linear_bvit-b100_8xb128_in1k.py', 'pvt_v2_b2_li')
# All twelve blocks take minutes to compile.
FOUR_BLOCKS = Family(
    DEIT.config, DEIT.timm, {'model.backbone.arch': vit(embed_dims=384, layers=4, heads=6)}
)
CONVNEXT = Family('convnext/convnext-tiny_bvit-b100_32xb128_in1k.py', 'convnext_tiny')
POOLFORMER = Family('poolformer/poolformer-s12_bvit-b50_32xb128_in1k.py', 'poolformer_s12')
CSWIN = Family('cswin/cswin-tiny_bvit-b100_16xb128_in1k.py', None)
FULL = Size(
    {
        'DeiT-S': DEIT,
        'Swin-S': SWIN,
        'PVTv2-b2-linear': PVTV2,
        'ConvNeXt-T': CONVNEXT,
        'PoolFormer-S12': POOLFORMER,
        'CSWin-T': CSWIN,
    },
    FOUR_BLOCKS,
    cases=tuple(
        f'{family}-{kind}'
        for family in ('vit', 'pvtv2', 'swin', 'convnext', 'poolformer', 'cswin', 't2t', 'deit3')
        for kind in ('base', 'scaled', 'mixed', 'oblong')
    ),
)

PIXELS = {
    'model.backbone.img_size': 32,
    'model.backbone.training_stages': 3,
    'train_pipeline.1.scale': 32,
    'train_dataloader.dataset.pipeline.1.scale': 32,
}
TINY_DEIT = Family(
    DEIT.config,
    DEIT.timm,
    {
        **PIXELS,
        'model.backbone.arch': vit(embed_dims=24, layers=2, heads=3),
        'model.backbone.patch_size': 4,
        'model.head.in_channels': 24,
    },
    dict(img_size=32, patch_size=4, embed_dim=24, depth=2, num_heads=3),
)
TINY = Size(
    {
        'DeiT-S': TINY_DEIT,
        'Swin-S': Family(
            SWIN.config,
            SWIN.timm,
            {
                **PIXELS,
                'model.backbone.arch': dict(
                    _delete_=True, embed_dims=16, depths=[2, 1], num_heads=[2, 4]
                ),
                'model.backbone.window_size': 4,
                'model.backbone.out_indices': (1,),
                'model.head.in_channels': 32,
            },
            dict(img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)),
        ),
        'PVTv2-b2-linear': Family(
            PVTV2.config,
            PVTV2.timm,
            {
                **PIXELS,
                'model.backbone.arch': 'b0',
                'model.head.in_channels': 256,
            },
        ),
    },
    TINY_DEIT,
    batch=4,
    step_batch=4,
    rounds=1,
    steps=2,
    loaded=('DeiT-S',),
    files=4,
    names=3,
    iterations=3,
    workers=1,
    compiler='eager',
    trained=('swin',),
    stops=(13,),
    cases=('vit-tiny', 'pvtv2-tiny', 'swin-tiny', 'vit-scaled'),
)
