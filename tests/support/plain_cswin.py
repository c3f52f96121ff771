# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A CSWin written plainly, of any size: what law 2 compares a training stage with.

It shares no code with the elastic backbone: every layer is built at the stage's own size from
weights cut out of the backbone's state dict, and each stripe and each head is computed by itself.
"""

import torch
from torch import nn

from .crop import kept_tokens, scaled


def cut(weights, name, rows=None, columns=None):
    """A parameter's entries of some rows and columns."""
    value = weights[name]
    value = value if rows is None else value[rows]
    return nn.Parameter((value if columns is None else value[:, columns]).clone())


def linear(weights, name, rows=None, columns=None):
    weight = cut(weights, f'{name}.weight', rows, columns)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = weight, cut(weights, f'{name}.bias', rows)
    return layer


def conv(weights, name, rows=None, **kwargs):
    weight = cut(weights, f'{name}.weight', rows)
    channels = weight.shape[1] * kwargs.get('groups', 1)
    layer = nn.Conv2d(channels, weight.shape[0], weight.shape[2:], **kwargs)
    layer.weight, layer.bias = weight, cut(weights, f'{name}.bias', rows)
    return layer


def norm(weights, name):
    layer = nn.LayerNorm(len(weights[f'{name}.weight']))
    layer.weight, layer.bias = cut(weights, f'{name}.weight'), cut(weights, f'{name}.bias')
    return layer


class Head(nn.Module):
    """One head, within stripes of ``window`` columns, or of the whole map if that is None."""

    def __init__(self, weights, name, first, dims, lepe, lepe_first, window):
        super().__init__()
        width = weights[f'{name}.proj.weight'].shape[0]
        self.q, self.k, self.v = (
            linear(weights, f'{name}.qkv', [part * width + first + i for i in range(dims)])
            for part in range(3)
        )
        own = list(range(lepe_first, lepe_first + dims))
        self.position = conv(weights, f'{name}.lepe.{lepe}', own, padding=1, groups=dims)
        self.window = window

    def forward(self, x):
        """(B, rows, columns, C) to (B, rows, columns, dims)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        columns, window = x.shape[2], self.window or x.shape[2]
        missing = -(columns // -window) * window - columns
        before, after = missing // 2, missing - missing // 2

        def padded(values):
            zeros = values.new_zeros(*values.shape[:2], 1, values.shape[3])
            return torch.cat([zeros] * before + [values] + [zeros] * after, dim=2)

        q, k, v = padded(q), padded(k), padded(v)
        stripes = []
        for left in range(0, columns + missing, window):
            cut_q, cut_k, cut_v = (each[:, :, left : left + window] for each in (q, k, v))
            flat_q, flat_k, flat_v = (each.flatten(1, 2) for each in (cut_q, cut_k, cut_v))
            weights = (flat_q @ flat_k.transpose(1, 2) / flat_q.shape[-1] ** 0.5).softmax(-1)
            out = (weights @ flat_v).view_as(cut_v)
            stripes.append(out + self.position(cut_v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return torch.cat(stripes, dim=2)[:, :, before : before + columns]


class Turned(nn.Module):
    """A head whose stripes are horizontal: the map is turned, and its kernel with it."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        kernel = head.position.weight
        head.position.weight = nn.Parameter(kernel.detach().transpose(2, 3).contiguous())

    def forward(self, x):
        return self.head(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, weights, name, heads, dims, window):
        super().__init__()
        width = weights[f'{name}.proj.weight'].shape[0]
        self.heads, used = nn.ModuleList(), []
        branches = 1 if window is None else 2
        for branch in range(branches):
            for i in range(heads // branches):
                first = branch * width // 2 + i * dims
                head = Head(weights, name, first, dims, branch, i * dims, window)
                self.heads.append(Turned(head) if branch else head)
                used += range(first, first + dims)
        self.out = linear(weights, f'{name}.proj', columns=used)

    def forward(self, x):
        return self.out(torch.cat([head(x) for head in self.heads], dim=-1))


class Block(nn.Module):
    def __init__(self, weights, name, heads, dims, hidden, window):
        super().__init__()
        self.norm1, self.norm2 = norm(weights, f'{name}.norm1'), norm(weights, f'{name}.norm2')
        self.attention = Attention(weights, f'{name}.attn', heads, dims, window)
        first = linear(weights, f'{name}.mlp.fc1', range(hidden))
        second = linear(weights, f'{name}.mlp.fc2', columns=range(hidden))
        self.mlp = nn.Sequential(first, nn.GELU(), second)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Level(nn.Module):
    def __init__(self, weights, name, stride, padding, blocks):
        super().__init__()
        self.patch = conv(weights, f'{name}.embed.proj', stride=stride, padding=padding)
        self.patch_norm = norm(weights, f'{name}.embed.norm')
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(weights, f'{name}.norm') if f'{name}.norm.weight' in weights else None


class PlainCSWin(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        weights = {name: value.detach() for name, value in backbone.state_dict().items()}
        self.grid, whole = tuple(stage.grid), backbone.training_stages[-1]
        self.full_grid = tuple(whole.grid)
        self.is_scaled = stage.view == 'scale'
        last = len(backbone.levels) - 1
        windows = stage.window if isinstance(stage.window, tuple) else [stage.window] * (last + 1)
        self.levels = nn.ModuleList()
        for i, level in enumerate(backbone.levels):
            blocks = [
                Block(
                    weights,
                    f'levels.{i}.blocks.{j}',
                    stage.heads[i],
                    backbone.embed_dims[i] // whole.heads[i],
                    stage.hidden[i],
                    None if i == last else windows[i],
                )
                for j in range(len(level.blocks))
            ]
            proj = level.embed.proj
            self.levels.append(Level(weights, f'levels.{i}', proj.stride, proj.padding, blocks))

    def maps(self, images):
        """The normed maps of the levels that have a norm."""
        x, maps = images, []
        if self.is_scaled:
            x = scaled(images, self.grid, self.full_grid)
        for i, level in enumerate(self.levels):
            x = level.patch(x)
            x = level.patch_norm(x.permute(0, 2, 3, 1))
            if i == 0 and self.grid != self.full_grid and not self.is_scaled:
                keep = kept_tokens(self.grid, self.full_grid)
                assert tuple(x.shape[1:3]) == self.full_grid
                x = x.flatten(1, 2)[:, torch.tensor(keep, device=x.device)].unflatten(1, self.grid)
            for block in level.blocks:
                x = block(x)
            if level.norm is not None:
                maps.append(level.norm(x).permute(0, 3, 1, 2))
            x = x.permute(0, 3, 1, 2)
        return maps

    def forward(self, images):
        return self.maps(images)[-1]
