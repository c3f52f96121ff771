# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The ViT family (DeiT): mmpretrain's ``VisionTransformer``, elastic."""

from collections.abc import Iterator

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed, to_2tuple
from torch import Tensor, nn

from ..elastic import (
    ElasticBackbone,
    ElasticFFN,
    ElasticModule,
    ElasticMultiheadAttention,
    elasticize_,
)
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage, centred

NORM_FLOPS = 5  # of an affine layer norm, per element


@MODELS.register_module()
class ElasticVisionTransformer(ElasticBackbone, VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with training stages (Section 4.2, Table 6).

    A training stage computes with the first ``heads`` of every attention, the first ``hidden``
    units of every MLP, and the central ``grid`` of the patch tokens. Widths and depth stay.
    Parameters have mmpretrain's names and shapes at every stage; at the last stage, and
    without ``training_stages``, it is mmpretrain's network in every respect.

    An image of another size than ``img_size`` is cropped to the same share of its patch grid.

    Args:
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=2, hidden=384, grid=10), dict(heads=4, hidden=768, grid=12),
            dict(heads=6, hidden=1536, grid=14)]`` for DeiT-S; see ``parse_training_stages``.
        **kwargs: Every argument of mmpretrain's ``VisionTransformer``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: layers that differ, an MLP other than two linear layers, frozen layers.
    """

    def __init__(self, *args, training_stages: StagesSpec = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        attention, ffn = self.layers[0].attn, self.layers[0].ffn
        whole = TrainingStage(
            heads=attention.num_heads,
            hidden=getattr(ffn, 'feedforward_channels', self.arch_settings['feedforward_channels']),
            grid=tuple(self.patch_resolution),
        )
        self.init_training_stages(training_stages, whole)
        if self.num_training_stages > 1:
            self._check_divisible(whole)
        for layer in self.layers:
            elasticize_(layer.attn, ElasticMultiheadAttention)
            if _is_plain_ffn(layer.ffn):
                elasticize_(layer.ffn, ElasticFFN)

    def _check_divisible(self, whole: TrainingStage) -> None:
        reason = None
        if not all(_is_plain_ffn(layer.ffn) for layer in self.layers):
            reason = 'layer_cfgs set an MLP other than two linear layers (ffn_type, num_fcs)'
        elif any(
            (layer.attn.num_heads, layer.ffn.feedforward_channels) != (whole.heads, whole.hidden)
            for layer in self.layers
        ):
            reason = 'layer_cfgs give the layers different heads or hidden units'
        elif self.frozen_stages > 0:
            reason = (
                f'frozen_stages={self.frozen_stages} freezes weights that growing would write to'
            )
        if reason:
            raise ValueError(
                f'training_stages split every layer alike, but {reason}; '
                'drop that, or train the whole network only (training_stages=None)'
            )

    def units(self, k: int) -> Iterator[tuple[ElasticModule, int]]:
        stage, whole = self.training_stages[k], k == self.num_training_stages - 1
        for layer in self.layers:
            yield layer.attn, layer.attn.total_units if whole else stage.heads
            if isinstance(layer.ffn, ElasticFFN):
                yield layer.ffn, layer.ffn.total_units if whole else stage.hidden

    def active_grid(self, grid: tuple[int, int], k: int) -> tuple[int, int]:
        """The tokens that training stage ``k`` keeps of a patch grid, rows and columns."""
        whole, active = self.training_stages[-1].grid, self.training_stages[k].grid
        return tuple(centred(n, n * a / w) for n, a, w in zip(grid, active, whole))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self.patch_embed(x)
        pos = resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid,
            mode=self.interpolate_mode,
            num_extra_tokens=self.num_extra_tokens,
        )
        extra_pos, pos = pos.tensor_split([self.num_extra_tokens], dim=1)
        crop = self.active_grid(grid, self.training_stage)
        x = center_crop(x, grid, crop) + center_crop(pos, grid, crop)
        if self.cls_token is not None:
            cls_token = (self.cls_token + extra_pos).expand(len(x), -1, -1)
            x = torch.cat((cls_token, x), dim=1)
        x = self.pre_norm(self.drop_after_pos(x))

        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, crop))
        return tuple(outs)

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        """Forward multiply-adds of one image in training stage ``k``, without classifier.

        The rule that gives the paper's numbers: linear layers, convolutions and both products
        of the attention by their multiply-adds, biases free; an affine layer norm 5 an element;
        everything else free. The patch embedding sees the whole image.

        Args:
            k: Training stage, 0-based.
            input_size: Side, or height and width, of the image in pixels; ``img_size`` if None.

        Raises:
            ValueError: If there is no such stage.
        """
        self._check_training_stage(k)
        grid = self._patch_grid(self.img_size if input_size is None else to_2tuple(input_size))
        rows, columns = self.active_grid(grid, k)
        patches, tokens = grid[0] * grid[1], rows * columns + self.num_extra_tokens
        norm = NORM_FLOPS * self.embed_dims

        total = patches * self.patch_embed.projection.weight.numel()
        total += patches * norm * (self.patch_embed.norm is not None)
        total += tokens * norm * (not isinstance(self.pre_norm, nn.Identity))
        total += 2 * tokens * norm * len(self.layers)
        for module, active in self.units(k):
            if isinstance(module, ElasticMultiheadAttention):
                width = active * module.head_dims
                total += 4 * tokens * self.embed_dims * width + 2 * tokens**2 * width
            else:
                total += 2 * tokens * self.embed_dims * active
        for layer in self.layers:
            if not isinstance(layer.ffn, ElasticFFN):
                linears = (m for m in layer.ffn.modules() if isinstance(m, nn.Linear))
                total += tokens * sum(m.weight.numel() for m in linears)
        total += tokens * norm * self.final_norm
        total += norm * (self.out_type == 'avg_featmap')
        return total

    def _patch_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        conv, pad = self.patch_embed.projection, (0, 0)
        if self.patch_embed.adaptive_padding:
            pad = self.patch_embed.adaptive_padding.get_pad_shape(size)
        return tuple(
            (n + p + 2 * conv.padding[i] - conv.dilation[i] * (conv.kernel_size[i] - 1) - 1)
            // conv.stride[i]
            + 1
            for i, (n, p) in enumerate(zip(size, pad))
        )


def _is_plain_ffn(ffn: nn.Module) -> bool:
    return isinstance(ffn, FFN) and ffn.num_fcs == 2


def center_crop(tokens: Tensor, grid: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """The central ``crop`` of a token grid: (B, H*W, C) to (B, h*w, C)."""
    top, left = ((n - m) // 2 for n, m in zip(grid, crop))
    tokens = tokens.unflatten(1, grid)
    return tokens[:, top : top + crop[0], left : left + crop[1]].flatten(1, 2)
