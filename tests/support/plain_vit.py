# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A ViT written plainly, of any size: what law 2 compares a training stage with.

It shares no code with the elastic backbone and none with mmpretrain: separate q, k, v, attention
spelled out, tokens picked by index.
"""

import torch
from torch import nn

from .crop import kept_tokens, scaled, scaled_map


class Attention(nn.Module):
    def __init__(self, width, heads, head_dims, bias):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, heads * head_dims, bias=bias) for _ in range(3))
        self.out = nn.Linear(heads * head_dims, width)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads, head_dims, hidden, bias):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, head_dims, bias)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale1 = self.scale2 = 1.0

    def forward(self, x):
        x = x + self.scale1 * self.attention(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class PlainViT(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        weights = backbone.state_dict()
        width, patch = backbone.embed_dims, backbone.patch_embed.projection.kernel_size[0]
        head_dims = width // backbone.layers[0].attn.num_heads
        self.grid, self.full_grid = stage.grid, backbone.patch_resolution
        self.is_scaled = stage.view == 'scale'
        full_grid = self.grid if self.is_scaled else self.full_grid
        self.keep = kept_tokens(self.grid, full_grid)
        self.out_type = backbone.out_type
        self.patch = nn.Conv2d(3, width, patch, patch)
        self._put(self.patch, weights, 'patch_embed.projection')
        self.pre_norm = nn.Identity()
        if 'pre_norm.weight' in weights:
            self.pre_norm = nn.LayerNorm(width, eps=1e-6)
            self._put(self.pre_norm, weights, 'pre_norm')
        extra = int(backbone.cls_token is not None)
        self.cls_token = weights['cls_token'] if extra else None
        pos = weights['pos_embed']
        if pos.shape[1] == self.full_grid[0] * self.full_grid[1]:  # the class token of DeiT III
            pos = torch.cat([pos.new_zeros(1, extra, width), pos], dim=1)
        if self.is_scaled:
            tokens = scaled_map(pos[0, extra:], self.full_grid, self.grid)
            pos = torch.cat([pos[:, :extra], tokens[None]], dim=1)
        self.pos = torch.cat([pos[:, :extra], pos[:, [extra + i for i in self.keep]]], dim=1)

        blocks = []
        for i, layer in enumerate(backbone.layers):
            bias = layer.attn.qkv.bias is not None
            block = Block(width, stage.heads, head_dims, stage.hidden, bias)
            name, used = f'layers.{i}.', stage.heads * head_dims
            self._put(block.norm1, weights, name + 'ln1')
            self._put(block.norm2, weights, name + 'ln2')
            for j, part in enumerate((block.attention.q, block.attention.k, block.attention.v)):
                rows_of_part = slice(j * width, j * width + used)
                part.weight.data = weights[name + 'attn.qkv.weight'][rows_of_part].clone()
                if bias:
                    part.bias.data = weights[name + 'attn.qkv.bias'][rows_of_part].clone()
            block.attention.out.weight.data = weights[name + 'attn.proj.weight'][:, :used].clone()
            block.attention.out.bias.data = weights[name + 'attn.proj.bias'].clone()
            fc1, _, fc2 = block.mlp
            ffn = name + 'ffn.layers.'
            fc1.weight.data = weights[ffn + '0.0.weight'][: stage.hidden].clone()
            fc1.bias.data = weights[ffn + '0.0.bias'][: stage.hidden].clone()
            fc2.weight.data = weights[ffn + '1.weight'][:, : stage.hidden].clone()
            fc2.bias.data = weights[ffn + '1.bias'].clone()
            if name + 'attn.gamma1.weight' in weights:
                block.scale1 = weights[name + 'attn.gamma1.weight']
                block.scale2 = weights[name + 'ffn.gamma2.weight']
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self._put(self.norm, weights, 'ln1')
        if self.out_type == 'avg_featmap':
            self._put(self.norm2, weights, 'ln2')

    @staticmethod
    def _put(module, weights, name):
        module.weight.data = weights[name + '.weight'].clone()
        if name + '.bias' in weights:
            module.bias.data = weights[name + '.bias'].clone()
        else:
            module.bias = None

    def forward(self, images):
        if self.is_scaled:
            images = scaled(images, self.grid, self.full_grid)
        x = self.patch(images).flatten(2).transpose(1, 2)[:, self.keep]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.pre_norm(x + self.pos)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.out_type == 'cls_token':
            return x[:, 0]
        if self.out_type == 'raw':
            return x
        x = x[:, int(self.cls_token is not None) :]
        if self.out_type == 'avg_featmap':
            return self.norm2(x.mean(1))
        return x.transpose(1, 2).unflatten(2, self.grid)
