# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The CSWin family: attention in vertical and in horizontal stripes, elastic."""

import re
from collections.abc import MutableSequence, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from numbers import Integral
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, constant_init, trunc_normal_init
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import flops
from ..elastic import ElasticBackbone, center_crop
from ..elastic_modules import ElasticModule, Units, UnitSlot
from ..registry import MODELS
from ..training_stages import (
    StagesSpec,
    TrainingStage,
    alike,
    parse_training_stages,
    per_level,
)
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

OF = 'ElasticCSWin'  # in messages
Grid = tuple[int, int]  # rows and columns

# Dong et al., CSWin Transformer, Table 1; L is of the official code.
ARCHS: dict[str, Arch] = {
    name: dict(
        embed_dims=tuple(width * 2**level for level in range(4)),
        depths=depths,
        num_heads=heads,
        mlp_ratios=(4, 4, 4, 4),
    )
    for name, width, depths, heads in (
        ('tiny', 64, (1, 2, 21, 1), (2, 4, 8, 16)),
        ('small', 64, (2, 4, 32, 2), (2, 4, 8, 16)),
        ('base', 96, (2, 4, 32, 2), (4, 8, 16, 32)),
        ('large', 144, (2, 4, 32, 2), (6, 12, 24, 24)),
    )
}

# How names of the official weights begin, and here. {} is the level that the first number says,
# from 1 on there.
OFFICIAL_NAMES = (
    (r'stage(1)_conv_embed\.0\.', 'levels.{}.embed.proj.'),
    (r'stage(1)_conv_embed\.2\.', 'levels.{}.embed.norm.'),
    (r'merge(\d)\.conv\.', r'levels.\1.embed.proj.'),
    (r'merge(\d)\.norm\.', r'levels.\1.embed.norm.'),
    (r'stage(\d)\.(\d+)\.(qkv|proj)\.', r'levels.{}.blocks.\2.attn.\3.'),
    (r'stage(\d)\.(\d+)\.attns\.(\d)\.get_v\.', r'levels.{}.blocks.\2.attn.lepe.\3.'),
    (r'stage(\d)\.(\d+)\.', r'levels.{}.blocks.\2.'),
    (r'norm(\d)\.', 'levels.{}.norm.'),  # of the official segmentation
    (r'norm\.', 'levels.3.norm.'),
)


@MODELS.register_module()
class ElasticCSWin(ElasticBackbone, BaseModule):
    """CSWin Transformer [1] with training stages.

    Half of the heads of a level attend within vertical stripes of the map, the others within
    horizontal ones, so that a token sees a cross. In the last level all heads see the whole map.
    A depthwise convolution of the values within each stripe tells positions.

    A training stage computes with the first ``heads`` of every attention, as many of both
    directions, and the first ``hidden`` units of every MLP of a level, and the central ``grid`` of
    the patch tokens of the first level, from which those of the others follow; with
    ``view='scale'``, the patch tokens of the whole image scaled down to that ``grid``. Stripes
    are ``window`` wide, one number a level. A stage that does not say so has the whole network's
    width where it divides the map of a level, else as many stripes as the whole network. No
    weight depends on the width. Widths of tokens and depths stay; at the last stage, and without
    ``training_stages``, it is the whole network.

    The official weights load as they are, by ``init_cfg=dict(type='Pretrained', checkpoint=...)``
    or ``load_state_dict``: ``stage1_conv_embed``, ``merge1`` and ``stage1`` become
    ``levels.0.embed``, ``levels.1.embed`` and ``levels.0.blocks``, and ``attns.0.get_v`` becomes
    ``attn.lepe.0``; the classifier is left out.

    An image of another size than ``img_size`` is cropped, or scaled, to the same share of its patch
    grid. Maps that stripes do not divide are padded on both sides, as in the official segmentation.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, or a dict with ``embed_dims``,
            ``depths``, ``num_heads`` (even, but in the last level) and ``mlp_ratios``, one number
            a level.
        img_size: Side, or height and width, of the images in pixels.
        in_channels: Of the images.
        patch_sizes: Kernel of the patch embedding of each level.
        strides: Of the patch embedding of each level.
        window: Width of the stripes of each level, in tokens. That of the last level is not read;
            with images of 384 pixels the authors have ``(1, 2, 12, 12)``.
        drop_rate: Drop-out in the MLP.
        attn_drop_rate: Drop-out of attention weights.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0.
        out_indices: Levels whose normed maps are returned, 0-based.
        with_cp: Whether blocks keep only their inputs and are computed again for the gradients:
            less memory, more time, the same gradients.
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=(2, 2, 2, 5), hidden=(64, 128, 256, 512), grid=40),
            dict(heads=(2, 2, 6, 11), hidden=(128, 256, 512, 1024), grid=48), dict()]`` for CSWin-T;
            see ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads and hidden
            units each module has (``read_widths``). Levels with stripes count pairs of heads.
        init_cfg: Replaces the official initialization.

    Raises:
        ValueError: If the architecture is not known or not consistent, if stripes do not divide
            a map of the whole network or of a training stage, or if heads are not in pairs.

    [1] Dong et al., CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped
        Windows, 2022.
    """

    def __init__(
        self,
        arch: str | dict[str, Sequence[int]] = 'tiny',
        img_size: int | Grid = 224,
        in_channels: int = 3,
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        window: Sequence[int] = (1, 2, 7, 7),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (3,),
        with_cp: bool = False,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool = False,
        widths: dict[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_flags(OF, with_cp=with_cp)
        check_rates(
            OF, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate
        )
        self.arch_settings = parse_arch(OF, arch, ARCHS)
        embed_dims, depths, heads, ratios = self.arch_settings.values()
        _check_pairs(f'num_heads={heads}', heads)
        patch_sizes = whole_numbers(OF, 'patch_sizes', patch_sizes, len(embed_dims))
        strides = whole_numbers(OF, 'strides', strides, len(embed_dims))
        window = whole_numbers(OF, 'window', window, len(embed_dims))
        (in_channels,) = whole_numbers(OF, 'in_channels', [in_channels], 1)
        self.img_size = parse_size(OF, img_size)
        self.embed_dims = embed_dims
        self.out_indices = parse_out_indices(OF, out_indices, len(embed_dims))
        hidden = tuple(ratio * width for ratio, width in zip(ratios, embed_dims))
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        self.levels: MutableSequence[Level] = nn.ModuleList()  # type: ignore[assignment]  # items have no type
        for i, (channels, width) in enumerate(zip((in_channels, *embed_dims), embed_dims)):
            attention = StripeAttention if i < len(embed_dims) - 1 else WholeAttention
            blocks = [
                Block(
                    attention(width, heads[i], window[i], attn_drop_rate),
                    MLP(width, hidden[i], drop_rate),
                    drop_path=next(drop_paths),
                    with_cp=with_cp,
                )
                for _ in range(depths[i])
            ]
            embed = PatchEmbed(channels, width, patch_sizes[i], strides[i])
            self.levels.append(Level(embed, blocks, normed=i in self.out_indices))
        grid = self.patch_grid(self.img_size)
        self._check_whole(window, grid)
        whole = TrainingStage(
            heads=heads, hidden=hidden, grid=grid, view='whole', window=alike(window)
        )
        spec = self._with_windows(training_stages, whole)
        self.init_training_stages(spec, whole, free=['window'])
        self._check_stages()
        self._register_load_state_dict_pre_hook(_rename_official_keys)
        self.take_form_(only_stage, gates, widths)

    def init_weights(self) -> None:
        """Draws the weights as the official implementation does, unless ``init_cfg`` is given."""
        if self.init_cfg:
            super().init_weights()
            return
        for module in self.modules():  # convolutions stay as torch draws them
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, 1.0)

    def new_in_transfer(self) -> set[str]:
        """Norms: a classifier has that of the last level, this network those of ``out_indices``."""
        levels = set(self.out_indices) ^ {len(self.levels) - 1}
        return {f'levels.{i}.norm.{name}' for i in levels for name in ('weight', 'bias')}

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, and the number of layers; see ``layer_depth``."""
        return layer_depth(param_name, prefix, [len(level.blocks) for level in self.levels])

    def units(self, k: int) -> Units:
        stage = self.training_stages[k]
        windows = per_level(stage.window, len(self.levels))
        for level, heads, hidden, window in zip(self.levels, stage.heads, stage.hidden, windows):
            for block in level.blocks:
                yield block.attn, 'heads', heads // block.attn.branches
                if 'window' in block.attn.axes:
                    yield block.attn, 'window', window
                yield block.mlp, 'hidden', hidden

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (B, C, H, W) of the levels in ``out_indices``."""
        outs, x = [], self.seen(x)
        for i, level in enumerate(self.levels):
            x = level.embed(x)  # (B, H, W, C), and so are all maps within a level
            if i == 0 and self.view(self.training_stage) == 'crop':
                grid = x.shape[1], x.shape[2]
                crop = self.active_grid(self.grid_of_all(grid), self.training_stage)
                x = center_crop(x.flatten(1, 2), grid, crop).unflatten(1, crop)
            for block in level.blocks:
                x = block(x)
            if i in self.out_indices:
                outs.append(level.norm(x).permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outs)

    def flops(self, k: int, input_size: int | Grid | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else input_size
        patches = self.patch_grid(to_2tuple(size))
        grids = self._level_grids(self.active_grid(patches, k))
        embedded = list(grids)
        if self.view(k) == 'crop':  # the first level is cropped after its embedding
            embedded[0] = patches
        total = 0
        active = {(module, axis): n for module, axis, n in self.active_units(k)}
        windows = per_level(self.training_stages[k].window, len(self.levels))
        for i, (level, before, grid, window) in enumerate(
            zip(self.levels, embedded, grids, windows)
        ):
            conv, tokens, width = level.embed.proj, prod(grid), self.embed_dims[i]
            total += flops.conv(conv, before) + flops.norm(prod(before), width)
            for block in level.blocks:
                total += block.attn.flops(grid, window, active[block.attn, 'heads'])
                total += flops.mlp(tokens, width, active[block.mlp, 'hidden'])
                total += 2 * flops.norm(tokens, width)
            if i in self.out_indices:
                total += flops.norm(tokens, width)
        return total

    def patch_conv(self) -> nn.Conv2d:
        return self.levels[0].embed.proj

    def _level_grids(self, first: Grid) -> list[Grid]:
        """Rows and columns of tokens of every level, from those of the first."""
        grids = [first]
        for level in self.levels[1:]:
            grids.append(flops.conv_grid(level.embed.proj, grids[-1]))
        return grids

    def _striped(self, window: int | tuple[int, ...], grid: Grid) -> list[tuple[int, Grid]]:
        """The width of stripes and the map of each level that has stripes: not of the last."""
        widths = per_level(window, len(self.levels))
        return list(zip(widths, self._level_grids(grid)))[:-1]

    def _check_whole(self, window: tuple[int, ...], grid: Grid) -> None:
        """With one stripe the official network has another attention, of other weights."""
        striped = self._striped(window, grid)
        fits = [_divides(width, sides) and width < min(sides) for width, sides in striped]
        advice = 'larger images'
        if all(min(sides) > 1 for _, sides in striped):
            narrower = [
                width if fit else _divisor(sides, min(sides) // 2)
                for fit, (width, sides) in zip(fits, striped)
            ]
            last = max(self._level_grids(grid)[-1])
            advice = f'window={(*narrower, last)}, or another img_size'
        for i, (width, (rows, columns)) in enumerate(striped):
            if not fits[i]:
                raise ValueError(
                    f'img_size={self.img_size} of {OF} makes {rows}x{columns} tokens at level '
                    f'{i + 1}, which stripes of width {width} do not divide into two or more; '
                    f'give {advice}'
                )

    def _with_windows(self, spec: StagesSpec, whole: TrainingStage) -> StagesSpec:
        """Training stages with the widths of their stripes, where they say none."""
        if isinstance(spec, (Integral, float)):
            spec = self._ladder(spec, whole)
        if not isinstance(spec, (list, tuple)):
            return spec
        others = [{**s, 'window': whole.window} if isinstance(s, dict) else s for s in spec]
        stages = parse_training_stages(others, whole)
        windows = [self._stripes(stage.grid, whole) for stage in stages]
        return [
            given if 'window' in given or window is None else {**given, 'window': window}
            for given, window in zip(spec, windows)
        ]

    def _ladder(self, count: Any, whole: TrainingStage) -> list[dict[str, Any]]:
        """The training stages of a number: heads in pairs, and grids that stripes divide."""
        bare = whole.as_dict()
        del bare['window']
        ladder = []
        for k, stage in enumerate(parse_training_stages(count, TrainingStage(**bare)), start=1):
            pairs = (max(1, round(heads * k / count / 2)) for heads in whole.heads[:-1])
            heads = (*(2 * each for each in pairs), stage.heads[-1])
            grid = self._nearest_fit(stage.grid, whole)
            ladder.append(dict(heads=heads, hidden=stage.hidden, grid=grid))
        return ladder

    def _stripes(self, grid: Grid, whole: TrainingStage) -> tuple[int, ...] | None:
        """Widths of stripes where the first level has this grid, if they divide all maps.

        That of the whole network where it does, else that of as many stripes.
        """
        maps = self._level_grids(grid)
        widths = []
        for (width, of_whole), sides in zip(self._striped(whole.window, whole.grid), maps):
            if not _divides(width, sides):
                shares = {Fraction(width * n, of_all) for n, of_all in zip(sides, of_whole)}
                width = int(min(shares))
                if shares != {width}:
                    return None
            widths.append(width)
        last = per_level(whole.window, len(maps))[-1]
        return (*widths, min(last, max(maps[-1])))

    def _nearest_fit(self, grid: Grid, whole: TrainingStage, step: int = 2) -> Grid:
        """The nearest grid with stripes; ``step`` is 2 for crops, 1 for any grid."""
        rows, columns = (range(n, 0, -step) for n in whole.grid)
        grids = product(rows, columns)
        by_distance = sorted(grids, key=lambda each: sum(abs(n - m) for n, m in zip(each, grid)))
        return next(each for each in by_distance if self._stripes(each, whole))

    def _check_stages(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            _check_pairs(f'training stage {k}: heads={stage.heads}', stage.heads)
            striped = self._striped(stage.window, stage.grid)
            for i, (width, sides) in enumerate(striped):
                if not _divides(width, sides):
                    raise ValueError(
                        f'training stage {k}: grid={stage.grid} leaves {sides[0]}x{sides[1]} '
                        f'tokens at level {i + 1}, which stripes of width {width} do not divide; '
                        f'give {self._advice(stage)}'
                    )

    def _advice(self, stage: TrainingStage) -> str:
        window = self._stripes(stage.grid, self.whole)
        if window is not None:
            return f'window={window}, as a stage has that says none'
        maps = self._level_grids(stage.grid)
        limits = per_level(self.whole.window, len(maps))
        window = (*map(_divisor, maps[:-1], limits), min(limits[-1], max(maps[-1])))
        grid = self._nearest_fit(stage.grid, self.whole, step=1 if stage.view == 'scale' else 2)
        return f'window={window}, or another grid, such as {grid}'


class Level(BaseModule):
    """One level of the pyramid: patch embedding, blocks, and the norm of what is returned."""

    def __init__(self, embed: 'PatchEmbed', blocks: Sequence['Block'], normed: bool) -> None:
        super().__init__()
        self.embed = embed
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]  # items have no type
        if normed:
            self.norm = nn.LayerNorm(embed.proj.out_channels)


class PatchEmbed(BaseModule):
    """A strided convolution of a map, and a norm: (B, C, H, W) to (B, H, W, C)."""

    def __init__(self, channels: int, width: int, patch: int, stride: int) -> None:
        super().__init__()
        padding = (patch - stride + 1) // 2  # the official 2 of 7 / 4, and 1 of 3 / 2
        self.proj = nn.Conv2d(channels, width, patch, stride, padding=padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Block(BaseModule):
    """Attention and MLP, each after a norm and with a shortcut."""

    def __init__(
        self, attn: 'StripeAttention', mlp: 'MLP', drop_path: float, with_cp: bool
    ) -> None:
        super().__init__()
        width = attn.proj.out_features
        self.norm1 = nn.LayerNorm(width)
        self.attn = attn
        self.norm2 = nn.LayerNorm(width)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._compute, x, use_reentrant=False)
        return self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _slots(branches: int) -> tuple[UnitSlot, ...]:
    """Of attention whose channels are those of its branches, side by side."""
    return (
        UnitSlot('qkv.weight', 0, 'heads', blocks=3 * branches),
        UnitSlot('qkv.bias', 0, 'heads', blocks=3 * branches),
        *(
            UnitSlot(f'lepe.{branch}.{name}', 0, 'heads')
            for branch in range(branches)
            for name in ('weight', 'bias')
        ),
        UnitSlot('proj.weight', 1, 'heads', blocks=branches, out=True),
    )


class StripeAttention(ElasticModule, BaseModule):
    """Attention within vertical stripes by the first half of the heads, horizontal by the other.

    A unit is a head of each half.

    Attributes:
        heads: Of each half.
        window: The width of stripes.
    """

    branches = 2
    slots = _slots(branches)
    axes: ClassVar = dict(heads='heads', window='window')

    def __init__(self, width: int, heads: int, window: int, attn_drop: float) -> None:
        super().__init__()
        self.heads, self.window = heads // self.branches, window
        self.head_dims = width // heads
        self.attn_drop = attn_drop
        self.active = {axis: self.total(axis) for axis in self.axes}
        self.qkv = nn.Linear(width, 3 * width)
        inner = width // self.branches
        # locally-enhanced positional encoding
        convs = (nn.Conv2d(inner, inner, 3, padding=1, groups=inner) for _ in range(self.branches))
        self.lepe: Sequence[nn.Conv2d] = nn.ModuleList(convs)  # type: ignore[assignment]  # items have no type
        self.proj = nn.Linear(width, width)

    def shrink_(self) -> None:
        super().shrink_()
        for conv in self.lepe:
            conv.in_channels = conv.out_channels = conv.groups = self.heads * self.head_dims

    def stripes(self, grid: Grid, window: int) -> tuple[Grid, ...]:
        """Rows and columns of the stripes of each branch, of a map of this size."""
        return (grid[0], window), (window, grid[1])

    def forward(self, x: Tensor) -> Tensor:
        """Of a map (B, H, W, C)."""
        stripes = self.stripes((x.shape[1], x.shape[2]), self.active.get('window', 0))
        qkv = self.active_linear('qkv', x)
        qkv = qkv.unflatten(-1, (3, self.branches, self.active['heads'], -1))
        outs = [
            attention_in_stripes(
                part,
                stripe,
                self.active_parameter(f'lepe.{branch}.weight'),
                self.active_parameter(f'lepe.{branch}.bias'),
                self.attn_drop if self.training else 0.0,
            )
            for branch, (part, stripe) in enumerate(zip(qkv.unbind(-3), stripes))
        ]
        return self.active_linear('proj', torch.cat(outs, dim=-1))

    def flops(self, grid: Grid, window: int, heads: int) -> int:
        """Of a map of this size, with so many heads of each branch."""
        inner, width = self.branches * heads * self.head_dims, self.proj.out_features
        total = 4 * prod(grid) * width * inner
        for stripe in self.stripes(grid, window):
            padded = prod(-(-n // side) * side for n, side in zip(grid, stripe))
            products, lepe = 2 * prod(stripe), self.lepe[0].weight[0].numel()
            total += padded * inner // self.branches * (products + lepe)
        return total


class WholeAttention(StripeAttention):
    """Attention of all heads to the whole map, as one stripe: that of the last level."""

    branches = 1
    slots = _slots(branches)
    axes: ClassVar = dict(heads='heads')

    def stripes(self, grid: Grid, window: int) -> tuple[Grid, ...]:
        return (grid,)


def attention_in_stripes(
    qkv: Tensor, stripe: Grid, weight: Tensor, bias: Tensor, drop: float
) -> Tensor:
    """Attention within each stripe of a map, and a convolution of the values there.

    A map that stripes do not divide is padded with zeros on both sides. The padding is attended
    to as well, as in the official segmentation.

    Args:
        qkv: A map of queries, keys and values: (B, H, W, 3, heads, dims).
        stripe: Rows and columns of a stripe.
        weight: Of the depthwise convolution of the values, (heads * dims, 1, 3, 3).
        bias: Its bias.
        drop: Drop-out of attention weights.

    Returns:
        A map (B, H, W, heads * dims).
    """
    (rows, columns), (height, width) = qkv.shape[1:3], stripe
    down, right = -rows % height, -columns % width
    top, left = down // 2, right // 2
    if down or right:
        qkv = F.pad(qkv, (*(0, 0) * 3, left, right - left, top, down - top))
    qkv = qkv.unflatten(2, (-1, width)).unflatten(1, (-1, height))
    batch, below, _, beside, _, _, heads, dims = qkv.shape
    count, area = batch * below * beside, height * width
    qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, count, heads, area, dims)
    q, k, v = qkv
    values = v.transpose(2, 3).reshape(count, heads * dims, height, width)
    lepe = F.conv2d(values, weight, bias, padding=1, groups=heads * dims)
    x = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
    x = x + lepe.reshape(count, heads, dims, area).transpose(2, 3)
    x = x.reshape(batch, below, beside, heads, height, width, dims).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(batch, below * height, beside * width, heads * dims)
    return x[:, top : top + rows, left : left + columns]


class MLP(ElasticModule, BaseModule):
    """Two linear layers with GELU between them."""

    slots = (
        UnitSlot('fc1.weight', 0, 'hidden'),
        UnitSlot('fc1.bias', 0, 'hidden'),
        UnitSlot('fc2.weight', 1, 'hidden', out=True),
    )
    axes: ClassVar = dict(hidden='hidden')

    def __init__(self, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.hidden, self.active = hidden, dict(hidden=hidden)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.gelu(self.active_linear('fc1', x)))
        return self.drop(self.active_linear('fc2', x))


def _check_pairs(place: str, heads: Sequence[int]) -> None:
    for level, count in enumerate(heads[:-1], start=1):
        if count % 2:
            raise ValueError(
                f'{place}, but {OF} has heads in pairs, for vertical and horizontal stripes, '
                f'and {count} of level {level} is odd; give even numbers in all levels but the last'
            )


def _divides(width: int, sides: Grid) -> bool:
    return not any(side % width for side in sides)


def _divisor(sides: Grid, most: int) -> int:
    """The widest stripes up to ``most`` that divide a map."""
    return next(width for width in range(max(1, most), 0, -1) if _divides(width, sides))


def _rename_official_keys(state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if not any(key.startswith(f'{prefix}stage1_conv_embed.') for key in state_dict):
        return
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith('head.'):
            del state_dict[key]
            continue
        for pattern, ours in OFFICIAL_NAMES:
            if match := re.match(pattern, name):
                level = int(match[1]) - 1 if match.groups() else 0
                rest = name[match.end() :]
                state_dict[prefix + match.expand(ours).format(level) + rest] = state_dict.pop(key)
                break
