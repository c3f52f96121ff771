# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The Swin V2 family: mmpretrain's ``SwinTransformerV2``, elastic."""

import math
import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformerV2
from mmpretrain.models.utils import WindowMSAV2
from torch import Tensor, nn

from ..elastic_modules import ElasticModule, UnitSlot
from ..registry import MODELS
from ..training_stages import StagesSpec, per_level
from .pyramid import layer_depth
from .windows import (
    Grid,
    Maps,
    WindowedBackbone,
    attention_in_windows,
    heads_in_windows,
    merged_grid,
    offset_index,
    reversed_patches,
)

# The largest logarithm of a logit scale, and what mmpretrain's normalization divides by at least.
MOST, LEAST = math.log(1 / 0.01), 1e-12
# The offsets of a window are spread from -8 to 8, and their logarithms have the base 8.
REACH = 8
BUFFERS = 'relative_coords_table', 'relative_position_index'  # of the attention, made by its class
# Names of weights as a pyramid with ``layer_depth`` has them.
LAYERS = (
    (r'patch_embed\.|absolute_pos_embed$', 'levels.0.embed.'),
    (r'stages\.(\d+)\.downsample\.', r'levels.\1.embed.'),
    (r'stages\.(\d+)\.blocks\.', r'levels.\1.blocks.'),
    (r'norm(\d)\.', r'levels.\1.norm.'),
)


@MODELS.register_module()
class ElasticSwinTransformerV2(WindowedBackbone, SwinTransformerV2):
    """mmpretrain's ``SwinTransformerV2`` (Liu et al., 2022) with training stages.

    A training stage sets what it sets of ``ElasticSwinTransformer``: heads, hidden units, grid,
    view and windows. The paper has no Swin V2.

    Here a small network makes the position biases from the offsets of two tokens, so a larger
    window brings no biases of its own, and there is nothing to start them from. The network reads
    offsets spaced by their logarithms. A smaller window reads the center of them, as the plain
    class does with the whole windows as its ``pretrained_window_sizes``. On images scaled down it
    reads offsets that reach as far as those of the whole window.

    At the last stage, and without ``training_stages``, it is mmpretrain's network, computed
    faster: attention is fused, shift masks are kept. Parameters have mmpretrain's names and
    shapes at every stage. What a window alone decides, the table of offsets and its index, is
    never read from weights, as in mmpretrain.

    Args:
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=(1, 2, 4, 8), hidden=(96, 192, 384, 768), grid=48, window=6),
            dict(heads=(2, 4, 8, 16), hidden=(192, 384, 768, 1536), grid=56, window=7), dict()]``
            for Swin V2-T and Swin V2-S with windows of 8, which are also those of
            ``training_stages=3``; see ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads and hidden
            units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``SwinTransformerV2``.

    Raises:
        ValueError: If the training stages do not fit the network, windows of one token have no
            offsets to space, or the network cannot be split: blocks of a level that differ, an
            MLP other than two linear layers, frozen levels.
    """

    plain_type = 'SwinTransformerV2'
    plain_attention = WindowMSAV2
    timm_names = (
        (r'backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'backbone\.patch_embed\.norm\.', 'patch_embed.norm.'),
        (r'.*\.relative_(coords_table|position_index)', ''),
        *(
            (rf'backbone\.stages\.(\d+)\.blocks\.(\d+)\.{ours}', rf'layers.\1.blocks.\2.{theirs}')
            for ours, theirs in (
                (r'ffn\.layers\.0\.0\.', 'mlp.fc1.'),
                (r'ffn\.layers\.1\.', 'mlp.fc2.'),
                (r'attn\.w_msa\.', 'attn.'),
                (r'norm([12])\.', r'norm\3.'),
            )
        ),
        (r'backbone\.stages\.(\d+)\.downsample\.', r'layers.\1.downsample.'),
        (r'backbone\.norm\d\.', 'norm.'),
        (r'head\.fc\.', 'head.fc.'),
    )
    depths: list[int]

    def __init__(
        self,
        *args,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool = False,
        widths: dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        for i, level in enumerate(self.stages):
            for block in level.blocks:
                w_msa = block.attn.w_msa
                _check_table(w_msa.relative_coords_table, block.attn.window_size, i + 1)
                w_msa.spacing = _spacing(w_msa.relative_coords_table)
        self.init_levels(training_stages, ElasticWindowMSAV2)
        self._check_scaled_windows()
        self._register_load_state_dict_pre_hook(_keep_own_buffers, with_module=True)
        self.take_form_(only_stage, gates, widths)

    def _check_scaled_windows(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            windows = per_level(stage.window, len(self.stages))
            if stage.view == 'scale' and 1 in windows:
                raise ValueError(
                    f'training stage {k}: window={stage.window} has a single token at level '
                    f"{windows.index(1) + 1}, so there is no offset to reach as far (view='scale')"
                    " as in the whole window; give 2 or more, or view='crop'"
                )

    @staticmethod
    def timm_value(key: str, value: Tensor) -> Tensor:
        return reversed_patches(value) if key.endswith('.downsample.reduction.weight') else value

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, which mmpretrain's class does not say; see ``layer_depth``."""
        if param_name.startswith(prefix):
            name = param_name.removeprefix(prefix)
            for pattern, ours in LAYERS:
                name = re.sub(f'^{pattern}', ours, name)
            param_name = prefix + name
        return layer_depth(param_name, prefix, self.depths)

    @property
    def block_dims(self) -> list[int]:
        return [level.out_channels for level in self.stages]

    def maps(self, first: Grid) -> list[Maps]:
        found = []
        for level in self.stages:
            first = merged_grid(level, first)  # a level begins with it
            found.append(Maps(first, first, first))
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self.embedded(x)
        outs = []
        for i, level in enumerate(self.stages):
            x, grid = level(x, grid)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.transpose(1, 2).unflatten(2, grid).contiguous())
        return tuple(outs)

    def flops(self, k: int, input_size: int | Grid | None = None) -> int:
        """See ``ElasticBackbone.flops``; what makes position biases counts once for each image.

        It runs once for each batch, so with more images at once it costs less than that.
        """
        windows = {module: n for module, axis, n in self.active_units(k) if axis == 'window'}
        heads = {module: n for module, axis, n in self.active_units(k) if axis == 'heads'}
        biases = (
            block.attn.w_msa.bias_flops(windows[block.attn], heads[block.attn.w_msa])
            for level in self.stages
            for block in level.blocks
        )
        return super().flops(k, input_size) + sum(biases)


class ElasticWindowMSAV2(ElasticModule, WindowMSAV2):
    """mmpretrain's cosine attention within windows, with its first heads active, in smaller ones.

    Attributes:
        reads_all_offsets: Whether the offsets of a smaller window reach as far as those of the
            full one: those of an image scaled down do.
        spacing: How many tokens apart offsets of ``REACH`` are.
    """

    slots = (
        UnitSlot('qkv.weight', 0, 'heads', blocks=3),
        UnitSlot('q_bias', 0, 'heads'),
        UnitSlot('v_bias', 0, 'heads'),
        UnitSlot('logit_scale', 0, 'heads'),
        UnitSlot('cpb_mlp.2.weight', 0, 'heads'),
        UnitSlot('proj.weight', 1, 'heads', out=True),
    )
    axes: ClassVar = dict(heads='num_heads', window='side')
    window_size: tuple[int, int]
    cpb_mlp: nn.Sequential
    relative_coords_table: Tensor
    relative_position_index: Tensor
    reads_all_offsets = False
    spacing: int

    @property
    def side(self) -> int:
        """Rows and columns of the full window; the table has the offsets of that size."""
        return self.window_size[0]

    @side.setter
    def side(self, side: int) -> None:
        self.relative_coords_table = self._central(side).clone()
        self.relative_position_index = offset_index(side, self.relative_position_index.device)
        self.window_size = side, side

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within each window.

        Args:
            x: A map of (B, rows, window, columns, window, C): so many rows and columns of windows.
            mask: Added to the attention of each window, (rows * columns, window^2, window^2).
        """
        packed = F.linear(x, self.active_parameter('qkv.weight'), self._qkv_bias())
        q, k, v = heads_in_windows(packed, self.active['heads'], mask)
        scale = self.active_parameter('logit_scale').clamp(max=MOST).exp()  # (heads, 1, 1)
        if mask is not None:  # a window is as a head
            scale = scale.repeat(mask.shape[0], 1, 1)
        q = (q * (scale / _lengths(q))).to(v.dtype)
        k = (k / _lengths(k)).to(v.dtype)
        drop = self.attn_drop.p if self.training else 0.0
        bias = self._bias(x.shape[2])
        x = attention_in_windows(q, k, v, bias, mask, 1.0, drop, x.shape)
        return self.proj_drop(self.active_linear('proj', x))

    def _qkv_bias(self) -> Tensor | None:
        """That of q and v; k has none."""
        q, v = (self.active_parameter(name) for name in ('q_bias', 'v_bias'))
        return None if q is None else torch.cat((q, torch.zeros_like(q), v))

    def _bias(self, window: int) -> Tensor:
        """(heads, window^2, window^2)."""
        first, activation, _ = self.cpb_mlp
        hidden = activation(first(self._offsets(window).flatten(0, -2)))
        table = 2 * REACH * torch.sigmoid(self.active_linear('cpb_mlp.2', hidden))
        index = self.relative_position_index
        if window < self.side:
            index = offset_index(window, index.device)
        return table[index].permute(2, 0, 1).contiguous()

    def _offsets(self, window: int) -> Tensor:
        """What the network of position biases reads, (..., 2 window - 1, 2 window - 1, 2)."""
        if not self.reads_all_offsets or window == self.side:
            return self._central(window)
        table = self.relative_coords_table
        # the steps are mmpretrain's, in its precision, so that every bit is that of its class
        line = torch.arange(1 - window, window, dtype=torch.float32, device=table.device)
        line = line / (self.spacing * (window - 1) / (self.side - 1)) * REACH
        line = torch.sign(line) * torch.log2(torch.abs(line) + 1.0) / math.log2(REACH)
        return torch.stack(torch.meshgrid(line, line, indexing='ij'), dim=-1).to(table)

    def _central(self, window: int) -> Tensor:
        """The center of the table."""
        places = slice(self.side - window, self.side + window - 1)
        return self.relative_coords_table[:, places, places]

    def bias_flops(self, window: int, heads: int) -> int:
        """What makes position biases."""
        first = self.get_parameter('cpb_mlp.0.weight')
        return (2 * window - 1) ** 2 * (first.numel() + len(first) * heads)


def _lengths(x: Tensor) -> Tensor:
    """What mmpretrain's normalization divides by."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(LEAST)


def _check_table(table: Tensor, window: int, level: int) -> None:
    if table.isfinite().all():
        return
    name = 'window_size' if window == 1 else 'pretrained_window_sizes'
    raise ValueError(
        f'{name}=1 of level {level} of ElasticSwinTransformerV2 cannot be served by the log-spaced '
        'table of offsets, which divides by that window less 1; give 2 or more'
    )


def _spacing(table: Tensor) -> int:
    """Of how many tokens the offset is that a table has as ``REACH``: of its window less 1.

    Of the window that ``pretrained_window_sizes`` says. No module keeps that.
    """
    farthest = REACH ** table[0, -1, 0, 0].item() - 1
    return round(REACH * (table.shape[1] // 2) / farthest)


def _keep_own_buffers(
    backbone: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Puts back what mmpretrain's hook deletes, so that strict loading misses nothing."""
    for name, buffer in backbone.named_buffers():
        if name.endswith(BUFFERS):
            state_dict[prefix + name] = buffer
