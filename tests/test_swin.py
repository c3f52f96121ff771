# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""ElasticSwinTransformer: windows, bias tables, masks, and wrong input."""

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import WindowMSA, WindowMSAV2
from torch import nn

from bvit_mm import ElasticSwinTransformer
from bvit_mm.backbones.windows import _kept_mask, shift_mask
from bvit_mm.growth import grow_
from bvit_mm.testing.closeness import assert_near
from bvit_mm.testing.counting import counted

from .support.cases import pvtv2, swin, vit

SMALL = dict(embed_dims=24, depths=[2, 2], num_heads=[3, 6])
CASE = swin('windows', stages=[dict(grid=8, window=2), dict(grid=12, window=3), dict()])


def in_evaluation(images, *models):
    """The first output of each, as they are in evaluation, computed as images are."""
    for model in models:
        model.to(images).eval()
    return [model(images)[0] for model in models]


@pytest.mark.parametrize('arch', ['small', 'base'])
def test_equals_mmpretrain_as_initialized(arch):
    """In float32, in evaluation and in training."""
    results = []
    for cls in (ElasticSwinTransformer, SwinTransformer):
        torch.manual_seed(0)
        model = cls(arch=arch, drop_path_rate=0.3)
        model.init_weights()
        images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        outputs = []
        for training in (False, True):
            model.train(training)
            torch.manual_seed(2)
            outputs.append(model(images)[0])
        results.append(outputs)
    for ours, theirs in zip(*results):
        assert_near(ours, theirs, passes=2)  # 24 blocks


@pytest.mark.parametrize('kwargs', [dict(), dict(pad_small_map=True)])
@pytest.mark.parametrize('size', [(224, 224), (128, 200), (90, 61)])
def test_equals_mmpretrain_on_maps_of_any_size(kwargs, size):
    options = (
        dict(CASE.kwargs, pad_small_map=True) if min(size) < 64 else dict(CASE.kwargs, **kwargs)
    )
    torch.manual_seed(0)
    plain = SwinTransformer(**options)
    ours = ElasticSwinTransformer(**options)
    ours.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    assert_near(*in_evaluation(images, ours, plain))


def test_smaller_window_reads_the_same_offsets():
    """The bias of two tokens depends on their offset alone, whatever the window."""
    w_msa = CASE.build().stages[0].blocks[0].attn.w_msa
    table = torch.arange(49.0)[:, None].expand(49, 3)  # each offset (4x4 windows) its number
    for window in (1, 2, 3, 4):
        bias = w_msa._bias(table, window)
        assert bias.shape == (3, window**2, window**2)
        for i in range(window**2):
            for j in range(window**2):
                dy, dx = i // window - j // window, i % window - j % window
                assert bias[0, i, j] == (dy + 3) * 7 + dx + 3
    full = w_msa.relative_position_index  # mmpretrain's own
    assert torch.equal(w_msa._bias(table, 4)[0], full.float())


def grown_table(new_offsets, linear=None):
    """Window 3 of 4 grows to 4; the table before and after, (7, 7, heads)."""
    case = swin('table', stages=[dict(grid=12, window=3), dict()])
    backbone = case.build(new_offsets=new_offsets)
    backbone.set_training_stage(0)
    table = backbone.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
    if linear is not None:
        y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing='ij')
        table.data = linear(y, x).flatten()[:, None].expand(49, 3).clone()
    before = table.detach().clone()
    grow_(backbone, 1)
    return (t.detach().unflatten(0, (7, 7)) for t in (before, table))


def test_new_offsets_are_the_nearest():
    before, after = grown_table('nearest')
    for row in range(7):
        for column in range(7):
            y, x = min(max(row, 1), 5), min(max(column, 1), 5)
            assert torch.equal(after[row, column], before[y, x])


def test_new_offsets_as_drawn_at_first():
    before, after = grown_table('initial')
    assert torch.equal(before, after)


def test_new_offsets_by_bicubic_interpolation():
    """Of a plane it is the plane, drawn out over the larger table; known offsets stay."""
    before, after = grown_table('bicubic', linear=lambda y, x: 2.0 * y - x)
    assert torch.equal(after[1:6, 1:6], before[1:6, 1:6])
    middle = after[0, 2:5, 0]  # row -3, columns -1, 0, 1; away from the corners
    scale = 5 / 7  # sizes of the known and of the grown table
    known_row = 2.0 * -3 * scale
    assert middle[1].item() == pytest.approx(known_row, abs=0.25)
    assert (middle[1] - middle[0]).item() == pytest.approx(-scale, abs=0.05)
    assert not torch.equal(after[0], before[0])


def test_masks_are_made_once_and_serve_training_after_inference():
    _kept_mask.cache_clear()
    backbone = CASE.build()
    with torch.inference_mode():
        backbone(CASE.images())
    made = _kept_mask.cache_info().misses
    assert made == 2  # shifted windows at the first two levels
    backbone.train()
    for seed in range(3):
        backbone(CASE.images(seed=seed))[-1].sum().backward()
    assert _kept_mask.cache_info().misses == made


def test_weights_of_mmpretrains_first_version_load():
    source = CASE.build()
    old = source.state_dict()
    old._metadata['']['version'] = 1
    for part in ('weight', 'bias'):
        old[f'norm.{part}'] = old.pop(f'norm2.{part}')
    old['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(64, 16, 16)
    backbone = CASE.build(seed=5)
    backbone.load_state_dict(old, strict=True)
    assert torch.equal(backbone(CASE.images())[-1], source(CASE.images())[-1])


def test_attention_drop_out_and_checkpointing_run():
    options = dict(stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(attn_drop=0.5))), with_cp=True)
    backbone = CASE.build(**options)
    backbone.train()
    torch.manual_seed(0)
    first, second = (backbone(CASE.images())[-1] for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    'options',
    [
        dict(stage_cfgs=dict(block_cfgs=[dict(), dict(attn_cfgs=dict(shift_size=1))])),
        dict(stage_cfgs=[dict(downsample=False), dict()]),
        dict(stage_cfgs=[dict(), dict(downsample=True)]),
        dict(stage_cfgs=[dict(), dict(window_size=2)]),
        dict(stage_cfgs=dict(downsample_cfg=dict(norm_cfg=None)), norm_cfg=None),
        dict(stage_cfgs=dict(block_cfgs=[dict(), dict(ffn_cfgs=dict(num_fcs=3))])),
    ],
)
def test_equals_mmpretrain_with_options_of_its_levels(options):
    options = dict(
        arch=SMALL,
        img_size=32,
        patch_size=2,
        window_size=4,
        out_indices=(1,),
        **options,
    )
    if options['stage_cfgs'] == [dict(downsample=False), dict()]:
        options['stage_cfgs'][1] = dict(embed_dims=24)
    plain, ours = SwinTransformer(**options), ElasticSwinTransformer(**options)
    ours.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert_near(*in_evaluation(images, ours, plain))
    assert ours.flops(0) == counted(ours.to('meta'), images.to('meta'))


WIDTH_OF_NO_HEADS = dict(arch=dict(embed_dims=256, depths=[2, 2], num_heads=[6, 12]))


@pytest.mark.parametrize(
    'options, runs',
    [
        (dict(stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(window_msa=WindowMSAV2)))), True),
        (WIDTH_OF_NO_HEADS, False),
    ],
)
def test_what_mmpretrain_builds_is_built_whole(options, runs):
    options = {'arch': SMALL, 'window_size': 4, 'img_size': 32, 'patch_size': 2, **options}
    plain = SwinTransformer(**options, out_indices=(1,))
    ours = ElasticSwinTransformer(**options, out_indices=(1,))
    ours.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)
    if not runs:  # nor does mmpretrain's
        for backbone in (plain, ours):
            with pytest.raises(RuntimeError):
                backbone(images)
        return
    assert torch.equal(*in_evaluation(images, ours, plain))
    with pytest.raises(ValueError, match='knows the cost of the window attention WindowMSA only'):
        ours.flops(0)


def test_exporting_leaves_no_trace():
    """torch.export computes with stand-ins of tensors, which must not be kept as masks."""
    shift_mask(grid=(8, 8), window=4, shift=2, device=torch.device('cpu'))
    backbone = CASE.build(training_stages=None)
    torch.export.export(backbone, (CASE.images(),), strict=False)
    other = CASE.build()
    assert type(other(CASE.images())[-1]) is torch.Tensor
    other(CASE.images())[-1].sum().backward()


def test_whole_network_computes_with_its_layers():
    """So that hooks, LoRA and quantisation find them; they are not sliced by hand then."""
    for case in (CASE, pvtv2('layers')):
        backbone, called = case.build(), set()
        layers = [m for m in backbone.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        for layer in layers:
            layer.register_forward_hook(lambda m, *_, called=called: called.add(m))
        backbone(case.images())
        assert called == set(layers)


@pytest.mark.parametrize('case', [CASE, pvtv2('traced'), vit('traced')], ids=lambda c: c.name)
def test_stages_can_be_traced(case):
    """As mmengine's FLOPs counter and ONNX export do."""
    backbone = case.build()
    for k in range(backbone.num_training_stages):
        backbone.set_training_stage(k)
        traced = torch.jit.trace(backbone, case.images(), check_trace=False)
        assert_near(traced(case.images())[-1], backbone(case.images())[-1])


BAD = [
    (dict(new_offsets='zero'), "new_offsets='zero' is not known; give one of"),
    (
        dict(training_stages=[dict(window=(7, 7, 8, 7)), dict()]),
        r'training stage 1: window=\(7, 7, 8, 7\), but level 3 has windows of 7x7 tokens',
    ),
    (
        dict(training_stages=[dict(window=(6, 6, 6, 7), grid=48), dict()]),
        r'training stage 1: window=\(6, 6, 6, 7\) is larger than level 4, which has 6x6',
    ),
    (dict(training_stages=[dict(window=8), dict()]), 'training stage 1: window=8, but the model '),
    (dict(training_stages=[dict(window=0), dict()]), r'windows of 7x7 tokens; give 1\.\.7'),
    (dict(training_stages=[dict(window='5'), dict()]), "training stage 1: window='5', but the"),
    (
        dict(training_stages=[dict(grid=40), dict()]),
        'training stage 1: window=7 is larger than level 4, which has 5x5 tokens; give a smaller',
    ),
    (
        dict(
            training_stages=[
                dict(heads=(1, 2, 4, 8), grid=40, window=5),
                dict(heads=(3, 6, 12, 25), grid=48, window=6),
                dict(),
            ]
        ),
        r'training stage 2: heads=\(3, 6, 12, 25\), but level 4 has 24 heads; give 1\.\.24',
    ),
    (
        dict(training_stages=[dict(window=6, grid=48), dict(window=5, grid=48), dict()]),
        'training stage 2: window=5 is less than 6 in training stage 1; stages may only grow',
    ),
    (
        dict(training_stages=[dict(window=2, grid=16), {}], img_size=96),
        'stage 2: window=7 is larger than level 3, .* give a smaller window_size, a larger img_s',
    ),
    (
        dict(
            training_stages=2,
            arch=dict(embed_dims=24, depths=[2, 2], num_heads=[5, 6]),
            out_indices=(1,),
        ),
        'level 1 of ElasticSwinTransformer has a width of 24, which is no multiple of num_heads=5',
    ),
    (
        dict(
            training_stages=3,
            stage_cfgs=dict(block_cfgs=[dict(), dict(attn_cfgs=dict(shift_size=1))]),
            arch='two',
        ),
        'stage_cfgs shift windows by other than half of their side',
    ),
    (dict(training_stages=3, frozen_stages=0), 'frozen_stages=0 freezes weights that growing'),
    (
        dict(
            training_stages=3, stage_cfgs=dict(block_cfgs=[dict(num_heads=1), dict()]), arch='two'
        ),
        'stage_cfgs give blocks different windows, heads or hidden units',
    ),
    (
        dict(
            training_stages=2,
            stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(window_msa=WindowMSAV2))),
        ),
        'level 1 of ElasticSwinTransformer has the window attention WindowMSAV2, not WindowMSA',
    ),
    (
        dict(training_stages=2, stage_cfgs=dict(block_cfgs=dict(ffn_cfgs=dict(num_fcs=3)))),
        'level 1 of ElasticSwinTransformer has an MLP other than two linear layers',
    ),
]


@pytest.mark.parametrize('options, message', BAD)
def test_bad_options(options, message):
    options = {'arch': 'tiny', **options}
    if options['arch'] == 'two':
        options['arch'] = SMALL
        options['out_indices'] = (1,)
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='bvit_mm.ElasticSwinTransformer', **options))


def test_images_smaller_than_the_window_are_refused_as_mmpretrain_does():
    backbone = CASE.build()
    with pytest.raises(AssertionError, match=r'smaller than the window size \(4\); give larger'):
        backbone(torch.zeros(1, 3, 16, 16))


def test_window_attention_keeps_mmpretrains_class():
    """Tools that look for WindowMSA find it."""
    assert isinstance(CASE.build().stages[0].blocks[0].attn.w_msa, WindowMSA)
