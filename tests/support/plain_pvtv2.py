# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A PVTv2 written plainly, of any size: what law 2 compares a training stage with.

It shares no code with the elastic backbone: every layer is built at the stage's own size from
weights cut out of the backbone's state dict, with separate q, k, v, attention spelled out and
tokens picked by index.
"""

import torch
from torch import nn

from .crop import kept_tokens, scaled


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def conv(weight, bias, **kwargs):
    groups = kwargs.get('groups', 1)
    layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], weight.shape[2:], **kwargs)
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer


def norm(weights, name, eps):
    layer = nn.LayerNorm(len(weights[name + '.weight']), eps=eps)
    layer.weight = nn.Parameter(weights[name + '.weight'].clone())
    layer.bias = nn.Parameter(weights[name + '.bias'].clone())
    return layer


def to_map(tokens, size):
    """(B, rows * columns, C) to (B, C, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def to_tokens(features):
    """(B, C, rows, columns) to (B, rows * columns, C)."""
    return features.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, weights, name, heads, full_heads, sr_ratio, is_linear):
        super().__init__()
        self.heads = heads
        width = len(weights[name + 'q.weight'])
        used = heads * (width // full_heads)
        for part, layer, first in (('q', 'q', 0), ('k', 'kv', 0), ('v', 'kv', width)):
            bias = weights.get(name + layer + '.bias')
            cut = linear(
                weights[name + layer + '.weight'][first : first + used],
                None if bias is None else bias[first : first + used],
            )
            setattr(self, part, cut)
        self.out = linear(weights[name + 'proj.weight'][:, :used], weights[name + 'proj.bias'])
        self.pool, self.reduce, self.norm, self.act = None, None, None, None
        if is_linear or sr_ratio > 1:
            self.reduce = conv(
                weights[name + 'sr.weight'],
                weights[name + 'sr.bias'],
                stride=1 if is_linear else sr_ratio,
            )
            self.norm = norm(weights, name + 'norm', 1e-5)
        if is_linear:
            self.pool, self.act = nn.AdaptiveAvgPool2d((7, 7)), nn.GELU()

    def forward(self, x, size):
        keys = x
        if self.reduce is not None:
            keys = to_map(x, size)
            if self.pool is not None:
                keys = self.pool(keys)
            keys = self.norm(to_tokens(self.reduce(keys)))
            if self.act is not None:
                keys = self.act(keys)
        q, k, v = (
            tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens in (self.q(x), self.k(keys), self.v(keys))
        )
        attention = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, weights, name, hidden, is_linear):
        super().__init__()
        self.fc1 = linear(
            weights[name + 'fc1.weight'][:hidden], weights[name + 'fc1.bias'][:hidden]
        )
        self.relu = nn.ReLU() if is_linear else nn.Identity()
        self.depthwise = conv(
            weights[name + 'dwconv.weight'][:hidden],
            weights[name + 'dwconv.bias'][:hidden],
            padding=1,
            groups=hidden,
        )
        self.gelu = nn.GELU()
        self.fc2 = linear(weights[name + 'fc2.weight'][:, :hidden], weights[name + 'fc2.bias'])

    def forward(self, x, size):
        x = self.relu(self.fc1(x))
        x = to_tokens(self.depthwise(to_map(x, size)))
        return self.fc2(self.gelu(x))


class Block(nn.Module):
    def __init__(self, weights, name, heads, hidden, full_heads, sr_ratio, is_linear):
        super().__init__()
        self.norm1 = norm(weights, name + 'norm1', 1e-6)
        self.norm2 = norm(weights, name + 'norm2', 1e-6)
        self.attention = Attention(weights, name + 'attn.', heads, full_heads, sr_ratio, is_linear)
        self.mlp = Mlp(weights, name + 'mlp.', hidden, is_linear)

    def forward(self, x, size):
        x = x + self.attention(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class Level(nn.Module):
    def __init__(self, weights, name, stride, blocks):
        super().__init__()
        kernel = weights[name + 'patch_embed.proj.weight']
        self.patch = conv(
            kernel,
            weights[name + 'patch_embed.proj.bias'],
            stride=stride,
            padding=(kernel.shape[2] // 2, kernel.shape[3] // 2),
        )
        self.patch_norm = norm(weights, name + 'patch_embed.norm', 1e-5)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(weights, name + 'norm', 1e-6)


class PlainPVTv2(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        weights = {name: value.detach() for name, value in backbone.state_dict().items()}
        self.grid = tuple(stage.grid)
        self.full_grid = tuple(backbone.training_stages[-1].grid)
        self.is_scaled = stage.view == 'scale'
        self.patches = self.grid if self.is_scaled else self.full_grid
        self.keep = kept_tokens(self.grid, self.patches)
        levels = []
        for i, level in enumerate(backbone.levels):
            attn = level.blocks[0].attn
            blocks = [
                Block(
                    weights,
                    f'levels.{i}.blocks.{j}.',
                    stage.heads[i],
                    stage.hidden[i],
                    attn.num_heads,
                    attn.sr_ratio,
                    attn.linear,
                )
                for j in range(len(level.blocks))
            ]
            levels.append(Level(weights, f'levels.{i}.', level.patch_embed.proj.stride, blocks))
        self.levels = nn.ModuleList(levels)

    def forward(self, images):
        features = images
        if self.is_scaled:
            features = scaled(images, self.grid, self.full_grid)
        for i, level in enumerate(self.levels):
            features = level.patch(features)
            size = tuple(features.shape[2:])
            x = level.patch_norm(to_tokens(features))
            if i == 0:
                assert size == self.patches, f'{size} patches, not {self.patches}'
                x, size = x[:, torch.tensor(self.keep, device=x.device)], self.grid
            for block in level.blocks:
                x = block(x, size)
            features = to_map(level.norm(x), size)
        return features
