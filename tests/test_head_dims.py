# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Attention whose heads keep different numbers of dimensions, beside one that is written out."""

import copy

import pytest
import torch

from bvit_mm import ElasticVisionTransformer
from bvit_mm.slim.cutting import slim_
from bvit_mm.testing.closeness import assert_near
from bvit_mm.widths import count, units_of_width

HEADS, SIZE = 3, 8
WIDTH = HEADS * SIZE
ARCH = dict(embed_dims=WIDTH, num_layers=1, num_heads=HEADS, feedforward_channels=32)


def network(qkv_bias=True, **changes):
    torch.manual_seed(0)
    backbone = ElasticVisionTransformer(
        arch=ARCH, img_size=16, patch_size=4, qkv_bias=qkv_bias, gates='dims', **changes
    )
    attention = backbone.layers[0].attn
    attention.gate.data.uniform_(0.5, 1.5)
    return backbone.double().eval(), attention


@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('widths', [(3, 8, 5), (0, 2, 7), (1, 1, 1), (8, 0, 8), (0, 0, 4)])
def test_attention_of_unequal_heads(widths, qkv_bias):
    """Heads one by one; the gate is in q and in what reads it, the scale is of whole heads."""
    backbone, attention = network(qkv_bias)
    generator = torch.Generator().manual_seed(1)
    kept = [
        head * SIZE + dim
        for head, n in enumerate(widths)
        for dim in torch.randperm(SIZE, generator=generator)[:n].tolist()
    ]
    x = torch.randn(2, 7, WIDTH, generator=generator, dtype=torch.double)
    weight, gate = attention.qkv.weight, attention.gate
    bias = attention.qkv.bias if qkv_bias else weight.new_zeros(3 * WIDTH)
    expected = attention.proj.bias
    for head in range(HEADS):
        dims = torch.tensor([u for u in kept if u // SIZE == head], dtype=torch.long)
        q, k, v = (x @ weight[dims + i * WIDTH].T + bias[dims + i * WIDTH] for i in range(3))
        shares = ((gate[dims] * q) @ k.mT / SIZE**0.5).softmax(-1)
        expected = expected + (gate[dims] * (shares @ v)) @ attention.proj.weight[:, dims].T
    expected = expected.detach()
    slim_(backbone, [kept, range(32)])
    assert attention.qkv.weight.shape == (3 * len(kept), WIDTH)
    assert attention.num_heads == sum(n > 0 for n in widths)
    assert_near(attention(x), expected)


def test_it_is_cut_while_it_trains_too():
    """Its first dimensions of each head only, with the weights of all: gradients reach those."""
    backbone, attention = network()
    attention.fold_gates_()
    x = torch.randn(2, 7, WIDTH, dtype=torch.double)
    small = copy.deepcopy(backbone)
    slim_(small, [[0, 1, 8, 16, 17, 18], range(32)])
    attention.activate('dims', (2, 1, 3))
    assert_near(attention(x), small.layers[0].attn(x))
    attention(x).square().sum().backward()
    used = attention.proj.weight.grad.abs().sum(0).nonzero().flatten().tolist()
    assert used == units_of_width((2, 1, 3), WIDTH) == [0, 1, 8, 16, 17, 18]
    attention.activate('dims', (8, 8, 8))
    assert attention.is_whole and attention.head_widths is None


def test_it_is_cut_once():
    """Its heads are no groups of equal size then; and loading weights changes nothing."""
    backbone, attention = network()
    slim_(backbone, [[0, 1, 2, 3, 4, 16, 17, 18], range(32)])
    assert attention.head_widths == (5, 3) and backbone.totals()['dims'] == ((5, 3),)
    backbone.load_state_dict(backbone.state_dict())
    assert attention.head_widths == (5, 3) and attention.num_heads == 2
    with pytest.raises(ValueError, match=r'heads that were cut to \[5, 3\] dimensions cannot be'):
        slim_(backbone, [[0, 1, 6, 7], range(32)])


def test_widths():
    assert units_of_width(3, 8) == [0, 1, 2] and units_of_width((0, 2), 6) == [3, 4]
    assert count(5) == 5 and count((2, 0, 1)) == 3


def test_it_grows_as_whole_heads_do():
    """Training stages are stated in heads; a gate for each of their dimensions."""
    backbone, attention = network(training_stages=[dict(heads=2, hidden=16, grid=2), dict()])
    backbone.set_training_stage(0)
    assert attention.active_heads == 2 and attention.active == dict(dims=2 * SIZE)
    assert attention.head_widths is None
