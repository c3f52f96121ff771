# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""``tools/slim.py``: its files and their budgets; and what publishing makes of gates."""

import copy
import random
import re
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from bvit_mm.budget import record_of
from bvit_mm.building import build_to_count
from bvit_mm.cost import budget_for, classifier_flops
from bvit_mm.plan import Plan
from bvit_mm.publish.network import publish, write_published
from bvit_mm.publish.slimmed import read_search, slimmed, write_slimmed
from bvit_mm.publish.timm_names import to_timm
from bvit_mm.slim.choice import read_flops
from bvit_mm.slim.cutting import chosen, flops_of, slim_stage, sort_units_, units_of, widths_of
from bvit_mm.testing.closeness import assert_near
from bvit_mm.testing.slim_laws import some_units

from .support import cases
from .support.consumers import changes_of, side, timms
from .support.runs import FAMILIES, config
from .support.scripts import run_tool
from .support.tools import DEIT_S

every_family = pytest.mark.parametrize('family', FAMILIES)
# Families whose plain class takes a number of hidden units for each block.
OF_ANY_WIDTH = ('vit', 'swin', 'swinv2')
# What the plain Swin V2 deletes from weights that it loads, and then misses.
MADE = ('relative_coords_table', 'relative_position_index')


def gates_of(backbone):
    return [module.gate for module, _ in backbone.read_units()]


def search_model(cfg, seed=0):
    """A model with gates, random ones."""
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for param in model.parameters():
        param.data.add_(0.1 * torch.randn_like(param))
    for gate in gates_of(model.backbone):
        gate.data.uniform_(0.5, 1.5)
    return model


def search_config(family='vit', **backbone):
    changes = changes_of(family)
    changes['model.backbone'].update(dict(gates=True) | backbone)
    return config('.', **changes)


def save(file, cfg, model, epoch=3, **meta):
    """A checkpoint of mmengine's."""
    meta = dict(cfg=cfg.pretty_text, epoch=epoch, dataset_meta=dict(classes='abcd'), **meta)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), file)
    return file


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The checkpoint of a search of any family; no run is needed to have gates."""
    folder = tmp_path_factory.mktemp('searches')

    @cache
    def of_family(family):
        cfg = search_config(family)
        return save(folder / f'{family}.pth', cfg, search_model(cfg))

    return of_family


@pytest.fixture(scope='module')
def searched(checkpoint):
    """What is read of it."""
    return cache(lambda family: read_search(str(checkpoint(family))))


def images(family='vit'):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, side(family), side(family), generator=generator)


@torch.no_grad()
def outputs(model, family='vit'):
    model.eval()
    return model(images(family))


def masked(search, kept):
    """The searched network with gates of 0 for what goes."""
    model = copy.deepcopy(search.trained.model)
    for gate, units in zip(gates_of(model.backbone), kept, strict=True):
        gate.data[sorted(set(range(len(gate))) - set(units))] = 0.0
    return model


def loaded(files):
    """The model of two files: weights, which must all fit, and config."""
    weights, file = files
    model = MODELS.build(Config.fromfile(file).model)
    missing, unknown = model.load_state_dict(
        torch.load(weights, weights_only=True)['state_dict'], strict=False
    )
    assert not unknown and all(key.endswith(MADE) for key in missing)
    return model


def budgets(search, *parts):
    """What the network costs without units that may go, and such parts of what they cost."""
    units = sum(each.cost * len(each.scores) for each in search.units)
    return [f'{1 - (1 - part) * units / search.flops:.4f}' for part in parts]


@every_family
@pytest.mark.parametrize('by, fill', [('share', False), ('share', True), ('cost', False)])
def test_choices_keep_to_their_budgets(searched, family, by, fill):
    """They cost at most that, and one unit less at most; larger ones keep the same units."""
    search = searched(family)
    backbone, sizes = search.trained.backbone, []
    for share in budgets(search, 0.9, 0.7, 0.5):
        budget = read_flops(share, search.flops)
        kept = chosen(backbone, search.units, search.classifier, budget, by=by, fill=fill)
        cost = flops_of(backbone, widths_of(backbone, kept)) + search.classifier
        gone = [
            units.cost
            for units, of_module in zip(search.units, kept)
            if len(of_module) < len(units.scores) and (units.kind == 'hidden' or not fill)
        ]
        slack = max(gone, default=max(units.cost for units in search.units))
        assert budget - slack < cost <= budget
        assert all(kept)
        sizes.append(kept)
    for larger, smaller in pairwise(sizes):
        assert sum(map(len, larger)) > sum(map(len, smaller))
        assert fill or all(set(a) >= set(b) for a, b in zip(larger, smaller))


@every_family
def test_files_are_the_network_with_gates_of_0(searched, family, tmp_path):
    """Several from one search; built by their configs, they load strictly and cost what is said."""
    search = searched(family)
    shares = budgets(search, 0.7, 0.5)
    sizes = slimmed(search, shares)
    for size, share, files in zip(sizes, shares, write_slimmed(sizes, tmp_path / 'slim')):
        assert re.fullmatch(rf'slim-{float(share):g}-[0-9a-f]{{8}}\.pth', files[0].name)
        model = loaded(files)
        assert_near(outputs(model, family), outputs(masked(search, size.kept), family))
        assert sum(p.numel() for p in model.parameters()) == size.parameters
        config = Config.fromfile(files[1])
        assert type(model.backbone) is cases.FAMILIES[family].elastic
        assert not {'gates', 'training_stages', 'only_stage'} & set(config.model.backbone)
        assert 'bvit_mm' in config.custom_imports.imports
        told = torch.load(files[0], weights_only=True)['meta']['bvit_mm']
        assert told['widths'] == config.model.backbone.widths and told['flops'] == share
        cost = model.backbone.flops(0) + search.classifier  # which law 12 counts
        assert round(told['gflops'] * 1e9) == cost <= read_flops(share, search.flops)


@every_family
def test_hidden_units_only(searched, family, tmp_path):
    """mmpretrain's own class has it, where it takes a number for each block."""
    search = searched(family)
    hidden = sum(each.cost * len(each.scores) for each in search.units if each.kind == 'hidden')
    (size,) = slimmed(search, [f'{1 - hidden / search.flops / 2:.4f}'], only='hidden')
    (files,) = write_slimmed([size], tmp_path / 'slim')
    model, text = loaded(files), files[1].read_text()
    assert_near(outputs(model, family), outputs(masked(search, size.kept), family))
    if family in OF_ANY_WIDTH:
        assert type(model.backbone) is cases.FAMILIES[family].plain
        assert 'bvit_mm' not in text and 'widths' not in text
    else:
        assert set(Config.fromfile(files[1]).model.backbone.widths) == {'hidden'}


@pytest.mark.parametrize(
    'family, given',
    [
        ('vit', dict(layer_cfgs=dict(act_cfg=dict(type='ReLU')))),
        ('vit', dict(layer_cfgs=[dict(feedforward_channels=32), dict(feedforward_channels=60)])),
        ('swin', dict(stage_cfgs=[dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False))), {}])),
        ('swinv2', dict(stage_cfgs=dict(block_cfgs=dict(norm_cfg=dict(type='LN', eps=1e-3))))),
    ],
)  # fmt: skip
def test_plain_classes_keep_what_was_given_for_their_blocks(family, given, tmp_path):
    cfg = search_config(family, training_stages=None, **given)
    search = read_search(str(save(tmp_path / 'search.pth', cfg, search_model(cfg))))
    (size,) = slimmed(search, ['0.9'], only='hidden')
    (files,) = write_slimmed([size], tmp_path / 'slim')
    model = loaded(files)
    assert type(model.backbone) is cases.FAMILIES[family].plain
    assert_near(outputs(model, family), outputs(masked(search, size.kept), family))


@every_family
def test_padded_networks_are_plain(searched, family, tmp_path):
    """They have the whole network's shapes, zeros for what goes, and compute the same."""
    search = searched(family)
    (size,) = slimmed(search, budgets(search, 0.6), padded=True)
    (files,) = write_slimmed([size], tmp_path / 'slim')
    model, expected = loaded(files), outputs(masked(search, size.kept), family)
    assert type(model.backbone) is cases.FAMILIES[family].plain
    assert_near(outputs(model, family), expected)
    assert round(size.gflops * 1e9) == search.flops
    for (module, axis), kept in zip(size.published.backbone.read_units(), size.kept):
        gone = sorted(set(range(module.total(axis))) - set(kept))
        for slot, param in module.elastic_parameters(axis):
            places = slot.places(param.shape[slot.dim], module.total(axis), gone)
            assert not param.index_select(slot.dim, places).count_nonzero()
    if family in cases.TIMM:
        theirs = timms(family)
        renamed = to_timm(size.published.checkpoint['state_dict'], size.published.backbone)
        theirs.load_state_dict(renamed, strict=True)
        assert_near(outputs(theirs, family), expected)


@pytest.mark.parametrize('family', ['vit', 'deit3', 't2t'])
@pytest.mark.parametrize('only', [None, 'dims'])
def test_dimensions_of_heads(family, only, tmp_path):
    """Heads of different widths: the files compute what gates of 0 do, and cost what is counted."""
    cfg = search_config(family, gates='dims')
    search = read_search(str(save(tmp_path / 'search.pth', cfg, search_model(cfg))))
    dims = sum(u.cost_of(range(len(u.scores))) for u in search.units if u.kind == 'dims')
    shares = [f'{1 - part * dims / search.flops:.4f}' for part in (0.3, 0.6)]
    sizes = slimmed(search, shares, only=only)
    for size, share, files in zip(sizes, shares, write_slimmed(sizes, tmp_path / 'slim')):
        model, config = loaded(files), Config.fromfile(files[1]).model.backbone
        assert_near(outputs(model, family), outputs(masked(search, size.kept), family))
        heads = [head for module in config.widths['dims'] for head in module]
        assert len(set(heads)) > 1 and ('hidden' in config.widths) == (only is None)
        assert model.backbone.flops(0) + search.classifier <= read_flops(share, search.flops)
    assert all(set(a) >= set(b) for a, b in zip(*(size.kept for size in sizes)))
    (padded,) = slimmed(search, shares[:1], only=only, padded=True)
    (files,) = write_slimmed([padded], tmp_path / 'padded')
    plain = loaded(files)
    if family == 'vit':
        assert type(plain.backbone) is cases.FAMILIES[family].plain
    assert_near(outputs(plain, family), outputs(masked(search, padded.kept), family))


def test_a_head_may_go_with_all_its_dimensions(tmp_path):
    cfg = search_config(gates='dims', training_stages=None)
    model = search_model(cfg)
    size = model.backbone.layers[0].attn.head_dims
    gates_of(model.backbone)[0].data[:size] *= 1e-3
    search = read_search(str(save(tmp_path / 'search.pth', cfg, model)))
    (cut,) = slimmed(search, budgets(search, 0.6))
    attention = cut.published.backbone.layers[0].attn
    assert attention.num_heads == 2 and attention.qkv.out_features == 3 * attention.embed_dims
    expected = outputs(masked(search, cut.kept))
    (files,) = write_slimmed([cut], tmp_path / 'slim')
    assert Config.fromfile(files[1]).model.backbone.widths['dims'][0][0] == 0
    assert_near(outputs(loaded(files)), expected)


WIDE = dict(type='bvit_mm.ElasticVisionTransformer', arch=dict(
    embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48))  # fmt: skip


@pytest.mark.parametrize(
    'backbone, message',
    [
        (
            dict(WIDE, widths=dict(dims=[[8, 8, 8]])),
            'dims is given for 1 modules, but the network has 2 with dims; give each its own, such '
            'as [[8, 8, 8], [8, 8, 8]]',
        ),
        (dict(WIDE, widths=dict(dims=[8, 8])), 'give a number for each of its 3 heads, at most'),
        (dict(WIDE, widths=dict(dims=8)), 'dims is given for 1 modules'),
        (dict(WIDE, widths=dict(dims=[[8, 8, 9]] * 2)), 'dims=[8, 8, 9] of module 1 is not poss'),
        (dict(WIDE, widths=dict(dims=[[8, 8, -1]] * 2)), 'at most [8, 8, 8]'),
        (dict(WIDE, widths=dict(dims=[[0, 0, 0]] * 2)), 'leaves nothing; keep one or more'),
        (dict(WIDE, widths=dict(dims=[[8, 8, 8]] * 2, heads=[2, 2])), 'must be dict(dims=[...]'),
        (dict(WIDE, gates='dims', widths=dict(dims=[[8, 8, 8]] * 2)), 'are both given'),
        (dict(WIDE, gates='dims', only_stage=0, training_stages=2), 'are both given'),
        (
            dict(type='bvit_mm.ElasticSwinTransformer', gates='dims'),
            'ElasticSwinTransformer has whole heads only, if any; single dimensions of heads',
        ),
        (
            dict(type='bvit_mm.ElasticConvNeXt', widths=dict(dims=[[1]])),
            'ElasticConvNeXt has whole heads only, if any',
        ),
    ],
)  # fmt: skip
def test_wrong_dimensions_of_heads(backbone, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MODELS.build(backbone)


def test_budget_of_the_whole_network_keeps_all(searched, tmp_path):
    """Its gates are folded; so it is the plain class's."""
    search = searched('vit')
    (size,) = slimmed(search, [1])
    (files,) = write_slimmed([size], tmp_path / 'slim')
    assert Config.fromfile(files[1]).model.backbone.type == 'VisionTransformer'
    assert_near(outputs(loaded(files)), outputs(search.trained.model))


@pytest.mark.parametrize(
    'share, gflops', [(0.803, 3.700), (0.7045, 3.246), (0.606, 2.792), (0.5074, 2.338)]
)
def test_deit_small_by_share_costs_what_the_paper_says(deit_small, share, gflops):
    """Tables 2 and 7 of ViT-Slim, by our rule, whatever the gates are."""
    backbone, units, classifier = deit_small
    whole = flops_of(backbone, backbone.totals()) + classifier
    budget = read_flops(share, whole)
    kept = chosen(backbone, units, classifier, budget, by='share')
    cost = flops_of(backbone, widths_of(backbone, kept)) + classifier
    head = max(each.cost for each in units)
    assert head == 4 * 197 * 384 * 64 + 2 * 197**2 * 64
    assert budget - head < cost <= budget
    assert abs(cost - gflops * 1e9) < head


@pytest.fixture(scope='module')
def deit_small():
    model = build_to_count(Config.fromfile(DEIT_S).model)
    draw = random.Random(0).random
    backbone = model.backbone
    scores = [[draw() for _ in range(module.total(axis))] for module, axis in backbone.read_units()]
    return backbone, units_of(backbone, scores), classifier_flops(model)


def test_averaged_and_raw_weights(tmp_path):
    cfg = search_config()
    averaged, raw = search_model(cfg), search_model(cfg, seed=1)
    file = save(tmp_path / 'search.pth', cfg, averaged)
    content = torch.load(file, weights_only=False)
    content['ema_state_dict'] = {f'module.{key}': v for key, v in raw.state_dict().items()}
    torch.save(content, file)
    found = {name: read_search(str(file), name).trained for name in (None, 'ema', 'raw')}
    assert [found[name].weights for name in (None, 'ema', 'raw')] == ['ema', 'ema', 'raw']
    for name, model in ((None, averaged), ('ema', averaged), ('raw', raw)):
        assert_near(outputs(found[name].model), outputs(model), 0)


def test_detector_starts_from_a_slimmed_file(searched, tmp_path):
    """Its backbone has the same widths, and new norms of other levels; other widths do not fit."""
    sizes = slimmed(searched('swin'), ['0.8', '0.7'])
    files = write_slimmed(sizes, tmp_path / 'slim')
    pretrained = dict(type='Pretrained', checkpoint=str(files[0][0]), prefix='backbone.')
    backbone = Config.fromfile(files[0][1]).model.backbone.to_dict()
    backbone.update(out_indices=(0, 1), pad_small_map=True, init_cfg=pretrained)
    model = MODELS.build(copy.deepcopy(backbone))
    model.init_weights()
    weights = sizes[0].published.checkpoint['state_dict']
    for key, value in model.state_dict().items():
        assert key.startswith('norm0.') or torch.equal(value, weights[f'backbone.{key}'])
    backbone['widths'] = Config.fromfile(files[1][1]).model.backbone.widths.to_dict()
    with pytest.raises(ValueError, match='size mismatch'):
        MODELS.build(backbone).init_weights()


def test_detector_starts_from_hidden_units_only(searched, tmp_path):
    """mmdet's and mmseg's own Swin has one number of hidden units; mmpretrain's has one a block."""
    (size,) = slimmed(searched('swin'), ['0.9'], only='hidden')
    ((weights, config),) = write_slimmed([size], tmp_path / 'slim')
    backbone = Config.fromfile(config).model.backbone.to_dict()
    assert backbone['type'] == 'SwinTransformer'
    pretrained = dict(type='Pretrained', checkpoint=str(weights), prefix='backbone.')
    changes = dict(type='mmpretrain.SwinTransformer', out_indices=(0, 1), init_cfg=pretrained)
    model = MODELS.build(backbone | changes)
    model.init_weights()
    state_dict = size.published.checkpoint['state_dict']
    for key, value in model.state_dict().items():
        assert key.startswith('norm0.') or torch.equal(value, state_dict[f'backbone.{key}'])


@pytest.fixture
def slim_here():
    """Runs tools/slim.py in this process."""
    return partial(run_tool, 'slim')


def test_tool(checkpoint, slim_here, capsys, tmp_path):
    slim_here(checkpoint('swin'), tmp_path / 'd.pth', '--flops', '0.9', '0.7', '--padded', '--timm')
    slim_here(checkpoint('swin'), tmp_path / 'h', '--flops', '0.9', '--only', 'hidden')
    printed = capsys.readouterr().out
    names = [path.name for path in tmp_path.iterdir()]
    kinds = [f'd-{share}{end}' for share in ('0.9', '0.7') for end in ('.pth', '.py', '-timm.pth')]
    assert {re.sub(r'-[0-9a-f]{8}\.', '.', name) for name in names} == {
        *kinds, 'h-0.9.pth', 'h-0.9.py'
    }  # fmt: skip
    assert 'ElasticSwinTransformer, raw weights after epoch 3\n' in printed
    assert re.search(
        r'heads \+ hidden +whole +0\.9 +0\.7\n *stages\.0\.blocks\.0 +2 \+ 64 ', printed
    )
    assert "0.9 is a network of mmpretrain's SwinTransformer, which needs no bvit_mm:" in printed


def test_tool_prints_what_was_cut(checkpoint, searched, slim_here, capsys, tmp_path):
    search = searched('vit')
    asked = f'{0.8 * search.flops / 1e9!r} GFLOPs'
    slim_here(checkpoint('vit'), tmp_path / 'd', '--flops', asked, '--by', 'cost', '--fill')
    (size,) = slimmed(search, [asked], by='cost', fill=True)
    printed = capsys.readouterr().out
    line = (
        rf'{asked} +{size.gflops:.4g} +{size.gflops * 1e9 / search.flops:.1%} +{size.parameters:,}'
    )
    assert re.search(line, printed)
    heads, hidden = map(len, size.kept[:2])
    assert re.search(rf'layers\.0 +3 \+ 48 +{heads} \+ {hidden}\n', printed)
    assert f'{asked} is a network of bvit_mm.ElasticVisionTransformer:' in printed
    assert {path.name[:6] for path in tmp_path.iterdir()} == {'d-0.8-'}


def wrong(kind, checkpoint, folder):
    """Arguments that cannot be, without OUT."""
    good = checkpoint('vit')
    content, file = torch.load(good, weights_only=False), folder / f'{kind}.pth'
    weights = content['state_dict']
    if kind == 'nowhere':
        return [folder / 'nowhere.pth']
    if kind == 'text':
        file.write_text('no checkpoint\n')
        return [file]
    if kind == 'slimmed':
        return [write_slimmed(slimmed(read_search(str(good)), ['0.7']), folder / 'small')[0][0]]
    if kind == 'retrained':
        cfg = search_config(gates=False, training_stages=None, widths=dict(heads=[1, 2]))
        return [save(file, cfg, MODELS.build(cfg.model))]
    if kind == 'no gates':
        for key in [key for key in weights if key.endswith('.gate')]:
            del weights[key]
    elif kind == 'gates of 1':
        for key in weights:
            if key.endswith('.gate'):
                weights[key].fill_(1.0)
    elif kind == 'not finite':
        weights['backbone.layers.0.ffn.gate'][3] = float('nan')
    elif kind == 'unfinished':
        cfg = search_config()
        model = search_model(cfg)
        model.backbone.set_training_stage(1)
        return [save(file, cfg, model)]
    elif kind == 'no run':
        content = weights
    elif kind == 'no averages':
        return [good, '--weights', 'ema']
    elif kind == 'hidden of no heads':
        return [checkpoint('convnext'), '--only', 'heads']
    torch.save(content, file)
    return [file]


@pytest.mark.parametrize(
    'kind, message',
    [
        ('nowhere', 'nowhere.pth can not be found'),
        ('text', 'cannot be read as a checkpoint, it is damaged or something else'),
        ('slimmed', 'is published already; give a checkpoint of a search: of a run whose backbone'),
        ('retrained', 'has no gates: its network was not searched, or is slimmed already; give a'),
        ('no gates', 'has no gates: its network was not searched, or is slimmed already; give a'),
        ('gates of 1', 'has gates that are all 1, so they were never trained and tell nothing'),
        ('not finite', 'training diverged; give an earlier checkpoint'),
        (
            'unfinished',
            'is of training stage 2 of 3, which is not the whole network; give a checkpoint',
        ),
        ('no run', 'is no training checkpoint; give a checkpoint of a search'),
        ('no averages', 'has no averaged weights (its run had no EMAHook); give the raw ones'),
        ('hidden of no heads', "only='heads' is no kind of unit here; give one of ('hidden',)"),
    ],
)
def test_wrong_checkpoints(checkpoint, slim_here, capsys, tmp_path, kind, message):
    file, *options = wrong(kind, checkpoint, tmp_path)
    refused(slim_here, capsys, tmp_path, message, file, '--flops', '0.9', '0.7', *options)


@pytest.mark.parametrize(
    'options, message',
    [
        (['0.7', '1.1'], "flops='1.1' must be a share above 0 and up to 1"),
        (['0.7', '0'], "flops='0' must be a share above 0 and up to 1"),
        (['0.7', 'half'], "flops='half' is not a budget; give a share of the whole network up to"),
        (['0.7', '0.01'], 'is less than the smallest choice costs'),
        (['0.5', '--only', 'heads'], 'is less than the smallest choice costs'),
        (['0.7', '--multiple', '0'], 'multiple=0 must be a whole number, at least 1'),
        (['0.7', '--multiple', '8', '--fill'], 'give one of the two'),
        (['0.9', '--only', 'heads', '--fill'], 'keeps all of them; give one of the two'),
        (['0.7', '--timm'], '--timm needs --padded'),
        (['0.7', '--by', 'luck'], 'invalid choice'),
    ],
)
def test_wrong_options(checkpoint, slim_here, capsys, tmp_path, options, message):
    refused(slim_here, capsys, tmp_path, message, checkpoint('vit'), '--flops', *options)


def refused(slim_here, capsys, folder, message, file, *options):
    """In one line, and nothing is written, for the budgets that are possible neither."""
    out = folder / 'out'
    out.mkdir()
    with pytest.raises(SystemExit) as stop:
        slim_here(file, out / 'd', *options)
    *usage, line = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and message in line
    assert all(each.startswith(('usage: ', ' ')) for each in usage)
    assert not list(out.iterdir())


def test_out_is_a_folder(checkpoint, slim_here, capsys, tmp_path):
    refused(partial(_to_parent, slim_here), capsys, tmp_path, 'is a folder; give a name in it',
            checkpoint('vit'), '--flops', '0.7')  # fmt: skip


def _to_parent(slim_here, file, out, *options):
    slim_here(file, out.parent, *options)


@pytest.mark.parametrize('family, gates', [('vit', True), ('vit', 'dims'), ('pvtv2', True)])
def test_publishing_folds_gates(family, gates, tmp_path):
    """A finished run with gates, not slimmed, is a plain network; a stage of it is a small one."""
    cfg = search_config(family, gates=gates)
    model = search_model(cfg)
    budget, plan = budget_for(model, epochs=[1, 1, 1])
    meta = dict(bvit_mm=dict(plan=record_of(plan, budget), batches_done=0))
    file = str(save(tmp_path / 'epoch_3.pth', cfg, model, **meta))
    files = write_published(publish(file), tmp_path / 'whole')
    assert not [key for key in torch.load(files[0])['state_dict'] if key.endswith('.gate')]
    assert 'gates' not in files[1].read_text()
    plain = loaded(files)
    assert type(plain.backbone) is cases.FAMILIES[family].plain
    assert_near(outputs(plain, family), outputs(model, family))
    model.backbone.set_training_stage(0)
    file = save(tmp_path / 'stage_1.pth', cfg, model, epoch=1, **meta)
    small = loaded(write_published(publish(str(file), stage=1), tmp_path / 'small'))
    assert_near(outputs(small, family), outputs(model, family))


@pytest.mark.parametrize('family, gates', [('vit', True), ('vit', 'dims'), ('swin', True)])
def test_publishing_the_slimmed_stage_of_a_run(family, gates, tmp_path):
    """Its units were sorted, its gates folded; those that rest count as 1 whatever they are."""
    cfg = search_config(family, gates=gates)
    model = search_model(cfg)
    backbone = model.backbone
    kept = some_units(backbone)
    sort_units_(backbone, kept)
    for module, _ in backbone.read_units():
        module.fold_gates_()
        module.gate.data.mul_(0.9)
    backbone.add_phases_(slim_stage(backbone, widths_of(backbone, kept)))
    backbone.set_training_stage(4)
    plan = Plan(tuple(backbone.flops(k) / 1e9 for k in range(5)), (1,) * 5, 1.0)
    meta = dict(bvit_mm=dict(plan=plan.as_dict(), batches_done=0))
    published = publish(str(save(tmp_path / 'epoch_5.pth', cfg, model, epoch=5, **meta)))
    files = write_published(published, tmp_path / 'slim')
    small = loaded(files)
    assert_near(outputs(small, family), outputs(model, family))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    about = published.checkpoint['meta']['bvit_mm']
    assert about['widths'] == Config.fromfile(files[1]).model.backbone.widths
    assert round(about['gflops'] * 1e9) == backbone.flops(4) + classifier_flops(model)
    with pytest.raises(ValueError, match='timm has no network for a slimmed Elastic'):
        to_timm(published.checkpoint['state_dict'], published.backbone)
    for k, epoch in ((0, 1), (2, 3)):  # gates rest too while the network grows
        backbone.set_training_stage(k)
        file = str(save(tmp_path / f'stage_{k + 1}.pth', cfg, model, epoch=epoch, **meta))
        small = loaded(write_published(publish(file, stage=k + 1), tmp_path / f'stage{k}'))
        assert_near(outputs(small, family), outputs(model, family))
        with pytest.raises(ValueError, match=r'is not the whole network|gates that are all 1'):
            read_search(file)
    backbone.set_training_stage(3)  # the end of the search, when gates have learned
    search = read_search(str(save(tmp_path / 'stage_4.pth', cfg, model, epoch=4, **meta)))
    assert_near(outputs(search.trained.model, family), outputs(model, family))
    (size,) = slimmed(search, budgets(search, 0.6))
    (files,) = write_slimmed([size], tmp_path / 'later')
    assert_near(outputs(loaded(files), family), outputs(masked(search, size.kept), family))
    with pytest.raises(ValueError, match='it is in training stage 4 of 5'):
        publish(search.trained.file)


@pytest.mark.parametrize(
    'widths, kind',
    [
        (dict(heads=[1, 3], hidden=[20, 30]), 'bvit_mm.ElasticVisionTransformer'),
        (dict(hidden=[20, 30]), 'VisionTransformer'),
        (dict(heads=[3, 3], hidden=[20, 30]), 'VisionTransformer'),
        (dict(dims=[[8, 0, 3], [8, 8, 8]]), 'bvit_mm.ElasticVisionTransformer'),
        (dict(dims=[[8, 8, 8]] * 2, hidden=[20, 30]), 'VisionTransformer'),
    ],
)
def test_publishing_a_retrained_network(widths, kind, tmp_path):
    """It stays slimmed; mmpretrain's class has it if its heads are all there."""
    cfg = search_config(gates=False, training_stages=None, widths=widths)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    budget, plan = budget_for(model, epochs=[3])
    meta = dict(bvit_mm=dict(plan=record_of(plan, budget), batches_done=0))
    file = save(tmp_path / 'epoch_3.pth', cfg, model, **meta)
    files = write_published(publish(str(file)), tmp_path / 'slim')
    assert Config.fromfile(files[1]).model.backbone.type == kind
    assert_near(outputs(loaded(files)), outputs(model))
