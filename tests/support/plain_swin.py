# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A Swin Transformer written plainly, of any size: what law 2 compares a training stage with.

It shares no code with the elastic backbone and none with mmpretrain: every layer is built at the
stage's own size from weights cut out of the backbone's state dict, with separate q, k, v, windows
gathered one by one with index lists, and the mask and the position bias written out token by token.
"""

import torch
from torch import nn

from .crop import kept_tokens, scaled, scaled_map


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def norm(weights, name):
    layer = nn.LayerNorm(len(weights[name + '.weight']), eps=1e-5)
    layer.weight = nn.Parameter(weights[name + '.weight'].clone())
    layer.bias = nn.Parameter(weights[name + '.bias'].clone())
    return layer


def pad(x, rows, columns):
    """Put a map (B, h, w, C) in the top left corner of a map of zeros."""
    padded = x.new_zeros(len(x), rows, columns, x.shape[3])
    padded[:, : x.shape[1], : x.shape[2]] = x
    return padded


class WindowAttention(nn.Module):
    """Attention inside one window; ``window`` may be smaller than the table's own."""

    def __init__(self, weights, name, heads, full_heads, window, full_window, is_scaled):
        super().__init__()
        self.heads = heads
        width = weights[name + 'proj.weight'].shape[0]
        used = heads * (width // full_heads)
        bias = weights.get(name + 'qkv.bias')
        for j, part in enumerate('qkv'):
            first = j * width
            cut = linear(
                weights[name + 'qkv.weight'][first : first + used],
                None if bias is None else bias[first : first + used],
            )
            setattr(self, part, cut)
        self.out = linear(weights[name + 'proj.weight'][:, :used], weights[name + 'proj.bias'])
        table = weights[name + 'relative_position_bias_table'][:, :heads]
        side = 2 * full_window - 1
        assert len(table) == side**2
        if is_scaled:
            table = scaled_map(table, (side, side), (2 * window - 1, 2 * window - 1))
            full_window, side = window, 2 * window - 1
        self.table = nn.Parameter(table.clone())
        tokens = [(y, x) for y in range(window) for x in range(window)]
        self.entries = []
        for y, x in tokens:
            offsets = [(y - key_y, x - key_x) for key_y, key_x in tokens]
            self.entries.append(
                [(dy + full_window - 1) * side + (dx + full_window - 1) for dy, dx in offsets]
            )

    def forward(self, x, mask):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        bias = self.table[torch.tensor(self.entries, device=x.device)]  # query, key, head
        logits = logits + bias.permute(2, 0, 1) + mask
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, weights, name, window, shift, pad_small_map, hidden, attention):
        super().__init__()
        self.window, self.shift, self.pad_small_map = window, shift, pad_small_map
        self.norm1, self.norm2 = norm(weights, name + 'norm1'), norm(weights, name + 'norm2')
        self.attention = attention
        fc1, fc2 = name + 'ffn.layers.0.0.', name + 'ffn.layers.1.'
        self.mlp = nn.Sequential(
            linear(weights[fc1 + 'weight'][:hidden], weights[fc1 + 'bias'][:hidden]),
            nn.GELU(),
            linear(weights[fc2 + 'weight'][:, :hidden], weights[fc2 + 'bias']),
        )

    def attend(self, x):
        height, width = x.shape[1:3]
        window, shift = self.window, self.shift
        if not self.pad_small_map:
            assert min(height, width) >= window, f'map {height}x{width}, window {window}'
            if min(height, width) == window:
                shift = 0
        rows, columns = -(-height // window) * window, -(-width // window) * window
        tokens = pad(x, rows, columns).flatten(1, 2)
        out = torch.zeros_like(tokens)
        for top in range(0, rows, window):
            for left in range(0, columns, window):
                # Places on the shifted map, what lay there before the shift, and from which part
                # of the map it came: over the bottom or right edge and round, or not.
                places = [(top + r, left + c) for r in range(window) for c in range(window)]
                sources = [((r + shift) % rows, (c + shift) % columns) for r, c in places]
                regions = [(r + shift >= rows, c + shift >= columns) for r, c in places]
                mask = [[0.0 if a == b else -100.0 for b in regions] for a in regions]
                index = torch.tensor([r * columns + c for r, c in sources], device=x.device)
                out[:, index] = self.attention(tokens[:, index], x.new_tensor(mask))
        return out.unflatten(1, (rows, columns))[:, :height, :width]

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Every 2x2 tokens to one; channel c of the four lies at 4c, 4c + 1, 4c + 2, 4c + 3."""

    def __init__(self, weights, name):
        super().__init__()
        self.norm = norm(weights, name + 'norm')
        self.reduction = linear(weights[name + 'reduction.weight'], None)

    def forward(self, x):
        height, width = x.shape[1:3]
        x = pad(x, height + height % 2, width + width % 2)
        four = [x[:, r::2, c::2] for r in (0, 1) for c in (0, 1)]
        return self.reduction(self.norm(torch.stack(four, dim=-1).flatten(3)))


class PlainSwin(nn.Module):
    """The network of one training stage, with weights cut out of an elastic backbone's."""

    def __init__(self, backbone, stage):
        super().__init__()
        weights = {name: value.detach() for name, value in backbone.state_dict().items()}
        self.grid = tuple(stage.grid)
        self.full_grid = tuple(backbone.training_stages[-1].grid)
        self.is_scaled = stage.view == 'scale'
        self.patches = self.grid if self.is_scaled else self.full_grid
        self.keep = kept_tokens(self.grid, self.patches)
        kernel = weights['patch_embed.projection.weight']
        self.patch_size = tuple(kernel.shape[2:])
        # One patch is one row of numbers, so the patch convolution is a linear layer.
        self.patch = linear(kernel.flatten(1), weights['patch_embed.projection.bias'])
        self.patch_norm = norm(weights, 'patch_embed.norm')
        self.pos = None
        if backbone.use_abs_pos_embed:
            pos = weights['absolute_pos_embed'][0]
            if self.is_scaled:
                pos = scaled_map(pos, self.full_grid, self.grid)
            self.pos = nn.Parameter(pos[None, self.keep].clone())

        levels, last = [], len(backbone.stages) - 1
        for i, level in enumerate(backbone.stages):
            attn = level.blocks[0].attn
            full_window, pad_small_map = attn.window_size, attn.pad_small_map
            window = stage.window[i] if isinstance(stage.window, tuple) else stage.window
            full_heads = level.blocks[0].attn.w_msa.num_heads
            layers = []
            for j in range(len(level.blocks)):
                name = f'stages.{i}.blocks.{j}.'
                attention = WindowAttention(
                    weights,
                    name + 'attn.w_msa.',
                    stage.heads[i],
                    full_heads,
                    window,
                    full_window,
                    self.is_scaled,
                )
                shift = window // 2 if j % 2 == 1 else 0
                layers.append(
                    Block(
                        weights,
                        name,
                        window,
                        shift,
                        pad_small_map,
                        stage.hidden[i],
                        attention,
                    )
                )
            if i < last:
                layers.append(Merging(weights, f'stages.{i}.downsample.'))
            levels.append(nn.Sequential(*layers))
        self.levels = nn.Sequential(*levels)
        self.norm = norm(weights, f'norm{last}')

    def forward(self, images):
        if self.is_scaled:
            images = scaled(images, self.grid, self.full_grid)
        rows, columns = self.patches
        height, width = self.patch_size
        assert images.shape[2:] == (rows * height, columns * width), images.shape
        tops = [r * height for r in range(rows)]
        lefts = [c * width for c in range(columns)]
        patches = [images[:, :, t : t + height, s : s + width] for t in tops for s in lefts]
        patches = torch.stack([patches[i].flatten(1) for i in self.keep], dim=1)
        x = self.patch_norm(self.patch(patches))
        if self.pos is not None:
            x = x + self.pos
        x = self.levels(x.unflatten(1, self.grid))
        return self.norm(x).permute(0, 3, 1, 2)
