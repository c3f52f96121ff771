# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's PoolFormer with MLPs of fewer hidden units: what law 2 compares a stage with.

Every layer is mmpretrain's own, of the stage's size, with weights cut out of the backbone's.
"""

from mmpretrain.models.backbones import PoolFormer
from torch import nn

from .crop import cut_map, scaled


class PlainPoolFormer(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        levels = backbone.network[::2]
        widths = [len(level[0].layer_scale_1) for level in levels]
        patches = backbone.patch_embed.proj
        self.network = PoolFormer(
            arch=dict(
                layers=[len(level) for level in levels],
                embed_dims=widths,
                mlp_ratios=[(h + 0.5) / w for h, w in zip(stage.hidden, widths)],  # rounded down
            ),
            in_patch_size=patches.kernel_size,
            in_stride=patches.stride,
            in_pad=patches.padding,
            out_indices=[len(backbone.network) - 1],
        )
        weights = backbone.state_dict()
        for name, small in self.network.state_dict().items():
            small.copy_(weights[name][tuple(slice(n) for n in small.shape)])
        self.stage, self.full_grid = stage, backbone.training_stages[-1].grid
        if stage.view == 'crop':
            embed = self.network.patch_embed
            embed.register_forward_hook(lambda module, args, out: cut_map(out, stage.grid))

    def forward(self, images):
        if self.stage.view == 'scale':
            images = scaled(images, self.stage.grid, self.full_grid)
        return self.network(images)[-1]
