# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What both Swin families share: levels of blocks with attention within shifted windows."""

import functools
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.utils import ShiftWindowMSA, resize_pos_embed, to_2tuple
from torch import Tensor, nn

from .. import flops
from ..elastic import ElasticBackbone, center_crop
from ..elastic_modules import ElasticFFN, ElasticModule, Units, elasticize_, is_plain_ffn
from ..resampling import resized_map
from ..training_stages import StagesSpec, TrainingStage, alike, per_level

Grid = tuple[int, int]


class Maps(NamedTuple):
    """Rows and columns of the maps of a level: of its blocks, merged patches, and output."""

    blocks: Grid
    merged: Grid
    out: Grid


class WindowedBackbone(ElasticBackbone):
    """Mixin of a Swin of mmpretrain, once its own ``__init__`` has called ``init_levels``.

    A subclass says how wide blocks are (``block_dims``) and which ``maps`` its levels have, and
    computes its levels from ``embedded(images)``.
    """

    plain_attention: type[nn.Module]  # within a window, of mmpretrain
    # Of mmpretrain's classes, which say no types.
    stages: Any
    patch_embed: Any
    patch_resolution: Grid
    drop_after_pos: nn.Module
    use_abs_pos_embed: bool
    absolute_pos_embed: nn.Parameter
    interpolate_mode: str
    frozen_stages: int
    out_indices: tuple[int, ...]

    @property
    def block_dims(self) -> list[int]:
        """Channels of the blocks of each level."""
        raise NotImplementedError

    def maps(self, first: Grid) -> list[Maps]:
        """The maps of each level, from the patch tokens."""
        raise NotImplementedError

    def init_levels(self, training_stages: StagesSpec, attention: type[ElasticModule]) -> None:
        """Makes every block elastic, and takes the ``training_stages`` argument.

        Args:
            training_stages: See ``parse_training_stages``.
            attention: What the attention within windows becomes.

        Raises:
            ValueError: If the training stages do not fit the network, or it cannot be split.
        """
        self.img_size = self.patch_embed.init_input_size
        for level in self.stages:
            for block in level.blocks:
                if type(block.attn.w_msa) is self.plain_attention:
                    elasticize_(block.attn, ElasticShiftWindowMSA)
                    elasticize_(block.attn.w_msa, attention)
                if is_plain_ffn(block.ffn):
                    elasticize_(block.ffn, ElasticFFN)
        firsts = [level.blocks[0] for level in self.stages]
        rows, columns = map(int, self.patch_resolution)
        whole = TrainingStage(
            heads=tuple(block.attn.w_msa.num_heads for block in firsts),
            hidden=tuple(block.ffn.feedforward_channels for block in firsts),
            grid=(rows, columns),
            view='whole',
            window=alike(tuple(block.attn.window_size for block in firsts)),
        )
        self.init_training_stages(training_stages, whole)
        if self.num_training_stages > 1:
            self._check_divisible(whole)
            self._check_windows()

    def _check_divisible(self, whole: TrainingStage) -> None:
        reason = None
        if self.frozen_stages >= 0:
            reason = (
                f'frozen_stages={self.frozen_stages} freezes weights that growing would write to'
            )
        windows = per_level(whole.window, len(self.stages))
        of_levels = zip(windows, whole.heads, whole.hidden)
        for i, (level, width, units) in enumerate(zip(self.stages, self.block_dims, of_levels)):
            for block in level.blocks:
                reason = reason or self._why_undivided(block, width, units, i + 1)
        if reason:
            raise ValueError(
                f'training_stages split every block of a level alike, but {reason}; '
                'drop that, or train the whole network only (training_stages=None)'
            )

    def _why_undivided(
        self, block: Any, width: int, units: tuple[int, ...], level: int
    ) -> str | None:
        """What keeps a block from training stages; ``units`` are window, heads, hidden units."""
        attn, ffn, place = block.attn, block.ffn, f'level {level} of {type(self).__name__} has'
        if not isinstance(attn, ElasticShiftWindowMSA):
            found, known = type(attn.w_msa).__name__, self.plain_attention.__name__
            return f'{place} the window attention {found}, not {known}'
        if not isinstance(ffn, ElasticFFN):
            return f'{place} an MLP other than two linear layers'
        window, heads, _ = units
        if (attn.window_size, attn.w_msa.num_heads, ffn.feedforward_channels) != units:
            return 'stage_cfgs give blocks different windows, heads or hidden units'
        if width % heads:
            return f'{place} a width of {width}, which is no multiple of num_heads={heads}'
        if attn.shift_size not in (0, window // 2):
            return 'stage_cfgs shift windows by other than half of their side'
        return None

    def _check_windows(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            advice = 'a smaller window, a larger grid'
            if k == self.num_training_stages:
                advice = 'a smaller window_size, a larger img_size'
            windows = per_level(stage.window, len(self.stages))
            for i, (level, window, maps) in enumerate(
                zip(self.stages, windows, self.maps(stage.grid))
            ):
                rows, columns = maps.blocks
                if min(maps.blocks) < window and not level.blocks[0].attn.pad_small_map:
                    raise ValueError(
                        f'training stage {k}: window={stage.window} is larger than level {i + 1}, '
                        f'which has {rows}x{columns} tokens; give {advice}, or '
                        'pad_small_map=True'
                    )

    def new_in_transfer(self) -> set[str]:
        """Norms: a classifier has that of the last level, this network those of ``out_indices``."""
        levels = set(self.out_indices) ^ {len(self.stages) - 1}
        return {f'norm{i}.{name}' for i in levels for name in ('weight', 'bias')}

    def units(self, k: int) -> Units:
        stage = self.training_stages[k]
        windows, whole = (per_level(s.window, len(self.stages)) for s in (stage, self.whole))
        # scaled images have trained all offsets
        known = whole if 'scale' in map(self.view, range(k + 1)) else windows
        for level, window, offsets, heads, hidden in zip(
            self.stages, windows, known, stage.heads, stage.hidden
        ):
            for block in level.blocks:
                for module, axis, active in (
                    (block.attn, 'window', window),
                    (block.attn.w_msa, 'window', offsets),
                    (block.attn.w_msa, 'heads', heads),
                    (block.ffn, 'hidden', hidden),
                ):
                    if isinstance(module, ElasticModule):
                        yield module, axis, active

    def plain_widths(self, given: dict[str, Any]) -> dict[str, Any] | None:
        if set(self.widths or ()) != {'hidden'}:
            return None
        cfgs = given.get('stage_cfgs', {})
        levels = zip(self.stages, _one_each(cfgs, len(self.stages)))
        return dict(stage_cfgs=[{**cfg, **_blocks_as_built(level, cfg)} for level, cfg in levels])

    def set_training_stage(self, k: int) -> None:
        super().set_training_stage(k)
        for level in self.stages:
            for block in level.blocks:
                block.attn.w_msa.reads_all_offsets = self.view(k) == 'scale'

    def embedded(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Patch tokens of a smaller training stage, (B, rows * columns, C), and their grid."""
        x, grid = self.patch_embed(self.seen(images))
        if self.view(self.training_stage) == 'scale':
            if self.use_abs_pos_embed:
                pos = self.absolute_pos_embed[0].unflatten(0, self.patch_resolution)
                x = x + resized_map(pos, grid).flatten(0, 1)
        else:
            whole = self.grid_of_all(grid)
            crop = self.active_grid(whole, self.training_stage)
            x, grid = center_crop(x, grid, crop), crop
            if self.use_abs_pos_embed:
                pos = self.absolute_pos_embed
                pos = resize_pos_embed(pos, self.patch_resolution, whole, self.interpolate_mode, 0)
                x = x + center_crop(pos, whole, crop)
        return self.drop_after_pos(x), grid

    def patch_conv(self) -> nn.Conv2d:
        return self.patch_embed.projection

    def patch_grid(self, size: Grid) -> Grid:
        return flops.patch_grid(self.patch_embed, size)

    def flops(self, k: int, input_size: int | Grid | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else to_2tuple(input_size)
        patches = self.patch_grid(size)
        tokens = self.active_grid(patches, k)
        if self.view(k) == 'scale':
            patches = tokens
        active = {(module, axis): units for module, axis, units in self.active_units(k)}
        attentions = [block.attn for level in self.stages for block in level.blocks]
        if not all((attention, 'window') in active for attention in attentions):
            raise ValueError(
                f'{type(self).__name__} knows the cost of the window attention '
                f'{self.plain_attention.__name__} only; drop the other one (stage_cfgs), or use '
                f"type='mmpretrain.{self.plain_type}'"
            )
        total = flops.conv(self.patch_conv(), patches) + norm_flops(self.patch_embed.norm, patches)
        levels = zip(self.stages, self.block_dims, self.maps(tokens))
        for i, (level, width, maps) in enumerate(levels):
            for block in level.blocks:
                total += _block_flops(block, maps.blocks, width, active)
            merging = level.downsample
            if merging is not None:
                total += norm_flops(merging.norm, maps.merged)
                total += prod(maps.merged) * merging.reduction.weight.numel()
            if i in self.out_indices:
                total += norm_flops(getattr(self, f'norm{i}'), maps.out)
        return total


def _one_each(cfgs: Any, count: int) -> Any:
    """As mmpretrain takes them: one for each of ``count``, or one for all."""
    return [cfgs] * count if isinstance(cfgs, dict) else cfgs


def _blocks_as_built(level: Any, cfg: dict[str, Any]) -> dict[str, Any]:
    """The argument ``block_cfgs`` of a level, with the hidden units that its blocks have."""
    blocks = []
    for block, given in zip(level.blocks, _one_each(cfg.get('block_cfgs', {}), len(level.blocks))):
        if isinstance(block.ffn, ElasticFFN):
            hidden = dict(feedforward_channels=block.ffn.feedforward_channels)
            given = {**given, 'ffn_cfgs': {**given.get('ffn_cfgs', {}), **hidden}}
        blocks.append(given)
    return dict(block_cfgs=blocks)


def merged_grid(level: Any, grid: Grid) -> Grid:
    """Rows and columns of tokens after the merging of patches that a level has, or not."""
    return grid if level.downsample is None else flops.patch_grid(level.downsample, grid)


def norm_flops(norm: nn.Module | None, grid: Grid) -> int:
    """Of a norm of the tokens of a map; only layer norms count."""
    if not isinstance(norm, nn.LayerNorm):
        return 0
    return flops.norm(prod(grid), prod(norm.normalized_shape))


def _block_flops(
    block: Any, grid: Grid, width: int, active: dict[tuple[ElasticModule, str], int]
) -> int:
    window, w_msa = active[block.attn, 'window'], block.attn.w_msa
    windows = prod(-(-n // window) for n in grid)  # padded to whole ones
    inner = active[w_msa, 'heads'] * (w_msa.proj.in_features // w_msa.num_heads)
    total = windows * flops.attention(window**2, window**2, width, inner)
    if (block.ffn, 'hidden') in active:
        total += flops.mlp(prod(grid), width, active[block.ffn, 'hidden'])
    else:
        total += flops.linears(block.ffn, prod(grid))
    return total + sum(norm_flops(norm, grid) for norm in block.children())


def reversed_patches(weight: Tensor) -> Tensor:
    """What reads four patches, for timm: mmpretrain has it by (channel, row, column)."""
    patches = weight.unflatten(-1, (-1, 2, 2))
    return patches.transpose(-1, -3).flatten(-3).contiguous()


class ElasticShiftWindowMSA(ElasticModule, ShiftWindowMSA):
    """mmpretrain's window attention, in windows of fewer rows and columns."""

    axes: ClassVar = dict(window='window_size')
    window_size: int
    shift_size: int

    def shrink_(self) -> None:
        super().shrink_()
        if self.shift_size:
            self.shift_size = self.window_size // 2

    def forward(self, query: Tensor, hw_shape: Grid) -> Tensor:
        window, shift = self.active['window'], 0
        if min(hw_shape) < window and not self.pad_small_map:
            raise AssertionError(  # the class that mmpretrain raises
                f'a map of {hw_shape[0]}x{hw_shape[1]} tokens is smaller than the window size '
                f'({window}); give larger images or pad_small_map=True'
            )
        if self.shift_size > 0 and (self.pad_small_map or min(hw_shape) > window):
            shift = self.shift_size if self.is_whole else window // 2
        bottom, right = (-n % window for n in hw_shape)
        x = query.unflatten(1, hw_shape)
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        mask = None
        if shift:
            mask = shift_mask(tuple(x.shape[1:3]), window, shift, x.device)
            x = torch.roll(x, (-shift, -shift), dims=(1, 2))
        x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
        x = self.w_msa(x, mask).flatten(3, 4).flatten(1, 2)
        if shift:
            x = torch.roll(x, (shift, shift), dims=(1, 2))
        return self.drop(x[:, : hw_shape[0], : hw_shape[1]].flatten(1, 2))


def heads_in_windows(qkv: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """q, k and v of a map by window and head; one permute does both.

    Args:
        qkv: (B, rows, window, columns, window, 3 * heads * dims): so many rows and columns of
            windows.
        heads: How many.
        mask: Of each window, if there is one. A window with its mask is as a head with its bias.

    Returns:
        (3, B * windows, heads, window^2, dims), or with a mask (3, B, windows * heads, ...).
    """
    batch, rows, window, columns = qkv.shape[:4]
    count = rows * columns
    groups = (batch * count, heads) if mask is None else (batch, count * heads)
    qkv = qkv.unflatten(-1, (3, heads, -1)).permute(5, 0, 1, 3, 6, 2, 4, 7)
    return qkv.reshape(3, *groups, window**2, -1)


def attention_in_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    scale: float,
    drop: float,
    shape: torch.Size,
) -> Tensor:
    """Fused attention within each window of a map; one permute undoes ``heads_in_windows``.

    Args:
        q: Queries, as ``heads_in_windows`` gives them.
        k: Keys.
        v: Values.
        bias: Added to the attention of each head, (heads, window^2, window^2).
        mask: Added to that of each window, (windows, window^2, window^2).
        scale: Of the products of queries and keys.
        drop: Drop-out of attention weights.
        shape: Of the map, (B, rows, window, columns, window, C).

    Returns:
        A map (B, rows, window, columns, window, heads * dims).
    """
    heads = bias.shape[0]
    bias = bias[None] if mask is None else (bias + mask[:, None]).flatten(0, 1)[None]
    x = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias.to(v.dtype), dropout_p=drop, scale=scale
    )
    batch, rows, window, columns = shape[:4]
    x = x.reshape(batch, rows, columns, heads, window, window, -1)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)
    if torch.onnx.is_in_onnx_export():  # it takes flatten for a view, which needs this layout
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(5)


def offset_index(side: int, device: torch.device) -> Tensor:
    """Where in the table of a window lie the offsets of its tokens: (side^2, side^2).

    The same as mmpretrain's ``relative_position_index``.
    """
    line = torch.arange(side, device=device)
    places = (line[:, None] * (2 * side - 1) + line).flatten()
    return places[:, None] - places + 2 * side * (side - 1)


def shift_mask(grid: Grid, window: int, shift: int, device: torch.device) -> Tensor:
    """mmpretrain's mask of shifted windows, made once for each shape: (windows, w^2, w^2)."""
    mask = _kept_mask(grid, window, shift, device)
    if type(mask) is not Tensor:  # made while the network was being exported
        _kept_mask.cache_clear()
    return mask


@functools.lru_cache(maxsize=16)
def _kept_mask(*args: Any) -> Tensor:
    with torch.inference_mode(False):  # so that it may serve training too
        return ShiftWindowMSA.get_attn_mask(*args)
