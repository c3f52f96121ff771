# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The PoolFormer family: mmpretrain's ``PoolFormer``, elastic."""

from collections.abc import Iterator
from typing import Any, ClassVar

from mmcv.cnn.bricks import DropPath
from mmpretrain.models.backbones import PoolFormer
from mmpretrain.models.backbones.poolformer import Mlp, PatchEmbed, PoolFormerBlock
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn

from .. import flops
from ..elastic import ElasticBackbone, center_crop_map
from ..elastic_modules import ElasticModule, Units, UnitSlot, elasticize_
from ..registry import MODELS
from ..training_stages import StagesSpec, TrainingStage


@MODELS.register_module()
class ElasticPoolFormer(ElasticBackbone, PoolFormer):
    """mmpretrain's ``PoolFormer`` [1] with training stages.

    It mixes tokens by pooling, so it has no heads: a training stage computes with the first
    ``hidden`` units of every MLP of a level, and the central ``grid`` of the patch tokens of the
    first level, from which those of the others follow; with ``view='scale'``, with the patch tokens
    of the whole image scaled down to that ``grid``. Widths and depths stay. Parameters have
    mmpretrain's names and shapes at every stage; at the last stage, and without
    ``training_stages``, it is mmpretrain's network in every respect.

    Its norms are over all tokens of a map, so fewer tokens have other means and variances.

    ``frozen_stages`` is -1 if it is not given: nothing is frozen. mmpretrain's own 0 freezes the
    patch embedding, as it was drawn, though its docstring says that 0 freezes nothing.

    timm's PoolFormer is another function: it pools before the last norm, this one after it. So
    ``tools/publish.py --timm`` refuses it.

    Args:
        img_size: Side, or height and width, of the images in pixels. It says what is planned for;
            the network takes images of any size, cropped, or scaled, to the same share.
        training_stages: A number of stages, or what is active in each, for example
            ``[dict(hidden=(64, 128, 320, 512), grid=40), dict(hidden=(128, 256, 640, 1024),
            grid=48), dict()]`` for S12, which are also those of ``training_stages=3``; see
            ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether hidden units have gates, which ``bvit_mm.SlimHook`` trains.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many hidden
            units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``PoolFormer``.

    Raises:
        ValueError: If the training stages do not fit the network, or parts of it are frozen.

    [1] Yu et al., MetaFormer is Actually What You Need for Vision, 2022.
    """

    plain_type = 'PoolFormer'

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
        super().__init__(*args, **{'frozen_stages': -1, **kwargs})
        self.img_size = to_2tuple(img_size)
        for block in self._blocks():
            block.mlp.hidden = block.mlp.fc1.out_channels
            elasticize_(block.mlp, ElasticMlp)
            if isinstance(block.drop_path, nn.Identity):  # so that a recipe may set its rate
                block.drop_path = DropPath(0.0)
        whole = TrainingStage(
            hidden=tuple(part[0].mlp.hidden for part in self.network if _is_level(part)),
            grid=self.patch_grid(self.img_size),
            view='whole',
        )
        self.init_training_stages(training_stages, whole)
        if self.num_training_stages > 1 and self.frozen_stages >= 0:
            raise ValueError(
                f'training_stages train every part, but frozen_stages={self.frozen_stages} freezes '
                'the patch embedding, and so many parts after it; give frozen_stages=-1, or train '
                'the whole network only (training_stages=None)'
            )
        self.take_form_(only_stage, gates, widths)

    def _blocks(self) -> Iterator[PoolFormerBlock]:
        for part in self.network:
            if _is_level(part):
                yield from part

    def new_in_transfer(self) -> set[str]:
        """Norms: a classifier has that of the last level, this network those of ``out_indices``."""
        parts = set(self.out_indices) ^ {len(self.network) - 1}
        return {f'norm{i}.{name}' for i in parts for name in ('weight', 'bias')}

    def units(self, k: int) -> Units:
        hidden = iter(self.training_stages[k].hidden)
        for part in filter(_is_level, self.network):
            active = next(hidden)
            for block in part:
                yield block.mlp, 'hidden', active

    def forward_embeddings(self, x: Tensor) -> Tensor:
        x = super().forward_embeddings(self.seen(x))
        if self.view(self.training_stage) == 'crop':
            rows, columns = x.shape[-2:]
            whole = self.grid_of_all((rows, columns))
            x = center_crop_map(x, self.active_grid(whole, self.training_stage))
        return x

    def patch_conv(self) -> nn.Conv2d:
        return self.patch_embed.proj

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        self._check_training_stage(k)
        size = self.img_size if input_size is None else to_2tuple(input_size)
        patches = self.patch_grid(size)
        grid = self.active_grid(patches, k)
        total = flops.conv(self.patch_conv(), grid if self.view(k) == 'scale' else patches)
        active = {module: n for module, _, n in self.active_units(k)}
        width = self.patch_conv().out_channels
        for i, part in enumerate(self.network):
            if _is_level(part):
                tokens = grid[0] * grid[1]
                for block in part:
                    total += 2 * flops.norm(tokens, width)
                    total += flops.mlp(tokens, width, active[block.mlp])
            else:
                grid, width = flops.conv_grid(part.proj, grid), part.proj.out_channels
                total += flops.conv(part.proj, grid)
            if i in self.out_indices:
                total += flops.norm(grid[0] * grid[1], width)
        return total


def _is_level(part: nn.Module) -> bool:
    """Whether a part of the network is the blocks of a level, as opposed to what comes between."""
    return not isinstance(part, PatchEmbed)


class ElasticMlp(ElasticModule, Mlp):
    """mmpretrain's MLP of 1 x 1 convolutions with its first hidden units active.

    Attributes:
        hidden: The number of all hidden units.
    """

    slots = (
        UnitSlot('fc1.weight', 0, 'hidden'),
        UnitSlot('fc1.bias', 0, 'hidden'),
        UnitSlot('fc2.weight', 1, 'hidden', out=True),
    )
    axes: ClassVar = dict(hidden='hidden')
    hidden: int

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.active_linear('fc1', x)))
        return self.drop(self.active_linear('fc2', x))
