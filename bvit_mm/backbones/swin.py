# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The Swin family: mmpretrain's ``SwinTransformer``, elastic."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.utils import ShiftWindowMSA, WindowMSA, resize_pos_embed, to_2tuple
from torch import Tensor

from .. import flops
from ..elastic import (
    ElasticBackbone,
    ElasticFFN,
    ElasticModule,
    Slot,
    UnitSlot,
    center_crop,
    elasticize_,
    is_plain_ffn,
)
from ..registry import MODELS
from ..resampling import resized_map
from ..training_stages import StagesSpec, TrainingStage, alike, per_level


@MODELS.register_module()
class ElasticSwinTransformer(ElasticBackbone, SwinTransformer):
    """mmpretrain's ``SwinTransformer`` with training stages (Section 4.2, Appendix A, Table 6).

    A training stage computes with the first ``heads`` of every attention and the first
    ``hidden`` units of every MLP of a level, the central ``grid`` of the patch tokens of the
    first level, from which those of the others follow, and windows of ``window`` x ``window``
    tokens (one number, or one for each level); with ``view='scale'``, with the patch tokens of the
    whole image scaled down to that ``grid``. Widths and depths stay.

    A smaller window reads the center of the full relative position bias table: the same offsets
    with the same meaning. The paper does not say what offsets start from that appear when the
    window grows; here they start as ``new_offsets`` says. On scaled images a smaller window reads
    the whole table, resized, so that all of it is trained, and nothing of it is new from then on.

    At the last stage, and without ``training_stages``, it is mmpretrain's network, computed
    faster: attention is fused, shift masks are kept. Parameters have mmpretrain's names and
    shapes at every stage. An image of another size than ``img_size`` is cropped, or scaled, to the
    same share of its patch grid.

    Args:
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(heads=(1, 2, 4, 8), hidden=(96, 192, 384, 768), grid=40, window=5),
            dict(heads=(2, 4, 8, 16), hidden=(192, 384, 768, 1536), grid=48, window=6), dict()]``
            for Swin-T and Swin-S; see ``parse_training_stages``.
        new_offsets: Offsets that a larger window brings start from the ``'nearest'`` known
            offset; from the known table, resized with ``'bicubic'`` interpolation; or stay
            as they were drawn (``'initial'``; weight decay shrinks them meanwhile, unless the
            table has none, as in Swin's recipe).
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        **kwargs: Every argument of mmpretrain's ``SwinTransformer``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: blocks of a level that differ, an MLP other than two linear layers, another
            window attention than mmpretrain's ``WindowMSA``, frozen levels.
    """

    plain_type = 'SwinTransformer'
    timm_names = (
        (r'backbone\.patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'backbone\.patch_embed\.norm\.', 'patch_embed.norm.'),
        (r'.*\.relative_position_index', ''),
        *(
            (rf'backbone\.stages\.(\d+)\.blocks\.(\d+)\.{ours}', rf'layers.\1.blocks.\2.{theirs}')
            for ours, theirs in (
                (r'ffn\.layers\.0\.0\.', 'mlp.fc1.'),
                (r'ffn\.layers\.1\.', 'mlp.fc2.'),
                (r'attn\.w_msa\.', 'attn.'),
                (r'norm(\d)\.', r'norm\3.'),
            )
        ),
        # there the next level begins with the merging of patches
        (r'backbone\.stages\.(\d+)\.downsample', lambda m: f'layers.{int(m[1]) + 1}.downsample'),
        (r'backbone\.norm\d\.', 'norm.'),
        (r'head\.fc\.', 'head.fc.'),
    )

    def __init__(
        self,
        *args,
        training_stages: StagesSpec = None,
        new_offsets: str = 'nearest',
        only_stage: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.img_size = self.patch_embed.init_input_size
        if new_offsets not in NEW_OFFSETS:
            raise ValueError(
                f'new_offsets={new_offsets!r} is not known; give one of {tuple(NEW_OFFSETS)}'
            )
        for level in self.stages:
            for block in level.blocks:
                if type(block.attn.w_msa) is WindowMSA:
                    elasticize_(block.attn, ElasticShiftWindowMSA)
                    elasticize_(block.attn.w_msa, NEW_OFFSETS[new_offsets])
                if is_plain_ffn(block.ffn):
                    elasticize_(block.ffn, ElasticFFN)
        firsts = [level.blocks[0] for level in self.stages]
        whole = TrainingStage(
            heads=tuple(block.attn.w_msa.num_heads for block in firsts),
            hidden=tuple(block.ffn.feedforward_channels for block in firsts),
            grid=tuple(map(int, self.patch_resolution)),
            view='whole',
            window=alike(tuple(block.attn.window_size for block in firsts)),
        )
        self.init_training_stages(training_stages, whole)
        if self.num_training_stages > 1:
            self._check_divisible(whole)
            self._check_windows()
        last = len(self.stages) - 1
        self._register_load_state_dict_pre_hook(functools.partial(_rename_old_keys, last=last))
        if only_stage is not None:
            self.shrink_(only_stage)

    def _check_divisible(self, whole: TrainingStage) -> None:
        reason = None
        if self.frozen_stages >= 0:
            reason = (
                f'frozen_stages={self.frozen_stages} freezes weights that growing would write to'
            )
        windows = per_level(whole.window, len(self.stages))
        of_levels = zip(windows, whole.heads, whole.hidden)
        for i, (level, units) in enumerate(zip(self.stages, of_levels)):
            for block in level.blocks:
                reason = reason or _why_undivided(block, level.embed_dims, units, i + 1)
        if reason:
            raise ValueError(
                f'training_stages split every block of a level alike, but {reason}; '
                'drop that, or train the whole network only (training_stages=None)'
            )

    def _check_windows(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            advice = 'a smaller window, a larger grid'
            if k == self.num_training_stages:
                advice = 'a smaller window_size, a larger img_size'
            windows = per_level(stage.window, len(self.stages))
            grids = self._level_grids(stage.grid)
            for i, (level, window, grid) in enumerate(zip(self.stages, windows, grids)):
                if min(grid) < window and not level.blocks[0].attn.pad_small_map:
                    raise ValueError(
                        f'training stage {k}: window={stage.window} is larger than level {i + 1}, '
                        f'which has {grid[0]}x{grid[1]} tokens; give {advice}, or '
                        'pad_small_map=True'
                    )

    def new_in_transfer(self) -> set[str]:
        """Norms: a classifier has that of the last level, this network those of ``out_indices``."""
        levels = set(self.out_indices) ^ {len(self.stages) - 1}
        return {f'norm{i}.{name}' for i in levels for name in ('weight', 'bias')}

    @staticmethod
    def timm_value(key: str, value: Tensor) -> Tensor:
        """What reads four patches has mmpretrain's order of (channel, row, column), reversed."""
        if '.downsample.' not in key:
            return value
        patches = value.unflatten(-1, (-1, 2, 2))
        return patches.transpose(-1, -3).flatten(-3).contiguous()

    def units(self, k: int) -> Iterator[tuple[ElasticModule, str, int]]:
        stage = self.training_stages[k]
        is_whole = stage == self.whole  # then blocks need not be alike
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
                        yield module, axis, module.total(axis) if is_whole else active

    def set_training_stage(self, k: int) -> None:
        super().set_training_stage(k)
        for level in self.stages:
            for block in level.blocks:
                block.attn.w_msa.reads_all_offsets = self.view(k) == 'scale'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self.patch_embed(self.seen(x))
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
        x = self.drop_after_pos(x)

        outs = []
        for i, level in enumerate(self.stages):
            x, grid = level(x, grid, do_downsample=self.out_after_downsample)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.transpose(1, 2).unflatten(2, grid).contiguous())
            if level.downsample is not None and not self.out_after_downsample:
                x, grid = level.downsample(x, grid)
        return tuple(outs)

    def patch_conv(self) -> torch.nn.Conv2d:
        return self.patch_embed.projection

    def patch_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return flops.patch_grid(self.patch_embed, size)

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        embed = self.patch_embed
        size = embed.init_input_size if input_size is None else to_2tuple(input_size)
        patches = self.patch_grid(size)
        tokens = self.active_grid(patches, k)
        if self.view(k) == 'scale':
            patches = tokens
        active = {(module, axis): units for module, axis, units in self.units(k)}
        attentions = [block.attn for level in self.stages for block in level.blocks]
        if not all((attention, 'window') in active for attention in attentions):
            raise ValueError(
                'ElasticSwinTransformer knows the cost of the window attention WindowMSA only; '
                "drop the other one (stage_cfgs), or use type='mmpretrain.SwinTransformer'"
            )
        total = flops.conv(embed.projection, patches)
        total += _norm_flops(embed.norm, patches, self.embed_dims)
        grids = self._level_grids(tokens)
        for i, (level, grid, merged) in enumerate(zip(self.stages, grids, grids[1:])):
            width, count = level.embed_dims, grid[0] * grid[1]
            for block in level.blocks:
                window, w_msa = active[block.attn, 'window'], block.attn.w_msa
                windows = -(-grid[0] // window) * -(-grid[1] // window)  # padded to whole ones
                inner = active[w_msa, 'heads'] * (w_msa.proj.in_features // w_msa.num_heads)
                total += windows * flops.attention(window**2, window**2, width, inner)
                if (block.ffn, 'hidden') in active:
                    total += flops.mlp(count, width, active[block.ffn, 'hidden'])
                else:
                    total += flops.linears(block.ffn, count)
                total += _norm_flops(block.norm1, grid, width)
                total += _norm_flops(block.norm2, grid, width)
            merging = level.downsample
            if merging is not None:
                total += _norm_flops(merging.norm, merged, merging.reduction.in_features)
                total += merged[0] * merged[1] * merging.reduction.weight.numel()
            if i in self.out_indices:
                after = merged if self.out_after_downsample else grid
                total += _norm_flops(getattr(self, f'norm{i}'), after, self.num_features[i])
        return total

    def _level_grids(self, first: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of tokens of every level and after the last, from the first's."""
        grids = [first]
        for level in self.stages:
            merging = level.downsample
            grids.append(grids[-1] if merging is None else flops.patch_grid(merging, grids[-1]))
        return grids


@final
@dataclass(frozen=True)
class OffsetSlot(Slot):
    """The offsets of a relative position bias table, which follow the window.

    A window of w x w tokens knows the offsets from 1 - w to w - 1 in rows and columns. So unit u
    is the ring of offsets whose larger part is u, and w units are the center of the table.

    Attributes:
        start: What new offsets start from; see ``ElasticSwinTransformer``.
    """

    start: str = 'nearest'

    def active(self, tensor: Tensor, total: int, active: int) -> Tensor:
        """The whole table: a smaller window finds its offsets by their index."""
        return tensor

    def places(self, size: int, total: int, units: Sequence[int] | Tensor) -> Tensor:
        """Where rings of offsets lie in the flat table."""
        offsets = torch.arange(1 - total, total).abs()
        rings = torch.maximum(offsets[:, None], offsets).flatten()
        return torch.isin(rings, torch.as_tensor(units, dtype=torch.long)).nonzero().flatten()

    def sources(self, size: int, total: int, old: int, new: int) -> Tensor:
        """Where the nearest known offsets lie."""
        nearest = torch.arange(1 - total, total).clamp(1 - old, old - 1) + total - 1
        table = nearest[:, None] * (2 * total - 1) + nearest
        return table.flatten()[self.places(size, total, range(old, new))]

    def grown_values(self, tensor: Tensor, total: int, old: int, new: int) -> Tensor:
        """What rings ``old`` to ``new - 1`` start from, as ``start`` says."""
        size = len(tensor)
        grown = self.places(size, total, range(old, new)).to(tensor.device)
        if self.start == 'initial':
            return tensor[grown]
        if self.start == 'nearest':
            return tensor[self.sources(size, total, old, new).to(tensor.device)]
        table = tensor.T.unflatten(1, (2 * total - 1, 2 * total - 1))[None]
        known = table[..., total - old : total + old - 1, total - old : total + old - 1]
        resized = F.interpolate(known, 2 * new - 1, mode='bicubic')
        values = F.pad(resized, (total - new,) * 4)
        return values[0].flatten(1).T[grown]


class ElasticShiftWindowMSA(ElasticModule, ShiftWindowMSA):
    """mmpretrain's window attention, in windows of fewer rows and columns."""

    axes: ClassVar = dict(window='window_size')
    window_size: int
    shift_size: int

    def shrink_(self) -> None:
        super().shrink_()
        if self.shift_size:
            self.shift_size = self.window_size // 2

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
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


HEADS = (
    UnitSlot('qkv.weight', 0, 'heads', blocks=3),
    UnitSlot('qkv.bias', 0, 'heads', blocks=3),
    UnitSlot('relative_position_bias_table', 1, 'heads'),
    UnitSlot('proj.weight', 1, 'heads', out=True),
)


class ElasticWindowMSA(ElasticModule, WindowMSA):
    """mmpretrain's attention within windows, with its first heads active, in smaller windows.

    Attributes:
        reads_all_offsets: Whether a smaller window reads the whole bias table, resized: of an
            image scaled down, its offsets reach as far.
    """

    slots = (*HEADS, OffsetSlot('relative_position_bias_table', 0, 'window'))
    axes: ClassVar = dict(heads='num_heads', window='side')
    window_size: tuple[int, int]
    relative_position_index: Tensor
    reads_all_offsets = False

    @property
    def side(self) -> int:
        """Rows and columns of the full window; the bias table has the offsets of that size."""
        return self.window_size[0]

    @side.setter
    def side(self, side: int) -> None:
        self.window_size = side, side
        self.relative_position_index = self._index(side).to(self.relative_position_index)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within each window.

        One permute groups windows and splits heads, and one undoes it.

        Args:
            x: A map of (B, rows, window, columns, window, C): so many rows and columns of windows.
            mask: Added to the attention of each window, (rows * columns, window^2, window^2).
        """
        batch, rows, window, columns, _, _ = x.shape
        count, heads, area = rows * columns, self.active['heads'], window**2
        qkv = self.active_linear('qkv', x).unflatten(-1, (3, heads, -1))
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)  # 3, B, rows, columns, heads, window^2, dims
        bias = self._bias(self.active_parameter('relative_position_bias_table'), window)
        if mask is None:
            qkv, bias = qkv.reshape(3, batch * count, heads, area, -1), bias[None]
        else:  # a window with its mask is as a head with its bias
            bias = (bias + mask[:, None]).view(1, count * heads, area, area)
            qkv = qkv.reshape(3, batch, count * heads, area, -1)
        q, k, v = qkv
        x = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias.to(qkv.dtype),
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        x = x.reshape(batch, rows, columns, heads, window, window, -1)
        x = x.permute(0, 1, 4, 2, 5, 3, 6)
        if torch.onnx.is_in_onnx_export():  # it takes flatten for a view, which needs this layout
            x = x.clone(memory_format=torch.contiguous_format)
        x = x.flatten(5)
        return self.proj_drop(self.active_linear('proj', x))

    def _bias(self, table: Tensor, window: int) -> Tensor:
        """(heads, window^2, window^2), of a smaller window too."""
        if self.reads_all_offsets and window < self.side:
            offsets = 2 * window - 1
            full = table.unflatten(0, (2 * self.side - 1, -1))
            table = resized_map(full, (offsets, offsets)).flatten(0, 1)
            index = self._index(window).to(table.device)
        else:  # that of a corner of the full one
            index = self.relative_position_index.unflatten(0, self.window_size)
            index = index.unflatten(2, self.window_size)[:window, :window, :window, :window]
            index = index.reshape(window**2, window**2)
        return table[index].permute(2, 0, 1).contiguous()

    def _index(self, side: int) -> Tensor:
        """Where in the table of a window lie the offsets of its tokens, as mmpretrain does it."""
        index = self.double_step_seq(2 * side - 1, side, 1, side)
        return (index + index.T).flip(1).contiguous()


class BicubicOffsets(ElasticWindowMSA):
    """New offsets of larger windows start from the known table, resized."""

    slots = (*HEADS, OffsetSlot('relative_position_bias_table', 0, 'window', start='bicubic'))


class InitialOffsets(ElasticWindowMSA):
    """New offsets of larger windows stay as they were drawn."""

    slots = (*HEADS, OffsetSlot('relative_position_bias_table', 0, 'window', start='initial'))


NEW_OFFSETS = dict(nearest=ElasticWindowMSA, bicubic=BicubicOffsets, initial=InitialOffsets)


def shift_mask(grid: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """mmpretrain's mask of shifted windows, made once for each shape: (windows, w^2, w^2)."""
    mask = _kept_mask(grid, window, shift, device)
    if type(mask) is not Tensor:  # made while the network was being exported
        _kept_mask.cache_clear()
    return mask


@functools.lru_cache(maxsize=16)
def _kept_mask(*args: Any) -> Tensor:
    with torch.inference_mode(False):  # so that it may serve training too
        return ShiftWindowMSA.get_attn_mask(*args)


def _why_undivided(block: SwinBlock, width: int, units: tuple[int, ...], level: int) -> str | None:
    """What keeps a block from training stages; ``units`` are window, heads and hidden units."""
    attn, ffn, place = block.attn, block.ffn, f'level {level} of ElasticSwinTransformer has'
    if not isinstance(attn, ElasticShiftWindowMSA):
        return f'{place} the window attention {type(attn.w_msa).__name__}, not WindowMSA'
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


def _norm_flops(norm: torch.nn.Module | None, grid: tuple[int, int], width: int) -> int:
    return flops.norm(grid[0] * grid[1], width) if isinstance(norm, torch.nn.LayerNorm) else 0


def _rename_old_keys(state_dict: dict[str, Tensor], prefix: str, *_: Any, last: int) -> None:
    """Weights of mmpretrain's first versions: one ``norm``, and masks among the buffers."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith('norm.'):
            state_dict[f'{prefix}norm{last}.{name.removeprefix("norm.")}'] = state_dict.pop(key)
        elif name.endswith('attn_mask'):
            del state_dict[key]
