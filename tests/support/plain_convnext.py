# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's ConvNeXt with blocks of fewer hidden units: what law 2 compares a stage with.

Its class gives all blocks four times their width; the class of its blocks takes any ratio. So every
layer here is mmpretrain's own, of the stage's size, with weights cut out of the backbone's.
"""

from mmpretrain.models.backbones import ConvNeXt
from mmpretrain.models.backbones.convnext import ConvNeXtBlock
from torch import nn

from .crop import cut_map, scaled


class PlainConvNeXt(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        first = backbone.stages[0][0]
        self.network = ConvNeXt(
            arch=dict(depths=backbone.depths, channels=backbone.channels),
            stem_patch_size=backbone.downsample_layers[0][0].stride[0],
            linear_pw_conv=first.linear_pw_conv,
            use_grn=first.grn is not None,
            layer_scale_init_value=0.0 if first.gamma is None else 1.0,
            out_indices=[len(backbone.depths) - 1],
            gap_before_final_norm=backbone.gap_before_final_norm,
        )
        for level, width, hidden in zip(self.network.stages, backbone.channels, stage.hidden):
            for j in range(len(level)):
                level[j] = ConvNeXtBlock(
                    width,
                    mlp_ratio=(hidden + 0.5) / width,  # which is rounded down
                    linear_pw_conv=first.linear_pw_conv,
                    use_grn=first.grn is not None,
                    layer_scale_init_value=0.0 if first.gamma is None else 1.0,
                )
        weights = backbone.state_dict()
        for name, small in self.network.state_dict().items():
            small.copy_(weights[name][tuple(slice(n) for n in small.shape)])
        self.stage, self.full_grid = stage, backbone.training_stages[-1].grid
        if stage.view == 'crop':
            stem = self.network.downsample_layers[0]
            stem.register_forward_hook(lambda module, args, out: cut_map(out, stage.grid))

    def forward(self, images):
        if self.stage.view == 'scale':
            images = scaled(images, self.stage.grid, self.full_grid)
        return self.network(images)[-1]
