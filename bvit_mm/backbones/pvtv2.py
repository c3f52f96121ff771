# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The PVTv2 family, with ordinary and with linear spatial-reduction attention, elastic."""

import re
from collections.abc import MutableSequence, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, constant_init, normal_init, trunc_normal_init
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import flops
from ..elastic import ElasticBackbone, center_crop
from ..elastic_modules import ElasticModule, Units, UnitSlot
from ..options import is_whole_number
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage
from .pyramid import (
    Arch,
    check_flags,
    check_rates,
    layer_depth,
    parse_arch,
    parse_out_indices,
    parse_size,
    whole_numbers,
)

OF = 'ElasticPVTv2'  # in messages

# Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, Table 1.
ARCHS: dict[str, Arch] = {
    name: dict(
        embed_dims=(32, 64, 160, 256) if name == 'b0' else (64, 128, 320, 512),
        depths=depths,
        num_heads=(1, 2, 5, 8),
        mlp_ratios=(4, 4, 4, 4) if name == 'b5' else (8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
    )
    for name, depths in dict(
        b0=(2, 2, 2, 2),
        b1=(2, 2, 2, 2),
        b2=(3, 4, 6, 3),
        b3=(3, 4, 18, 3),
        b4=(3, 8, 27, 3),
        b5=(3, 6, 40, 3),
    ).items()
}
POOL_SIZE = 7  # rows and columns of keys in linear attention

# Parts of a level: their names in the official weights, and here.
OFFICIAL_NAMES = dict(patch_embed='patch_embed', block='blocks', norm='norm')


@MODELS.register_module()
class ElasticPVTv2(ElasticBackbone, BaseModule):
    """PVTv2 [1] with training stages (Section 4.2, Table 6).

    A training stage computes with the first ``heads`` of every attention and the first
    ``hidden`` units of every MLP of a level, and the central ``grid`` of the patch tokens of
    the first level, from which those of the others follow; with ``view='scale'``, the patch tokens
    of the whole image scaled down to that ``grid``. Widths and depths stay; at the last stage, and
    without ``training_stages``, it is the whole network.

    The official classification weights load as they are, by
    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` or ``load_state_dict``: ``patch_embed1``,
    ``block1`` and ``norm1`` become ``levels.0.patch_embed``, ``levels.0.blocks`` and
    ``levels.0.norm``, and ``mlp.dwconv.dwconv`` becomes ``mlp.dwconv``; the classifier is left out.

    An image of another size than ``img_size`` is cropped, or scaled, to the same share of its patch
    grid.

    Args:
        arch: ``'b0'`` to ``'b5'``, or a dict with ``embed_dims``, ``depths``, ``num_heads``,
            ``mlp_ratios`` and ``sr_ratios`` (how many times fewer keys there are along a side;
            not read if ``linear``), one number a level.
        linear: Whether attention is linear: keys are pooled to 7 x 7, and a ReLU precedes the
            depthwise convolution of the MLP.
        img_size: Side, or height and width, of the images in pixels.
        in_channels: Of the images.
        patch_sizes: Kernel of the patch embedding of each level.
        strides: Of the patch embedding of each level.
        qkv_bias: Whether q, k and v have biases.
        drop_rate: Drop-out after projections and in the MLP.
        attn_drop_rate: Drop-out of attention weights.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0.
        out_indices: Levels whose normed maps are returned, 0-based.
        with_cp: Whether blocks keep only their inputs and are computed again for the gradients:
            less memory, more time, the same gradients.
        frozen_stages: Levels that are not trained, counted as in mmdet: -1 for none, 0 for the
            patch embedding of the first level, n for the first n levels whole. They stay in
            evaluation mode, without drop-out and stochastic depth.
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=(1, 1, 2, 2), hidden=(128, 256, 320, 512), grid=40),
            dict(heads=(1, 2, 4, 4), hidden=(256, 512, 640, 1024), grid=48), dict()]`` for b2;
            see ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads and hidden
            units each module has (``read_widths``).
        init_cfg: Replaces the official initialization.

    Raises:
        ValueError: If the architecture is not known or not consistent, or if the training
            stages do not fit it, or if there are some and levels are frozen.

    [1] Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, 2022.
    """

    timm_names = (
        (r'backbone\.levels\.0\.patch_embed\.', 'patch_embed.'),
        (r'backbone\.levels\.(\d+)\.patch_embed\.', r'stages.\1.downsample.'),
        (r'backbone\.levels\.(\d+)\.(blocks|norm)\.', r'stages.\1.\2.'),
        (r'head\.fc\.', 'head.'),
    )

    def __init__(
        self,
        arch: str | dict[str, Sequence[int]] = 'b2',
        linear: bool = False,
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (3,),
        with_cp: bool = False,
        frozen_stages: int = -1,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool = False,
        widths: dict[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_flags(OF, linear=linear, with_cp=with_cp)
        check_rates(
            OF, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate
        )
        self.arch_settings = parse_arch(OF, arch, ARCHS)
        embed_dims, depths, heads, ratios, sr_ratios = self.arch_settings.values()
        patch_sizes = whole_numbers(OF, 'patch_sizes', patch_sizes, len(embed_dims))
        strides = whole_numbers(OF, 'strides', strides, len(embed_dims))
        (in_channels,) = whole_numbers(OF, 'in_channels', [in_channels], 1)
        self.img_size = parse_size(OF, img_size)
        self.embed_dims = embed_dims
        self.out_indices = parse_out_indices(OF, out_indices, len(embed_dims))
        self.frozen_stages = _parse_frozen_stages(frozen_stages, len(embed_dims))
        hidden = tuple(ratio * width for ratio, width in zip(ratios, embed_dims))
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        self.levels: MutableSequence[Level] = nn.ModuleList()  # type: ignore[assignment]  # items have no type
        for i, (channels, width) in enumerate(zip((in_channels, *embed_dims), embed_dims)):
            blocks = [
                Block(
                    SpatialReductionAttention(
                        width, heads[i], sr_ratios[i], linear, qkv_bias, attn_drop_rate, drop_rate
                    ),
                    ConvMLP(width, hidden[i], linear, drop_rate),
                    drop_path=next(drop_paths),
                    with_cp=with_cp,
                )
                for _ in range(depths[i])
            ]
            embed = OverlapPatchEmbed(channels, width, patch_sizes[i], strides[i])
            self.levels.append(Level(embed, blocks))
        grid = self.patch_grid(self.img_size)
        whole = TrainingStage(heads=heads, hidden=hidden, grid=grid, view='whole')
        self.init_training_stages(training_stages, whole)
        self._check_reductions()
        self._freeze()
        self._register_load_state_dict_pre_hook(_rename_official_keys)
        self.take_form_(only_stage, gates, widths)

    def _check_frozen(self) -> None:
        if self.num_training_stages > 1 and self.frozen_stages >= 0:
            raise ValueError(
                f'training_stages grow every level, but frozen_stages={self.frozen_stages} freezes '
                'weights that growing would write to; drop that, or train the whole network only '
                '(training_stages=None)'
            )

    def init_weights(self) -> None:
        """Draws the weights as the official implementation does, unless ``init_cfg`` is given."""
        if self.init_cfg:
            super().init_weights()
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, 1.0)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                normal_init(module, std=(2 / fan_out) ** 0.5)

    def train(self, mode: bool = True) -> 'ElasticPVTv2':
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        self._check_frozen()
        if self.frozen_stages >= 0:
            levels = self.levels[: self.frozen_stages]
            parts: list[BaseModule] = [self.levels[0].patch_embed, *levels]
            for part in parts:
                part.eval().requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, and the number of layers; see ``layer_depth``."""
        return layer_depth(param_name, prefix, [len(level.blocks) for level in self.levels])

    def units(self, k: int) -> Units:
        stage = self.training_stages[k]
        for level, heads, hidden in zip(self.levels, stage.heads, stage.hidden):
            for block in level.blocks:
                yield block.attn, 'heads', heads
                yield block.mlp, 'hidden', hidden

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (B, C, H, W) of the levels in ``out_indices``."""
        outs, x = [], self.seen(x)
        for i, level in enumerate(self.levels):
            x, grid = level.patch_embed(x)
            if i == 0 and self.view(self.training_stage) == 'crop':
                crop = self.active_grid(self.grid_of_all(grid), self.training_stage)
                x, grid = center_crop(x, grid, crop), crop
            for block in level.blocks:
                x = block(x, grid)
            x = level.norm(x).transpose(1, 2).unflatten(2, grid).contiguous()
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else input_size
        patches = self.patch_grid(to_2tuple(size))
        grids = self._level_grids(self.active_grid(patches, k))
        active, total = {module: n for module, _, n in self.active_units(k)}, 0
        embedded = list(grids)
        if self.view(k) == 'crop':  # the first level is cropped after its embedding
            embedded[0] = patches
        for level, before, grid in zip(self.levels, embedded, grids):
            conv, width, tokens = level.patch_embed.proj, level.width, grid[0] * grid[1]
            total += flops.conv(conv, before) + flops.norm(before[0] * before[1], width)
            for block in level.blocks:
                attention, hidden = block.attn, active[block.mlp]
                inner = active[attention] * attention.head_dims
                total += 2 * flops.norm(tokens, width)
                keys = attention.reduced_grid(grid)
                if attention.linear:
                    total += tokens * width  # pooling
                if attention.sr is not None:
                    total += flops.conv(attention.sr, keys) + flops.norm(keys[0] * keys[1], width)
                total += flops.attention(tokens, keys[0] * keys[1], width, inner)
                total += flops.mlp(tokens, width, hidden)
                total += tokens * hidden * block.mlp.dwconv.weight[0].numel()
            total += flops.norm(tokens, width)
        return total

    def patch_conv(self) -> nn.Conv2d:
        return self.levels[0].patch_embed.proj

    def _level_grids(self, first: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of tokens of every level, from those of the first."""
        grids = [first]
        for level in self.levels[1:]:
            grids.append(flops.conv_grid(level.patch_embed.proj, grids[-1]))
        return grids

    def _check_reductions(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            place, advice = f'training stage {k}: grid={stage.grid}', 'a larger grid'
            if k == self.num_training_stages:
                place, advice = f'img_size={self.img_size} of ElasticPVTv2', 'larger images'
            for i, (level, grid) in enumerate(zip(self.levels, self._level_grids(stage.grid))):
                attention = level.blocks[0].attn
                if not attention.linear and min(grid) < attention.sr_ratio:
                    raise ValueError(
                        f'{place} leaves {grid[0]}x{grid[1]} tokens at level {i + 1}, fewer than '
                        f'its sr_ratio={attention.sr_ratio} a side; give {advice}, smaller '
                        'sr_ratios, or linear=True'
                    )


class Level(BaseModule):
    """One level of the pyramid: patch embedding, blocks, norm."""

    def __init__(self, patch_embed: 'OverlapPatchEmbed', blocks: Sequence['Block']) -> None:
        super().__init__()
        self.width = patch_embed.proj.out_channels
        self.patch_embed = patch_embed
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]  # items have no type
        self.norm = nn.LayerNorm(self.width, eps=1e-6)


class OverlapPatchEmbed(BaseModule):
    """Overlapping patches by a strided convolution, and a norm."""

    def __init__(self, channels: int, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])


class Block(BaseModule):
    """Attention and MLP, each after a norm and with a shortcut."""

    def __init__(
        self,
        attn: 'SpatialReductionAttention',
        mlp: 'ConvMLP',
        drop_path: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        width = attn.proj.out_features
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)
        self.with_cp = with_cp

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._compute, x, grid, use_reentrant=False)
        return self._compute(x, grid)

    def _compute(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class SpatialReductionAttention(ElasticModule, BaseModule):
    """Attention to fewer keys: a strided convolution of the tokens, or their 7 x 7 pooling."""

    slots = (
        UnitSlot('q.weight', 0, 'heads'),
        UnitSlot('q.bias', 0, 'heads'),
        UnitSlot('kv.weight', 0, 'heads', blocks=2),
        UnitSlot('kv.bias', 0, 'heads', blocks=2),
        UnitSlot('proj.weight', 1, 'heads', out=True),
    )
    axes: ClassVar = dict(heads='num_heads')

    def __init__(
        self,
        width: int,
        heads: int,
        sr_ratio: int,
        linear: bool,
        qkv_bias: bool,
        attn_drop: float,
        drop: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.active = heads, dict(heads=heads)
        self.head_dims = width // heads
        self.linear, self.sr_ratio, self.attn_drop = linear, sr_ratio, attn_drop
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(drop)
        self.sr = None
        if linear or sr_ratio > 1:
            kernel = 1 if linear else sr_ratio
            self.sr = nn.Conv2d(width, width, kernel, stride=kernel)
            self.norm = nn.LayerNorm(width)

    def reduced_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of keys for a grid of tokens."""
        if self.linear:
            return POOL_SIZE, POOL_SIZE
        return grid if self.sr is None else flops.conv_grid(self.sr, grid)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        heads = self.active['heads']
        q = self.active_linear('q', x).unflatten(2, (heads, -1)).transpose(1, 2)
        kv = self.active_linear('kv', self._reduce(x, grid))
        k, v = kv.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)  # (B, heads, tokens, dims)
        return self.proj_drop(self.active_linear('proj', x.transpose(1, 2).flatten(2)))

    def _reduce(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.sr is None:
            return x
        x = x.transpose(1, 2).unflatten(2, grid)
        x = self.sr(F.adaptive_avg_pool2d(x, POOL_SIZE) if self.linear else x)
        x = self.norm(x.flatten(2).transpose(1, 2))
        return F.gelu(x) if self.linear else x


class ConvMLP(ElasticModule, BaseModule):
    """Two linear layers with a depthwise convolution between them."""

    slots = (
        UnitSlot('fc1.weight', 0, 'hidden'),
        UnitSlot('fc1.bias', 0, 'hidden'),
        UnitSlot('dwconv.weight', 0, 'hidden'),
        UnitSlot('dwconv.bias', 0, 'hidden'),
        UnitSlot('fc2.weight', 1, 'hidden', out=True),
    )
    axes: ClassVar = dict(hidden='hidden')

    def __init__(self, width: int, hidden: int, linear: bool, drop: float) -> None:
        super().__init__()
        self.hidden, self.active = hidden, dict(hidden=hidden)
        self.linear = linear
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def shrink_(self) -> None:
        super().shrink_()
        conv = self.dwconv
        conv.in_channels = conv.out_channels = conv.groups = self.hidden

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.active_linear('fc1', x)
        if self.linear:
            x = F.relu(x)
        x = self._convolve(x.transpose(1, 2).unflatten(2, grid))
        x = self.drop(F.gelu(x.flatten(2).transpose(1, 2)))
        return self.drop(self.active_linear('fc2', x))

    def _convolve(self, x: Tensor) -> Tensor:
        if self.is_whole:
            return self.dwconv(x)
        weight, bias = self.active_parameter('dwconv.weight'), self.active_parameter('dwconv.bias')
        return F.conv2d(x, weight, bias, padding=1, groups=self.active['hidden'])


def _parse_frozen_stages(frozen_stages: Any, levels: int) -> int:
    if not is_whole_number(frozen_stages) or not -1 <= frozen_stages <= levels:
        raise ValueError(
            f'frozen_stages={frozen_stages!r} of ElasticPVTv2 must be -1 (nothing), 0 (the first '
            f'patch embedding) or a number of levels, 1..{levels}'
        )
    return int(frozen_stages)


def _rename_official_keys(state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if not any(key.startswith(f'{prefix}patch_embed1.') for key in state_dict):
        return
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        match = re.fullmatch(r'(patch_embed|block|norm)(\d+)\.(.+)', name)
        if match:
            part, level, rest = match.groups()
            rest = rest.replace('dwconv.dwconv.', 'dwconv.')
            name = f'levels.{int(level) - 1}.{OFFICIAL_NAMES[part]}.{rest}'
            state_dict[prefix + name] = state_dict.pop(key)
        elif name.startswith('head.'):
            del state_dict[key]
