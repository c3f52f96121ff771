# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A T2T-ViT with plain layers of any size: what law 2 compares a training stage with.

What makes the tokens is a copy of the backbone's own, which no stage changes; the rest shares no
code with the elastic backbone and none with mmpretrain.
"""

import copy

import torch
from torch import nn

from .crop import kept_tokens, scaled, scaled_map
from .plain_vit import Block


class PlainT2TViT(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        weights, whole = backbone.state_dict(), backbone.training_stages[-1]
        self.stem = copy.deepcopy(backbone.tokens_to_token)
        self.grid, self.full_grid = stage.grid, whole.grid
        self.is_scaled, self.out_type = stage.view == 'scale', backbone.out_type
        width = weights['cls_token'].shape[2]
        dims = width // whole.heads
        self.keep = kept_tokens(self.grid, self.grid if self.is_scaled else self.full_grid)
        pos = weights['pos_embed'][0, 1:]
        pos = scaled_map(pos, self.full_grid, self.grid) if self.is_scaled else pos[self.keep]
        self.pos = torch.cat([weights['pos_embed'][:, :1], pos[None]], dim=1)
        self.cls_token = weights['cls_token']
        self.blocks, self.norm = nn.ModuleList(), nn.LayerNorm(width)
        self.norm.load_state_dict({n: weights[f'norm.{n}'] for n in ('weight', 'bias')})
        for i in range(len(backbone.encoder)):
            w = {n.split('.', 2)[2]: v for n, v in weights.items() if n.startswith(f'encoder.{i}.')}
            bias = 'attn.qkv.bias' in w
            block = Block(width, stage.heads, dims, stage.hidden, bias=bias)
            for norm, name in ((block.norm1, 'ln1'), (block.norm2, 'ln2')):
                norm.load_state_dict({n: w[f'{name}.{n}'] for n in ('weight', 'bias')})
                norm.eps = 1e-5
            attention, (fc1, _, fc2) = block.attention, block.mlp
            used = stage.heads * dims
            for j, part in enumerate((attention.q, attention.k, attention.v)):
                rows = slice(j * width, j * width + used)
                part.weight.data = w['attn.qkv.weight'][rows]
                if bias:
                    part.bias.data = w['attn.qkv.bias'][rows]
            attention.out.weight.data = w['attn.proj.weight'][:, :used]
            attention.out.bias.data = w['attn.proj.bias']
            fc1.weight.data = w['ffn.layers.0.0.weight'][: stage.hidden]
            fc1.bias.data = w['ffn.layers.0.0.bias'][: stage.hidden]
            fc2.weight.data = w['ffn.layers.1.weight'][:, : stage.hidden]
            fc2.bias.data = w['ffn.layers.1.bias']
            self.blocks.append(block)

    def forward(self, images):
        if self.is_scaled:
            images = scaled(images, self.grid, self.full_grid)
        x = self.stem(images)[0][:, self.keep]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.out_type == 'cls_token':
            return x[:, 0]
        return x[:, 1:].transpose(1, 2).unflatten(2, self.grid)
