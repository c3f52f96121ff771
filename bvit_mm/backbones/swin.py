# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The Swin family: mmpretrain's ``SwinTransformer``, elastic."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import WindowMSA
from torch import Tensor

from ..elastic_modules import ElasticModule, Slot, UnitSlot
from ..registry import MODELS
from ..resampling import resized_map
from ..training_stages import StagesSpec
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


@MODELS.register_module()
class ElasticSwinTransformer(WindowedBackbone, SwinTransformer):
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
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads and hidden
            units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``SwinTransformer``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: blocks of a level that differ, an MLP other than two linear layers, another
            window attention than mmpretrain's ``WindowMSA``, frozen levels.
    """

    plain_type = 'SwinTransformer'
    plain_attention = WindowMSA
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
        gates: bool = False,
        widths: dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if new_offsets not in NEW_OFFSETS:
            raise ValueError(
                f'new_offsets={new_offsets!r} is not known; give one of {tuple(NEW_OFFSETS)}'
            )
        self.init_levels(training_stages, NEW_OFFSETS[new_offsets])
        last = len(self.stages) - 1
        self._register_load_state_dict_pre_hook(functools.partial(_rename_old_keys, last=last))
        self.take_form_(only_stage, gates, widths)

    @staticmethod
    def timm_value(key: str, value: Tensor) -> Tensor:
        return reversed_patches(value) if '.downsample.' in key else value

    @property
    def block_dims(self) -> list[int]:
        return [level.embed_dims for level in self.stages]

    def maps(self, first: Grid) -> list[Maps]:
        found = []
        for level in self.stages:
            merged = merged_grid(level, first)
            found.append(Maps(first, merged, merged if self.out_after_downsample else first))
            first = merged
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.is_whole:
            return super().forward(x)
        x, grid = self.embedded(x)
        outs = []
        for i, level in enumerate(self.stages):
            x, grid = level(x, grid, do_downsample=self.out_after_downsample)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.transpose(1, 2).unflatten(2, grid).contiguous())
            if level.downsample is not None and not self.out_after_downsample:
                x, grid = level.downsample(x, grid)
        return tuple(outs)


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
        self.relative_position_index = offset_index(side, self.relative_position_index.device)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within each window.

        Args:
            x: A map of (B, rows, window, columns, window, C): so many rows and columns of windows.
            mask: Added to the attention of each window, (rows * columns, window^2, window^2).
        """
        packed = self.active_linear('qkv', x)
        q, k, v = heads_in_windows(packed, self.active['heads'], mask)
        bias = self._bias(self.active_parameter('relative_position_bias_table'), x.shape[2])
        drop = self.attn_drop.p if self.training else 0.0
        x = attention_in_windows(q, k, v, bias, mask, self.scale, drop, x.shape)
        return self.proj_drop(self.active_linear('proj', x))

    def _bias(self, table: Tensor, window: int) -> Tensor:
        """(heads, window^2, window^2), of a smaller window too."""
        if self.reads_all_offsets and window < self.side:
            offsets = 2 * window - 1
            full = table.unflatten(0, (2 * self.side - 1, -1))
            table = resized_map(full, (offsets, offsets)).flatten(0, 1)
            index = offset_index(window, table.device)
        else:  # that of a corner of the full one
            index = self.relative_position_index.unflatten(0, self.window_size)
            index = index.unflatten(2, self.window_size)[:window, :window, :window, :window]
            index = index.reshape(window**2, window**2)
        return table[index].permute(2, 0, 1).contiguous()


class BicubicOffsets(ElasticWindowMSA):
    """New offsets of larger windows start from the known table, resized."""

    slots = (*HEADS, OffsetSlot('relative_position_bias_table', 0, 'window', start='bicubic'))


class InitialOffsets(ElasticWindowMSA):
    """New offsets of larger windows stay as they were drawn."""

    slots = (*HEADS, OffsetSlot('relative_position_bias_table', 0, 'window', start='initial'))


NEW_OFFSETS = dict(nearest=ElasticWindowMSA, bicubic=BicubicOffsets, initial=InitialOffsets)


def _rename_old_keys(state_dict: dict[str, Tensor], prefix: str, *_: Any, last: int) -> None:
    """Weights of mmpretrain's first versions: one ``norm``, and masks among the buffers."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith('norm.'):
            state_dict[f'{prefix}norm{last}.{name.removeprefix("norm.")}'] = state_dict.pop(key)
        elif name.endswith('attn_mask'):
            del state_dict[key]
