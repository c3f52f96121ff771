# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Redundancy of heads and hidden units: the numbers, and what they are measured on."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.models.backbones import SwinTransformer, VisionTransformer
from mmpretrain.models.utils import MultiheadAttention
from torch import nn

from bvit_mm.analysis.measure import (
    ComponentShare,
    HeadSimilarity,
    class_attention,
    count_components,
    image_loader,
    mean_of_pairs,
    measure_class_attention,
    measure_redundancy,
)
from bvit_mm.slim.cutting import pad_, slim_
from bvit_mm.testing.closeness import assert_near, tolerance
from bvit_mm.testing.slim_laws import some_units

from .support.cases import CASES
from .support.measured import PLAIN, classifier, draw, every_family
from .support.plain_vit import PlainViT
from .support.runs import FAMILIES, config

ROOT = Path(__file__).parent.parent


# A similarity is at most 1; four factors of what two networks in float32 compute enter it.
ROUNDING = tolerance(torch.float32, passes=4)


def cka_of_eq_4(x, y):
    """Eq. 4 as it is printed: Gram matrices, centered by H on both sides."""
    m = len(x)
    h = torch.eye(m, dtype=x.dtype) - torch.ones(m, m, dtype=x.dtype) / m

    def hsic(a, b):
        return (h @ a @ h).flatten() @ (h @ b @ h).flatten() / (m - 1) ** 2

    k, p = x @ x.T, y @ y.T
    return hsic(k, p) / (hsic(k, k) * hsic(p, p)).sqrt()


def cka_of_distances(x, y):
    """The same from distances alone: doubly centered, squared, they are the Gram matrices."""

    def gram(points):
        squares = ((points[:, None] - points[None]) ** 2).sum(-1)
        rows = squares.mean(0, keepdims=True)
        return (rows + rows.T - squares - squares.mean()) / 2

    a, b = gram(np.asarray(x)), gram(np.asarray(y))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def similarity(outputs, heads, sizes=None):
    """The matrix of head outputs (tokens, heads * dims), in batches of some sizes."""
    accumulated = HeadSimilarity(heads)
    for part in outputs.split(sizes or len(outputs)):
        accumulated.update(part)
    return accumulated.matrix()


def drawn_heads(tokens=60, heads=3, dims=5, seed=0):
    """Heads that resemble each other more or less, with a mean and scales of their own."""
    shared, own = draw(tokens, 1, dims, seed=seed), draw(tokens, heads, dims, seed=seed + 1)
    mixed = shared * torch.linspace(1, 0.2, heads)[:, None] + own
    return (mixed * torch.logspace(-2, 2, heads)[:, None] + 3.0).flatten(1)


@pytest.mark.parametrize('reference', [cka_of_eq_4, cka_of_distances])
def test_cka_is_that_of_eq_4(reference):
    outputs = drawn_heads()
    matrix = similarity(outputs, 3, sizes=7)
    parts = outputs.unflatten(1, (3, 5)).unbind(1)
    for i, x in enumerate(parts):
        for j, y in enumerate(parts):
            assert matrix[i, j].item() == pytest.approx(float(reference(x, y)), abs=1e-9)
    assert 0.02 < matrix[0, 2] < matrix[0, 1] < 0.9  # as drawn


def test_cka_does_not_depend_on_batches():
    outputs = drawn_heads()
    whole = similarity(outputs, 3)
    shuffled = outputs[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    for sizes in ([60], [1] * 60, [1, 29, 30], [30, 29, 1], [13, 47]):
        torch.testing.assert_close(similarity(shuffled, 3, sizes), whole, rtol=1e-10, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(2, 40),
    dims=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-100, 100),
)
def test_cka_has_the_properties_of_a_similarity(tokens, dims, seed, scale, offset):
    x, y = draw(tokens, dims, seed=seed), draw(tokens, dims, seed=seed + 1)
    turn, _ = torch.linalg.qr(draw(dims, dims, seed=seed + 2))
    heads = [x, y, scale * x @ turn + offset]
    matrix = similarity(torch.cat(heads, dim=1), 3, sizes=max(1, tokens // 3))
    # Numbers are rounded to eps of their size, the similarity is of how they spread; it is at most
    # 1, and four factors enter it, each a sum.
    noise = max((h.abs().max() / h.std(0, correction=0).norm()).item() for h in heads)
    rounding = 16 * torch.finfo(torch.float64).eps * max(1.0, noise)
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(matrix.diagonal(), ones, rtol=0, atol=rounding)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=rounding)
    assert matrix.min() >= 0 and matrix.max() <= 1 + rounding
    # turned, scaled and moved it is the same head
    torch.testing.assert_close(matrix[0, 2], ones[0], rtol=0, atol=rounding)
    torch.testing.assert_close(matrix[2, 1], matrix[0, 1], rtol=0, atol=rounding)


def test_cka_of_a_constant_head_is_not_a_number():
    """Also where float32 has rounded what should be constant."""
    outputs = drawn_heads().unflatten(1, (3, 5)).float()
    outputs[:, 1] = 1000 * (1 + 1e-7 * draw(60, 5, dtype=torch.float32))
    matrix = similarity(outputs.flatten(1), 3, sizes=7)
    assert matrix[1].isnan().all() and matrix[:, 1].isnan().all()
    kept = matrix[[0, 2]][:, [0, 2]]
    assert kept.isfinite().all()
    assert mean_of_pairs(matrix) == kept[0, 1].item()
    assert math.isnan(mean_of_pairs(matrix[:2, :2]))
    # small numbers are no constant ones
    assert similarity(1e-15 * drawn_heads(), 3).isfinite().all()


def test_mean_of_pairs_leaves_out_the_diagonal():
    matrix = torch.tensor([[1.0, 0.1, 0.4], [0.1, 1.0, 0.7], [0.4, 0.7, 1.0]])
    assert mean_of_pairs(matrix) == pytest.approx(0.4)
    assert math.isnan(mean_of_pairs(torch.ones(1, 1)))


def features_with(variances, tokens, units, seed=0):
    """Features (tokens, units) with a mean, whose principal components have some variances."""
    directions, _ = torch.linalg.qr(draw(units, units, seed=seed))
    scores = draw(tokens, len(variances), seed=seed + 1)
    scores, _ = torch.linalg.qr(scores - scores.mean(0))  # stays centered
    deviations = torch.tensor(variances, dtype=torch.float64).sqrt()
    return (scores * deviations) @ directions[: len(variances)] + 10 * draw(units, seed=seed + 2)


@pytest.mark.parametrize('tokens, units', [(20, 50), (50, 20), (25, 25)])
def test_components_of_known_variances(tokens, units):
    spectra = {
        1: [99.5, 0.3, 0.2],
        2: [60.0, 39.0, 1.0],  # 99 % exactly
        3: [60.0, 38.9, 1.1],
        10: [1.0] * 10,
        5: [20.0, 20.0, 20.0, 20.0, 19.5, 0.5],
    }
    features = torch.stack([features_with(s, tokens, units) for s in spectra.values()])
    assert count_components(features).tolist() == list(spectra)
    share = ComponentShare()
    for part in features.split([1, 3, 1]):
        share.update(part)
    assert share.share == pytest.approx(sum(spectra) / 5 / units)


def test_components_equal_those_of_singular_values():
    features = draw(4, 30, 12).cumsum(1).float()
    for image, count in zip(features, count_components(features)):
        squares = np.linalg.svd(image.double() - image.double().mean(0), compute_uv=False) ** 2
        assert count == np.searchsorted(squares.cumsum() / squares.sum(), 0.99) + 1


def test_tokens_that_are_all_the_same_have_no_components():
    features = torch.stack([torch.full((6, 9), 0.1), torch.zeros(6, 9), torch.eye(6, 9)])
    features[0] += 1e-8 * draw(6, 9, dtype=torch.float32)
    assert count_components(features).tolist() == [0, 0, 5]  # six tokens, centered
    assert count_components(torch.ones(2, 1, 9)).tolist() == [0, 0]


def plain_inputs(plain, images, named):
    """What some layers of a plain network are given, and return, of all images at once."""
    seen = {}
    for name, module in plain.named_modules():
        if named(name, module):
            seen[name] = []
            module.register_forward_hook(
                lambda _, args, out, to=seen[name]: to.append((args[0].detach(), out.detach()))
            )
    plain.eval()
    plain(torch.stack([image for batch in images for image in batch]))
    return list(seen.values())


@every_family
def test_measuring_keeps_no_graph(family, monkeypatch):
    """Else the memory it takes would grow with every batch."""
    model, images = classifier(family)
    seen = []
    for kind in (HeadSimilarity, ComponentShare):

        def update(self, outputs, update=kind.update):
            seen.append(outputs.requires_grad)
            update(self, outputs)

        monkeypatch.setattr(kind, 'update', update)
    measure_redundancy(model, images)
    assert seen and not any(seen)


@every_family
@pytest.mark.parametrize('stage', range(3))
def test_measured_as_in_a_plain_network(family, stage):
    """Eq. 4 and singular values of what an independent small network computes."""
    model, images = classifier(family)
    backbone = model.backbone
    plain = PLAIN[family](backbone, backbone.training_stages[stage])
    backbone.set_training_stage(stage)
    record = measure_redundancy(model, images)
    assert record['training_stage'] == stage + 1 and record['images'] == 4

    heads = np.atleast_1d(backbone.training_stages[stage].heads)
    depth = dict(vit=[2], pvtv2=[1, 1], swin=[2, 1], cswin=[1, 1])[family]
    names = [f'{i + 1}.{j + 1}' for i, n in enumerate(depth) for j in range(n)]
    names = ['1', '2'] if family == 'vit' else names
    heads = np.repeat(heads, depth)
    outs = plain_inputs(plain, images, lambda name, _: name.endswith('attention.out'))
    assert len(outs) == len(names) == len(heads)
    expected = {}
    for name, count, calls in zip(names, heads, outs):
        if count > 1:
            given = torch.cat([x.flatten(0, -2) for x, _ in calls]).double()
            parts = given.unflatten(1, (count, -1)).unbind(1)
            expected[name] = [[cka_of_eq_4(x, y).item() for y in parts] for x in parts]
    assert {name: block['matrix'] for name, block in record['cka'].items()} == {
        name: [pytest.approx(row, abs=ROUNDING) for row in matrix]
        for name, matrix in expected.items()
    }
    for name, block in record['cka'].items():
        mean = mean_of_pairs(torch.tensor(expected[name]))
        assert block['mean'] == pytest.approx(mean, abs=ROUNDING)

    first = 'mlp.fc1' if family == 'pvtv2' else 'mlp.0'
    for (name, block), [(_, features)] in zip(
        record['pca'].items(), plain_inputs(plain, images, lambda n, _: n.endswith(first))
    ):
        assert name in names
        features = features.flatten(1, -2)
        assert (block['tokens'], block['units']) == features.shape[1:]
        assert block['components'] == count_components(features).double().mean().item()
        assert block['share'] == block['components'] / block['units']
    assert len(record['pca']) == len(names)


@pytest.mark.parametrize('gates', [True, 'dims'])
def test_gates_are_measured_as_folded(gates):
    """A network that is searched is measured as the plain one that it computes."""
    model, images = classifier(**{'model.backbone.gates': gates})
    folded = copy.deepcopy(model)
    folded.backbone.drop_gates_()
    record = measure_redundancy(model, images)
    assert record['cka'] and record == measure_redundancy(folded, images)
    ours, theirs = (measure_class_attention(each, images).maps for each in (model, folded))
    assert torch.equal(ours, theirs)
    assert model.backbone.layers[0].attn.gate is not None


def test_heads_of_different_widths_are_measured_as_those_with_zeros():
    model, images = classifier(**{'model.backbone.gates': 'dims'})
    kept = some_units(model.backbone)
    cut, padded = copy.deepcopy(model), copy.deepcopy(model)
    slim_(cut.backbone, kept)
    pad_(padded.backbone, kept)
    assert len({*cut.backbone.layers[0].attn.head_widths}) > 1
    ours, theirs = (measure_redundancy(each, images, ['cka'])['cka'] for each in (cut, padded))
    for block in theirs:
        for row, expected in zip(ours[block]['matrix'], theirs[block]['matrix'], strict=True):
            assert row == pytest.approx(expected, abs=ROUNDING)
    assert_near(
        measure_class_attention(cut, images).maps, measure_class_attention(padded, images).maps
    )


def test_what_is_measured_can_be_chosen():
    model, images = classifier()
    both = measure_redundancy(model, images)
    for what, other in (('cka', 'pca'), ('pca', 'cka')):
        record = measure_redundancy(model, images, [what])
        assert record[what] == both[what] and other not in record


@pytest.mark.parametrize(
    'family, plain', [('vit', VisionTransformer), ('swin', SwinTransformer)], ids=['vit', 'swin']
)
def test_plain_classes_of_mmpretrain_are_measured_alike(family, plain):
    model, images = classifier(family)
    ours = measure_redundancy(model, images)
    settings = {**config('unused', **FAMILIES[family]).model.backbone}
    settings.pop('type'), settings.pop('training_stages')
    other = plain(**settings)
    other.load_state_dict(model.backbone.state_dict(), strict=True)
    model.backbone = other
    theirs = measure_redundancy(model, images)
    assert theirs.pop('training_stage') is None and ours.pop('training_stage') == 3
    assert theirs['pca'] == ours['pca']
    for block, values in theirs['cka'].items():
        assert ours['cka'][block]['mean'] == pytest.approx(values['mean'], abs=ROUNDING)
    if family == 'vit':
        maps = measure_class_attention(model, images).maps
        assert maps.shape == (4, 8, 8)


@pytest.mark.parametrize('family, first', [('convnext', 'pointwise_conv1'), ('poolformer', 'fc1')])
def test_networks_without_heads_are_measured_as_small_ones(family, first):
    """Their hidden units, by token of a map; mmpretrain's own classes alike."""
    model, images = classifier(family)
    case = next(case for case in CASES if case.family == family)
    backbone = model.backbone
    for stage in range(3):
        backbone.set_training_stage(stage)
        plain = case.small(backbone, backbone.training_stages[stage])
        record = measure_redundancy(model, images)
        assert record['cka'] == {} and record['images'] == 4
        calls = plain_inputs(plain, images, lambda name, _: name.endswith(first))
        for block, [(_, out)] in zip(record['pca'].values(), calls, strict=True):
            tokens = out.flatten(2).mT if family == 'poolformer' else out.flatten(1, -2)
            assert (block['tokens'], block['units']) == tokens.shape[1:]
            assert block['components'] == count_components(tokens).double().mean().item()
    whole = measure_redundancy(model, images)['pca']
    model.backbone = case.build_plain()
    model.backbone.load_state_dict(backbone.state_dict(), strict=True)
    assert measure_redundancy(model, images)['pca'] == whole


def test_an_added_backbone_is_measured_by_its_slots():
    """That of docs/add_a_backbone.md, of which this package knows nothing."""
    case = next(case for case in CASES if case.name == 'riformer')
    model, images = classifier()
    model.backbone = case.build()
    model.backbone.set_training_stage(1)
    record = measure_redundancy(model, images)
    assert record['cka'] == {}
    assert [(block['tokens'], block['units']) for block in record['pca'].values()] == [
        (36, 32),
        (9, 48),
        (9, 48),
    ]


def test_t2t_is_measured_but_for_what_makes_its_tokens():
    case = next(case for case in CASES if case.name == 't2t-base')
    model, _ = classifier()
    model.backbone = case.build()
    model.backbone.set_training_stage(1)
    record = measure_redundancy(model, [list(case.images())])
    assert list(record['cka']) == ['1', '2', '3']
    assert {len(block['matrix']) for block in record['cka'].values()} == {4}
    attention = measure_class_attention(model, [list(case.images())], '2')
    assert attention.maps.shape == (2, 4, 4)


def test_measuring_leaves_the_model_alone():
    model, images = classifier()
    model.train()
    model.backbone.set_training_stage(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_redundancy(model, images)
    measure_class_attention(model, images)
    assert model.training and model.backbone.training and model.backbone.layers[0].training
    assert model.backbone.training_stage == 1 and model.backbone.num_training_stages == 3
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize('stage', range(3))
def test_class_attention_is_that_of_a_plain_network(stage):
    model, images = classifier()
    backbone = model.backbone
    plain = PlainViT(backbone, backbone.training_stages[stage])
    backbone.set_training_stage(stage)
    names = {'blocks.1.attention.q', 'blocks.1.attention.k'}
    [[(_, q)], [(_, k)]] = plain_inputs(plain, images, lambda name, _: name in names)
    heads = backbone.training_stages[stage].heads
    q, k = (x.unflatten(2, (heads, 8)).double() for x in (q, k))
    weights = (torch.einsum('bhd,bnhd->bhn', q[:, 0], k) / 8**0.5).softmax(2).mean(1)
    attention = measure_class_attention(model, images, block='2')
    side = backbone.training_stages[stage].grid[0]
    assert attention.grid == (8, 8) and attention.block == '2'
    assert_near(attention.maps, weights[:, 1:].unflatten(1, (side, side)).float())
    assert attention.maps.min() > 0 and attention.maps.sum((1, 2)).max() < 1


@pytest.mark.parametrize('qk_scale', [None, 0.5])
def test_class_attention_makes_the_modules_own_output(qk_scale):
    """What the class token is given is the sum of values, weighed as the map says.

    With ``qk_scale`` mmpretrain multiplies where others divide; the map follows the module.
    """
    attention, seen = MultiheadAttention(24, num_heads=1, qk_scale=qk_scale), {}
    attention.qkv.register_forward_hook(lambda _, args, out: seen.update(qkv=out))
    attention.proj.register_forward_pre_hook(lambda _, args: seen.update(heads=args[0]))
    with torch.no_grad():
        attention(draw(4, 10, 24, dtype=torch.float32))
    weights = class_attention(attention, seen['qkv'])
    values = seen['qkv'][..., 48:]
    assert_near(torch.einsum('bn,bnd->bd', weights, values), seen['heads'][:, 0])


def test_class_attention_finds_the_token_that_is_asked_for():
    """A key that answers the class token's query alone, at a known place of the cropped grid."""
    model, images = classifier()
    backbone = model.backbone
    backbone.set_training_stage(0)
    attn = backbone.layers[0].attn
    with torch.no_grad():
        for layer in backbone.layers:
            layer.ln1.weight.fill_(1), layer.ln1.bias.fill_(0)
        backbone.patch_embed.projection.weight.zero_(), backbone.patch_embed.projection.bias.zero_()
        backbone.cls_token.zero_(), backbone.pos_embed.zero_()
        backbone.pos_embed[0, :, 1] = 1.0
        backbone.pos_embed[0, 0, 0] = 9.0  # the class token
        row, column = 2, 5  # of the 8 x 8 grid, whose center of 6 x 6 is active
        backbone.pos_embed[0, 1 + row * 8 + column, 2] = 9.0
        attn.qkv.weight.zero_(), attn.qkv.bias.zero_()
        attn.qkv.weight[0, 0] = attn.qkv.weight[24, 2] = 10.0  # of the first head
    maps = measure_class_attention(model, images, '1').maps
    assert maps.shape == (4, 6, 6)
    assert (maps[:, row - 1, column - 1] > 0.99).all()


@pytest.mark.parametrize('family', ['pvtv2', 'swin'])
def test_networks_without_class_token_are_told(family):
    model, images = classifier(family)
    with pytest.raises(ValueError, match=r'has no class token here.*"cka" and "pca" can be had'):
        measure_class_attention(model, images)


def test_what_cannot_be_looked_into_is_refused():
    model, images = classifier()
    with pytest.raises(ValueError, match=r"block='3' does not exist; give one of 1, 2"):
        measure_class_attention(model, images, '3')
    with pytest.raises(
        ValueError, match=r'144 patch tokens in block 1.*built for 8x8; give images'
    ):
        model.backbone.set_training_stage(2)
        measure_class_attention(model, [[torch.zeros(3, 24, 24)]])
    with pytest.raises(ValueError, match='Linear has no backbone to look into'):
        measure_redundancy(nn.Linear(2, 2), images)
    model.backbone = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match='Sequential has no attention and no MLP that are known'):
        measure_redundancy(model, images)
    model, images = classifier(
        **{'model.backbone.with_cls_token': False}, **{'model.backbone.out_type': 'avg_featmap'}
    )
    with pytest.raises(ValueError, match='has no class token here'):
        measure_class_attention(model, images)


def test_images_are_spread_over_the_data_set():
    dataset = [dict(inputs=torch.full((1, 1, 1), float(i))) for i in range(100)]
    batches = list(image_loader(dataset, 40))
    assert [len(batch) for batch in batches] == [32, 8]
    values = [image.item() for batch in batches for image in batch]
    assert values[:4] == [0, 2, 5, 7] and values[-1] == 97
    assert len(next(iter(image_loader(dataset[:5], 64)))) == 5
    with pytest.raises(ValueError, match='has no images'):
        image_loader([], 64)
