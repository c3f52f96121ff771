# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The T2T-ViT family: mmpretrain's ``T2T_ViT``, put right and elastic."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import T2T_ViT
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn

from .. import flops
from ..elastic import ElasticBackbone
from ..elastic_modules import Units
from ..options import is_whole_number
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage
from .transformer import (
    check_layers,
    elasticize_layers_,
    flops_of_layers,
    placed,
    units_of_layers,
)

PATCH = 16  # pixels a side of what becomes a token, by three soft splits: 4 x 2 x 2


@MODELS.register_module()
class ElasticT2TViT(ElasticBackbone, T2T_ViT):
    """T2T-ViT [1], mmpretrain's ``T2T_ViT`` put right, with training stages.

    A small network of its own makes the tokens: three soft splits into overlapping windows, with
    attention of one head between them. It is the same in every training stage. Of what follows a
    training stage computes with the first ``heads`` of every attention, the first ``hidden`` units
    of every MLP, and the central ``grid`` of the tokens, which that network makes of the whole
    image; with ``view='scale'``, with the tokens that it makes of the whole image scaled down to
    that ``grid``, which is much cheaper. Width and depth stay. Parameters have the names and shapes
    of mmpretrain's ``T2T_ViT`` at every stage, and weights that its zoo has in its form load.

    An image of another size than ``img_size`` is cropped, or scaled, to the same share of its
    tokens. Tokens of scaled images have the positions of the whole grid, resized.

    Attention divides scores by the root of the width of what comes in, by head, as the authors'
    code does. mmpretrain's class multiplies them (``plain_fault``), and hardly learns. So finished
    weights are published for this class.

    Args:
        img_size: Side of the images in pixels. mmpretrain's class is built for square ones.
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=2, hidden=288, grid=10), dict(heads=4, hidden=576, grid=12), dict()]`` for
            T2T-ViT_t-14, which are also those of ``training_stages=3``; see
            ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains;
            ``'dims'``, and dimensions of heads have, in place of whole heads.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads, or
            dimensions of each head, and hidden units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``T2T_ViT``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: layers that differ or have a shortcut of values, an MLP other than two linear
            layers, sides that are no whole tokens.

    [1] Yuan et al., Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet,
        2021.
    """

    plain_type = None
    plain_fault = (
        "mmpretrain's T2T_ViT (1.2.0, and 1.3.6 of onedl-mmpretrain) multiplies attention scores "
        'by a root of the width, where its authors divide them, so it computes something else from '
        'the same weights; '
        'docs/patches/mmpretrain-t2t-vit.patch corrects it'
    )

    def __init__(
        self,
        img_size: int = 224,
        *args,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool | str = False,
        widths: dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        if not is_whole_number(img_size) or img_size < PATCH:
            raise ValueError(
                f'img_size={img_size!r} of ElasticT2TViT must be one number, at least {PATCH}: '
                "mmpretrain's T2T_ViT is built for square images; give their side in pixels"
            )
        if training_stages is not None:
            _check_whole_tokens(img_size, training_stages)
        super().__init__(img_size, *args, **kwargs)
        self.img_size = to_2tuple(img_size)
        stem = self.tokens_to_token
        for layer in (stem.attention1, stem.attention2, *self.encoder):
            scale = (layer.attn.input_dims // layer.attn.num_heads) ** -0.5
            layer.attn.scaled_dot_product_attention = partial(
                F.scaled_dot_product_attention, scale=scale
            )
        first = self.encoder[0]
        whole = TrainingStage(
            heads=first.attn.num_heads,
            hidden=first.ffn.feedforward_channels,
            grid=tuple(self.patch_resolution),
            view='whole',
        )
        elasticize_layers_(self.encoder)
        self.init_training_stages(training_stages, whole)
        reason = None
        if any(layer.v_shortcut for layer in self.encoder):
            reason = 'layer_cfgs set input_dims, which adds values of all heads to the output'
        if self.num_training_stages > 1:
            check_layers(self.encoder, first.attn.input_dims, whole, reason)
        if reason and (gates or widths):
            raise ValueError(f'gates and widths are of single heads, but {reason}; drop that')
        self.take_form_(only_stage, gates, widths)

    def units(self, k: int) -> Units:
        return units_of_layers(self.encoder, self.training_stages[k])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self.tokens_to_token(self.seen(x))
        extra_pos, pos = self.pos_embed.tensor_split([self.num_extra_tokens], dim=1)
        x, grid = placed(self, x, grid, pos)
        if self.cls_token is not None:
            cls_token = (self.cls_token + extra_pos).expand(x.shape[0], -1, -1)
            x = torch.cat((cls_token, x), dim=1)
        x = self.drop_after_pos(x)

        outs = []
        for i, layer in enumerate(self.encoder):
            x = layer(x)
            if i == len(self.encoder) - 1:
                x = self.norm(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid))
        return tuple(outs)

    def _splits(self) -> tuple[nn.Unfold, nn.Unfold, nn.Unfold]:
        stem = self.tokens_to_token
        return stem.soft_split0, stem.soft_split1, stem.soft_split2

    def patch_conv(self) -> nn.Unfold:
        return self.tokens_to_token.soft_split0

    def patch_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        for split in self._splits():
            size = flops.conv_grid(split, size)
        return size

    def size_of_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        for split in reversed(self._splits()):
            grid = flops.conv_size(split, grid)
        return grid

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else to_2tuple(input_size)
        rows, columns = self.active_grid(self.patch_grid(size), k)
        if self.view(k) == 'scale':
            size = self.size_of_grid((rows, columns))
        tokens, width = rows * columns + self.num_extra_tokens, self.encoder[0].attn.input_dims
        total = self._stem_flops(size)
        total += flops_of_layers(self.encoder, self.active_units(k), tokens, width)
        return total + (flops.norm(tokens, width) if self.final_norm else 0)

    def _stem_flops(self, size: tuple[int, int]) -> int:
        """Of the network that makes tokens of an image of this height and width in pixels."""
        stem, total = self.tokens_to_token, 0
        *splits, last = self._splits()
        for split, layer in zip(splits, (stem.attention1, stem.attention2)):
            size = flops.conv_grid(split, size)
            tokens, attn = size[0] * size[1], layer.attn
            total += flops.linears(layer, tokens) + 2 * tokens**2 * attn.embed_dims
            total += flops.norm(tokens, attn.input_dims) + flops.norm(tokens, attn.embed_dims)
        rows, columns = flops.conv_grid(last, size)
        return total + flops.linears(stem.project, rows * columns)


def _check_whole_tokens(img_size: int, training_stages: StagesSpec) -> None:
    """Of images of other sizes mmpretrain's class counts fewer tokens than it makes."""
    if img_size % PATCH == 0:
        return
    stages = training_stages if isinstance(training_stages, (list, tuple)) else []
    grids: list[Any] = [stage.get('grid') for stage in stages if isinstance(stage, dict)]
    sides = [n for grid in grids for n in (grid if isinstance(grid, (list, tuple)) else [grid])]
    tokens = max(-(-img_size // PATCH), 0, *filter(is_whole_number, sides))
    raise ValueError(
        f'img_size={img_size} of ElasticT2TViT is no multiple of {PATCH} pixels, the side of a '
        f'token, and training stages have whole tokens; give a multiple of {PATCH}, at least '
        f'{PATCH * tokens}, or train the whole network only (training_stages=None)'
    )
