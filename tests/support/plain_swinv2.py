# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's Swin V2 built with the windows of a stage: what law 2 compares a stage with.

Every layer is mmpretrain's own. Its blocks take any number of hidden units and any window, whose
offsets it spaces by those of another (``pretrained_window_sizes``). It has no fewer heads of the
same width, so the heads that a stage leaves out are there, and the projection reads none of them.
"""

from mmpretrain.models.backbones import SwinTransformerV2
from torch import nn

from .crop import kept_tokens, scaled, scaled_map

BUFFERS = 'relative_coords_table', 'relative_position_index'


def of_levels(value, count):
    return list(value) if isinstance(value, tuple) else [value] * count


class PlainSwinV2(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's.

    ``pretrained`` is what the backbone was given as its ``pretrained_window_sizes``.
    """

    def __init__(self, backbone, stage, pretrained=None):
        super().__init__()
        self.stage, self.whole = stage, backbone.training_stages[-1]
        levels = len(backbone.stages)
        attn = backbone.stages[0].blocks[0].attn
        windows = of_levels(stage.window, levels)
        full = [level.blocks[0].attn.window_size for level in backbone.stages]
        spaced = list(pretrained or full)
        if stage.view == 'scale':  # as far as in the whole windows
            spaced = [1 + (p - 1) * (w - 1) / (n - 1) for p, w, n in zip(spaced, windows, full)]
        qkv_bias = attn.w_msa.q_bias is not None
        self.network = SwinTransformerV2(
            arch=backbone.arch_settings,
            patch_size=backbone.patch_embed.projection.stride[0],
            window_size=windows,
            pretrained_window_sizes=spaced,
            drop_path_rate=0.0,
            out_indices=(levels - 1,),
            pad_small_map=attn.pad_small_map,
            stage_cfgs=[
                dict(
                    block_cfgs=dict(
                        ffn_cfgs=dict(feedforward_channels=hidden),
                        attn_cfgs=dict(qkv_bias=qkv_bias),
                    ),
                )
                for hidden in stage.hidden
            ],
        )
        weights = backbone.state_dict()
        for name, small in self.network.state_dict().items():
            if not name.endswith(BUFFERS):
                small.copy_(weights[name][tuple(slice(n) for n in small.shape)])
        for level, heads in zip(self.network.stages, stage.heads):
            for block in level.blocks:
                proj, total = block.attn.w_msa.proj.weight, block.attn.w_msa.num_heads
                proj.data[:, heads * proj.shape[1] // total :] = 0
        self.pos = None
        if backbone.use_abs_pos_embed:
            self.pos = nn.Parameter(weights['absolute_pos_embed'][0].clone())
        self.network.patch_embed.register_forward_hook(self.seen_tokens)

    def seen_tokens(self, module, args, out):
        """The central ones, or all of a scaled image, with their positions."""
        tokens, grid = out
        pos = self.pos
        if self.stage.view == 'scale':
            pos = None if pos is None else scaled_map(pos, self.whole.grid, self.stage.grid)
        tokens = tokens if pos is None else tokens + pos
        if self.stage.view != 'scale':
            tokens, grid = tokens[:, kept_tokens(self.stage.grid, grid)], self.stage.grid
        return tokens, grid

    def forward(self, images):
        if self.stage.view == 'scale':
            images = scaled(images, self.stage.grid, self.whole.grid)
        return self.network(images)[-1]
