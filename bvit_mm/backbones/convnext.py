# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The ConvNeXt family, V1 and V2: mmpretrain's ``ConvNeXt``, elastic."""

from typing import Any, ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from mmpretrain.models.backbones import ConvNeXt
from mmpretrain.models.backbones.convnext import ConvNeXtBlock
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import flops
from ..elastic import ElasticBackbone, center_crop_map
from ..elastic_modules import ElasticModule, Units, UnitSlot, elasticize_
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage


@MODELS.register_module()
class ElasticConvNeXt(ElasticBackbone, ConvNeXt):
    """mmpretrain's ``ConvNeXt``, V1 [1] and V2 [2], with training stages.

    The paper grows transformers. This network has no heads: a training stage computes with the
    first ``hidden`` units of every MLP of a level, and the central ``grid`` of the tokens that the
    stem makes, from which those of the other levels follow; with ``view='scale'``, with the tokens
    of the whole image scaled down to that ``grid``. Widths, depths and depthwise convolutions stay.
    Parameters have mmpretrain's names and shapes at every stage; at the last stage, and without
    ``training_stages``, it is mmpretrain's network in every respect.

    Between levels every 2 x 2 tokens become one. Of a map with an odd side the last row or column
    is left out there, as in the plain class; a grid of a multiple of 8 has none, in four levels.

    The response normalization of V2 divides by a mean over the active units. So growth with
    ``init='half'`` leaves the function as it was only to a whole multiple of the units there were.

    Args:
        img_size: Side, or height and width, of the images in pixels. It says what is planned for;
            the network takes images of any size, cropped, or scaled, to the same share.
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(hidden=(96, 192, 384, 768), grid=40), dict(hidden=(192, 384, 768, 1536),
            grid=48), dict()]`` for ConvNeXt-T and ConvNeXt-S, which are also those of
            ``training_stages=3``; see ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many hidden
            units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``ConvNeXt``.

    Raises:
        ValueError: If the training stages do not fit the network, or levels are frozen.

    [1] Liu et al., A ConvNet for the 2020s, 2022.
    [2] Woo et al., ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders, 2023.
    """

    plain_type = 'ConvNeXt'
    timm_names = (
        (r'backbone\.downsample_layers\.0\.', 'stem.'),
        (r'backbone\.downsample_layers\.(\d+)\.', r'stages.\1.downsample.'),
        *(
            (rf'backbone\.stages\.(\d+)\.(\d+)\.{ours}', rf'stages.\1.blocks.\2.{theirs}')
            for ours, theirs in (
                (r'depthwise_conv\.', 'conv_dw.'),
                (r'pointwise_conv(\d)\.', r'mlp.fc\3.'),
                (r'grn\.gamma', 'mlp.grn.weight'),
                (r'grn\.beta', 'mlp.grn.bias'),
                (r'(norm\.|gamma)', r'\3'),
            )
        ),
        (r'backbone\.norm\d\.', 'head.norm.'),
        (r'head\.fc\.', 'head.fc.'),
    )

    def __init__(
        self,
        *args,
        img_size: int | tuple[int, int] = 224,
        training_stages: StagesSpec = None,
        only_stage: int | None = None,
        gates: bool = False,
        widths: dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.img_size = to_2tuple(img_size)
        for level in self.stages:
            for block in level:
                block.hidden = len(block.pointwise_conv1.weight)
                elasticize_(block, ElasticConvNeXtBlock)
                if isinstance(block.drop_path, nn.Identity):  # so that a recipe may set its rate
                    block.drop_path = DropPath(0.0)
        whole = TrainingStage(
            hidden=tuple(level[0].hidden for level in self.stages),
            grid=self.patch_grid(self.img_size),
            view='whole',
        )
        self.init_training_stages(training_stages, whole)
        self._check_grids()
        if self.num_training_stages > 1 and self.frozen_stages > 0:
            raise ValueError(
                f'training_stages grow every level, but frozen_stages={self.frozen_stages} freezes '
                'weights that growing would write to; drop that, or train the whole network only '
                '(training_stages=None)'
            )
        self.take_form_(only_stage, gates, widths)

    def check_gates(self) -> None:
        if any(block.grn is not None for level in self.stages for block in level):
            raise ValueError(
                'gates=True of ElasticConvNeXt is not possible with use_grn=True: its response '
                'norm compares every hidden unit with all others, so a network without some of '
                'them is another one than with their gates at 0; drop gates, or use_grn'
            )

    def _check_grids(self) -> None:
        for k, stage in enumerate(self.training_stages, start=1):
            place, advice = f'training stage {k}: grid={stage.grid}', 'a larger grid'
            if k == self.num_training_stages:
                place, advice = f'img_size={self.img_size} of ElasticConvNeXt', 'larger images'
            for i, grid in enumerate(self._level_grids(stage.grid)):
                if min(grid) < 1:
                    raise ValueError(
                        f'{place} leaves no tokens at level {i + 1}; give {advice}, at least '
                        f'{2 ** (len(self.stages) - 1)} tokens a side at level 1'
                    )

    def new_in_transfer(self) -> set[str]:
        """Norms: a classifier has that of the last level, this network those of ``out_indices``."""
        levels = set(self.out_indices) ^ {len(self.stages) - 1}
        return {f'norm{i}.{name}' for i in levels for name in ('weight', 'bias')}

    def units(self, k: int) -> Units:
        for level, hidden in zip(self.stages, self.training_stages[k].hidden):
            for block in level:
                yield block, 'hidden', hidden

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.downsample_layers[0](self.seen(x))
        if self.view(self.training_stage) == 'crop':
            rows, columns = x.shape[-2:]
            whole = self.grid_of_all((rows, columns))
            x = center_crop_map(x, self.active_grid(whole, self.training_stage))
        outs = []
        for i, level in enumerate(self.stages):
            if i > 0:
                x = self.downsample_layers[i](x)
            x = level(x)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                if self.gap_before_final_norm:
                    outs.append(norm(x.mean([-2, -1], keepdim=True)).flatten(1))
                else:
                    outs.append(norm(x))
        return tuple(outs)

    def patch_conv(self) -> nn.Conv2d:
        return self.downsample_layers[0][0]

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else to_2tuple(input_size)
        patches = self.patch_grid(size)
        grids = self._level_grids(self.active_grid(patches, k))
        if self.view(k) == 'scale':
            patches = grids[0]
        total = flops.conv(self.patch_conv(), patches)
        total += flops.norm(patches[0] * patches[1], self.channels[0])
        active = {module: n for module, _, n in self.active_units(k)}
        for i, level in enumerate(self.stages):
            tokens, width = grids[i][0] * grids[i][1], self.channels[i]
            if i > 0:
                norm, conv = self.downsample_layers[i]
                total += flops.norm(grids[i - 1][0] * grids[i - 1][1], norm.num_channels)
                total += flops.conv(conv, grids[i])
            for block in level:
                total += flops.conv(block.depthwise_conv, grids[i])
                total += flops.norm(tokens, width) + flops.mlp(tokens, width, active[block])
            if i in self.out_indices:
                total += flops.norm(1 if self.gap_before_final_norm else tokens, width)
        return total

    def _level_grids(self, first: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of tokens of every level, from those of the first."""
        grids = [first]
        for _, conv in self.downsample_layers[1:]:
            grids.append(flops.conv_grid(conv, grids[-1]))
        return grids


class ElasticConvNeXtBlock(ElasticModule, ConvNeXtBlock):
    """mmpretrain's block with the first hidden units of its MLP active.

    Attributes:
        hidden: The number of all hidden units.
    """

    slots = (
        UnitSlot('pointwise_conv1.weight', 0, 'hidden'),
        UnitSlot('pointwise_conv1.bias', 0, 'hidden'),
        UnitSlot('grn.gamma', 0, 'hidden'),
        UnitSlot('grn.beta', 0, 'hidden'),
        UnitSlot('pointwise_conv2.weight', 1, 'hidden', out=True),
    )
    axes: ClassVar = dict(hidden='hidden')
    hidden: int

    def shrink_(self) -> None:
        super().shrink_()
        if self.grn is not None:
            self.grn.in_channels = self.hidden

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return checkpoint(self._computed, x, use_reentrant=False)
        return self._computed(x)

    def _computed(self, x: Tensor) -> Tensor:
        layout = 'channel_last' if self.linear_pw_conv else 'channel_first'
        out = self.depthwise_conv(x)
        if self.linear_pw_conv:
            out = out.permute(0, 2, 3, 1)
        out = self.norm(out, data_format=layout)
        out = self.act(self.active_linear('pointwise_conv1', out))
        if self.grn is not None:
            out = self._response_normalized(out)
        out = self.active_linear('pointwise_conv2', out)
        if self.linear_pw_conv:
            out = out.permute(0, 3, 1, 2)
        if self.gamma is not None:
            out = out * self.gamma.view(1, -1, 1, 1)
        return x + self.drop_path(out)

    def _response_normalized(self, x: Tensor) -> Tensor:
        """mmpretrain's ``GRN`` of the active units."""
        channels, places = (-1, (1, 2)) if self.linear_pw_conv else (1, (2, 3))
        shape = [1] * 4
        shape[channels] = -1
        gamma, beta = (
            self.active_parameter(f'grn.{name}').view(shape) for name in ('gamma', 'beta')
        )
        response = torch.linalg.vector_norm(x, dim=places, keepdim=True)
        share = response / (response.mean(dim=channels, keepdim=True) + self.grn.eps)
        return gamma * (x * share) + beta + x
