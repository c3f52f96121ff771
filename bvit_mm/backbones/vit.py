# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The ViT family (DeiT): mmpretrain's ``VisionTransformer``, elastic."""

from typing import Any

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn

from .. import flops
from ..elastic import ElasticBackbone
from ..elastic_modules import ElasticFFN, Units
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage
from .transformer import (
    check_layers,
    elasticize_layers_,
    flops_of_layers,
    placed,
    units_of_layers,
)


@MODELS.register_module()
class ElasticVisionTransformer(ElasticBackbone, VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with training stages (Section 4.2, Table 6).

    A training stage computes with the first ``heads`` of every attention, the first ``hidden``
    units of every MLP, and the central ``grid`` of the patch tokens; with ``view='scale'``, with
    the patch tokens of the whole image scaled down to that ``grid``. Widths and depth stay.
    Parameters have mmpretrain's names and shapes at every stage; at the last stage, and
    without ``training_stages``, it is mmpretrain's network in every respect.

    An image of another size than ``img_size`` is cropped, or scaled, to the same share of its patch
    grid. Tokens of scaled images have the position embedding of the whole grid, resized.

    Args:
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=2, hidden=384, grid=10), dict(heads=4, hidden=768, grid=12),
            dict(heads=6, hidden=1536, grid=14)]`` for DeiT-S; see ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains;
            ``'dims'``, and dimensions of heads have, in place of whole heads.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads, or
            dimensions of each head, and hidden units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``VisionTransformer``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: layers that differ, an MLP other than two linear layers, frozen layers.
    """

    plain_type: str | None = 'VisionTransformer'
    timm_names = (
        (r'backbone\.(cls_token|pos_embed)', r'\1'),
        (r'backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.', r'blocks.\1.mlp.fc1.'),
        (r'backbone\.layers\.(\d+)\.ffn\.layers\.1\.', r'blocks.\1.mlp.fc2.'),
        (r'backbone\.layers\.(\d+)\.ln(\d)\.', r'blocks.\1.norm\2.'),
        (r'backbone\.layers\.(\d+)\.(?:attn|ffn)\.gamma(\d)\.weight', r'blocks.\1.ls\2.gamma'),
        (r'backbone\.layers\.(\d+)\.attn\.', r'blocks.\1.attn.'),
        (r'backbone\.ln1\.', 'norm.'),
        (r'head\.layers\.head\.', 'head.'),
    )

    def __init__(
        self,
        *args,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool | str = False,
        widths: dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        attention, ffn = self.layers[0].attn, self.layers[0].ffn
        whole = TrainingStage(
            heads=attention.num_heads,
            hidden=getattr(ffn, 'feedforward_channels', self.arch_settings['feedforward_channels']),
            grid=tuple(map(int, self.patch_resolution)),
            view='whole',
        )
        elasticize_layers_(self.layers)
        self.init_training_stages(training_stages, whole)
        if self.num_training_stages > 1:
            frozen = f'frozen_stages={self.frozen_stages}' if self.frozen_stages > 0 else None
            reason = frozen and f'{frozen} freezes weights that growing would write to'
            check_layers(self.layers, self.embed_dims, whole, reason)
        self.take_form_(only_stage, gates, widths)

    def units(self, k: int) -> Units:
        return units_of_layers(self.layers, self.training_stages[k])

    def plain_widths(self, given: dict[str, Any]) -> dict[str, Any] | None:
        if set(self.widths or ()) != {'hidden'}:
            return None
        cfgs = given.get('layer_cfgs', {})
        cfgs = [cfgs] * len(self.layers) if isinstance(cfgs, dict) else cfgs
        return dict(
            layer_cfgs=[
                {**cfg, 'feedforward_channels': layer.ffn.feedforward_channels}
                if isinstance(layer.ffn, ElasticFFN)
                else cfg
                for layer, cfg in zip(self.layers, cfgs)
            ]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self._tokens(self.seen(x))
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid))
        return tuple(outs)

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What the first layer takes of a training stage, and the grid of its patch tokens."""
        x, grid = self.patch_embed(images)
        extra_pos, pos = self.pos_embed.tensor_split([self.num_extra_tokens], dim=1)
        x, grid = placed(self, x, grid, pos)
        if self.cls_token is not None:
            cls_token = (self.cls_token + extra_pos).expand(x.shape[0], -1, -1)
            x = torch.cat((cls_token, x), dim=1)
        return self.pre_norm(self.drop_after_pos(x)), grid

    def patch_conv(self) -> nn.Conv2d:
        return self.patch_embed.projection

    def patch_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return flops.patch_grid(self.patch_embed, size)

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else to_2tuple(input_size)
        grid = self.patch_grid(size)
        rows, columns = self.active_grid(grid, k)
        if self.view(k) == 'scale':
            grid = rows, columns
        patches, tokens = grid[0] * grid[1], rows * columns + self.num_extra_tokens
        width = self.embed_dims

        total = flops.conv(self.patch_embed.projection, grid)
        if self.patch_embed.norm is not None:
            total += flops.norm(patches, width)
        if not isinstance(self.pre_norm, nn.Identity):
            total += flops.norm(tokens, width)
        total += flops_of_layers(self.layers, self.active_units(k), tokens, width)
        if self.final_norm:
            total += flops.norm(tokens, width)
        if self.out_type == 'avg_featmap':
            total += flops.norm(1, width)
        return total
