# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Publishing, and every consumer of what is published."""

import hashlib
from functools import partial
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmpretrain import ImageClassificationInferencer, get_model

from bvit_mm.cost import build_to_count
from bvit_mm.publish.network import _config_of, publish, write_published
from bvit_mm.publish.timm_names import to_timm
from bvit_mm.reading.weights import cut_prefix
from bvit_mm.testing.closeness import assert_near

from .support import cases
from .support.consumers import changes_of, side, timms
from .support.runs import FAMILIES, build
from .support.scripts import run_tool

ROOT = Path(__file__).parent.parent
every_family = pytest.mark.parametrize('family', FAMILIES)


@pytest.fixture(scope='module')
def work_dirs(tmp_path_factory):
    """A finished run of each family, three stages of one epoch, with averaged weights."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        changes = {
            **changes_of(family),
            'train_cfg.epochs': [1, 1, 1],
            'custom_hooks': [
                dict(type='bvit_mm.StageSwitchHook'),
                dict(type='EMAHook', momentum=0.5),
            ],
        }
        build(folders[family], **changes).train()
    return folders


@pytest.fixture(scope='module')
def published(work_dirs):
    """The published files of each family."""
    return {
        family: write_published(publish(str(folder / 'epoch_3.pth')), folder / 'model')
        for family, folder in work_dirs.items()
    }


def images(size=16):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@every_family
def test_published_file(work_dirs, published, family):
    weights, config = published[family]
    raw = torch.load(work_dirs[family] / 'epoch_3.pth', weights_only=False)
    content = torch.load(weights, weights_only=True)
    assert weights.stem == 'model-' + hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    assert set(content) == {'state_dict', 'meta'}
    assert list(content['state_dict']) == list(raw['state_dict'])
    for key, value in content['state_dict'].items():
        assert torch.equal(value, raw['state_dict'][key])
    about = content['meta']['bvit_mm']
    assert about['plan'] == raw['meta']['bvit_mm']['plan']
    assert [stage['epochs'] for stage in about['plan']['stages']] == [1, 1, 1]
    assert about['spent'] == pytest.approx(about['plan']['cost'])
    assert (about['weights'], about['epoch'], about['training_stage']) == ('ema', 3, 3)
    assert content['meta']['dataset_meta'] == dict(classes=list('abcd'))
    assert str(work_dirs[family].parent) not in config.read_text() + str(content['meta'])
    assert "type='Resize'" in config.read_text() and 'bvit_mm.Resize' not in config.read_text()


@every_family
def test_publishing_again_writes_the_same_file(work_dirs, published, family, tmp_path):
    weights, _ = published[family]
    again, _ = write_published(publish(str(work_dirs[family] / 'epoch_3.pth')), tmp_path / 'model')
    assert again.name == weights.name and again.read_bytes() == weights.read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ['.pth', '.py']


@every_family
def test_raw_and_averaged_weights(work_dirs, family):
    file = str(work_dirs[family] / 'epoch_3.pth')
    checkpoint = torch.load(file, weights_only=False)
    raw, averaged = (publish(file, weights).checkpoint['state_dict'] for weights in ('raw', 'ema'))
    trained = cut_prefix(checkpoint['ema_state_dict'], 'module.')
    assert all(torch.equal(raw[key], trained[key]) for key in averaged)
    assert not all(torch.equal(raw[key], averaged[key]) for key in raw)


@every_family
def test_every_consumer_agrees(work_dirs, published, family):
    """ours, the plain class through ``get_model``, and timm's."""
    weights, config = published[family]
    raw = torch.load(work_dirs[family] / 'epoch_3.pth', weights_only=False)
    ours = MODELS.build(Config.fromstring(raw['meta']['cfg'], '.py').model)
    ours.load_state_dict(torch.load(weights, weights_only=True)['state_dict'], strict=True)
    plain = get_model(str(config), pretrained=str(weights), device='cpu')
    assert type(plain.backbone) is cases.FAMILIES[family].plain
    models = [ours, plain]
    if family in cases.TIMM:
        theirs = timms(family)
        renamed = to_timm(torch.load(weights, weights_only=True)['state_dict'], ours.backbone)
        theirs.load_state_dict(renamed, strict=True)
        models.append(theirs)
    outputs = []
    for model in models:
        model.eval()
        with torch.no_grad():
            outputs.append(model(images(side(family))))
    for each in outputs[1:]:
        assert each.std() > 0.01
        assert_near(each, outputs[0])


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('size', [16, 24, 32])
def test_swin_of_detectors_and_segmentors_agrees(published, package, size):
    weights, _ = published['swin']
    options = dict(
        embed_dims=16,
        patch_size=2,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        out_indices=(0, 1),
        init_cfg=ConfigDict(type='Pretrained', checkpoint=str(weights), prefix='backbone.'),
    )
    # Without compiled operators mmdet.models cannot be imported, but its backbones can, once
    # mmpretrain has tried to: so not at the top of this file.
    foreign = import_module(f'{package}.models.backbones').SwinTransformer
    theirs = foreign(pretrain_img_size=16, strides=(2, 2), **options)
    theirs.init_weights()
    arch = {name: options.pop(name) for name in ('embed_dims', 'depths', 'num_heads')}
    ours = MODELS.build(
        dict(
            type='bvit_mm.ElasticSwinTransformer',
            arch=arch,
            img_size=16,
            pad_small_map=True,
            **options,
        )
    )
    ours.init_weights()
    ours.norm0.load_state_dict(theirs.norm0.state_dict())  # new in both
    ours.eval()
    theirs.eval()
    for a, b in zip(ours(images(size)), theirs(images(size))):
        assert_near(a, b)


@every_family
def test_inferencer(published, family, tmp_path):
    weights, config = published[family]
    shape = (side(family), side(family), 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    inferencer = ImageClassificationInferencer(str(config), pretrained=str(weights), device='cpu')
    (result,) = inferencer(str(tmp_path / 'image.png'))
    model = get_model(str(config), pretrained=str(weights), device='cpu')
    model.eval()
    scores = model(torch.tensor(image).permute(2, 0, 1)[None].float()).softmax(1)[0]
    assert_near(torch.tensor(result['pred_scores']), scores)
    assert result['pred_class'] == 'abcd'[scores.argmax()]


@every_family
def test_stages_of_a_run_are_models_of_several_sizes(work_dirs, published, family, tmp_path):
    sizes = [sum(p.numel() for p in _model(*published[family]).parameters())]
    for stage in (2, 1):
        file = work_dirs[family] / f'stage_{stage}.pth'
        weights, config = write_published(publish(str(file), stage=stage), tmp_path / 'small')
        small = _model(weights, config)
        whole = MODELS.build(
            Config.fromstring(torch.load(file, weights_only=False)['meta']['cfg'], '.py').model
        )
        whole.load_state_dict(torch.load(file, weights_only=False)['state_dict'])
        whole.eval()
        assert whole.backbone.training_stage == stage - 1
        given = images(side(family))
        assert_near(small(given), whole(given))
        sizes.append(sum(p.numel() for p in small.parameters()))
        about = torch.load(weights, weights_only=True)['meta']['bvit_mm']
        assert (about['training_stage'], about['epoch']) == (stage, stage)
        assert about['gflops'] == about['plan']['stages'][stage - 1]['gflops']
        assert about['spent'] == pytest.approx(
            sum(s['cost'] for s in about['plan']['stages'][:stage])
        )
    assert sizes[0] > sizes[1] > sizes[2]


def _model(weights, config):
    model = get_model(str(config), pretrained=str(weights), device='cpu')
    model.eval()
    return model


def test_stages_are_not_kept_twice(work_dirs):
    for folder in work_dirs.values():
        names = sorted(path.name for path in folder.glob('stage_*.pth'))
        assert names == ['stage_1.pth', 'stage_2.pth']


@pytest.fixture
def publish_here():
    """Runs tools/publish.py in this process."""
    return partial(run_tool, 'publish')


def test_tool(work_dirs, publish_here, capsys, tmp_path):
    publish_here(work_dirs['swin'] / 'epoch_3.pth', tmp_path / 'swin.pth', '--timm')
    first, *files = capsys.readouterr().out.splitlines()
    assert first.startswith(
        'ElasticSwinTransformer, ema weights after epoch 3 of 3, training stage 3 of 3: '
    )
    names = [Path(line.rsplit(' (', 1)[0]) for line in files]
    assert [path.name[:-12] for path in names] == ['swin-', 'swin', 'swin-timm-']
    assert all(path.is_file() for path in names)
    model = timms('swin')
    timm.models.load_checkpoint(model, str(names[2]), strict=True)


def test_tool_says_why_a_config_does_not_name_the_plain_class(
    work_dirs, publish_here, capsys, tmp_path
):
    publish_here(work_dirs['deit3'] / 'epoch_3.pth', tmp_path / 'deit3')
    _, why, *files = capsys.readouterr().out.splitlines()
    assert why.startswith("its config names bvit_mm.ElasticDeiT3: mmpretrain's DeiT3 (1.2.0, and ")
    assert len(files) == 2


def damaged(kind, work_dirs, folder):
    """A file that cannot be published, and its arguments."""
    whole, stage = work_dirs['vit'] / 'epoch_3.pth', work_dirs['vit'] / 'stage_1.pth'
    checkpoint = torch.load(whole, weights_only=False)
    file = folder / f'{kind}.pth'
    if kind == 'unfinished':
        return [stage]
    if kind == 'later stage':
        return [stage, '--stage', '2']
    if kind == 'earlier stage':
        return [whole, '--stage', '1']
    if kind == 'stage 0':
        return [stage, '--stage', '0']
    if kind == 'stage for timm':
        return [stage, '--stage', '1', '--timm']
    if kind == 'nowhere':
        return [folder / 'nowhere.pth']
    if kind == 'a folder':
        return [folder]
    if kind == 'cut':
        file.write_bytes(whole.read_bytes()[:-5000])
        return [file]
    if kind == 'text':
        file.write_text('no checkpoint\n')
        return [file]
    if kind == 'empty':
        file.write_bytes(b'')
        return [file]
    if kind == 'list':
        torch.save([1, 2], file)
        return [file]
    if kind == 'bare weights':
        checkpoint = checkpoint['state_dict']
    elif kind == 'published':
        checkpoint = publish(str(whole)).checkpoint
    elif kind == 'missing key':
        del checkpoint['state_dict']['backbone.ln1.weight']
    elif kind == 'no metadata':
        checkpoint = torch.load(stage, weights_only=False)
        checkpoint['state_dict'] = dict(checkpoint['state_dict'].items())
        checkpoint['ema_state_dict'] = dict(checkpoint['ema_state_dict'].items())
    elif kind == 'meta is None':
        checkpoint['meta'] = None
    elif kind == 'unknown key':
        checkpoint['state_dict']['neck.weight'] = torch.zeros(1)
    elif kind == 'other shape':
        checkpoint['state_dict']['backbone.ln1.weight'] = torch.zeros(7)
    elif kind == 'not finite':
        checkpoint['state_dict']['backbone.ln1.weight'][3] = float('nan')
    elif kind == 'another family':
        swin = torch.load(work_dirs['swin'] / 'epoch_3.pth', weights_only=False)
        checkpoint['state_dict'] = swin['state_dict']
    elif kind == 'no averages':
        del checkpoint['ema_state_dict']
        torch.save(checkpoint, file)
        return [file, '--weights', 'ema']
    torch.save(checkpoint, file)
    return [file]


@pytest.mark.parametrize(
    'kind, message',
    [
        ('unfinished', 'after 1 epochs it is in training stage 1 of 3. Give a checkpoint of the'),
        ('later stage', '--stage 2, but'),
        ('earlier stage', 'is the network of training stage 3 of 3, whose weights went on'),
        ('stage 0', '--stage 0 does not exist; give 1..3'),
        ('no metadata', 'in training stage 1 of its plan, but its weights say stage 3: another'),
        ('meta is None', 'is no training checkpoint of a budgeted run; give a checkpoint of'),
        ('stage for timm', 'timm has no network for a training stage of ElasticVisionTransformer'),
        ('nowhere', 'nowhere.pth can not be found'),
        ('a folder', 'can not be found'),
        ('cut', 'cannot be read as a checkpoint, it is damaged or something else'),
        ('text', 'cannot be read as a checkpoint, it is damaged or something else'),
        ('empty', 'cannot be read as a checkpoint, it is damaged or something else'),
        ('list', 'holds a list, no checkpoint; give a checkpoint of BudgetedTrainLoop'),
        ('bare weights', 'is no training checkpoint of a budgeted run; give a checkpoint of'),
        ('published', 'is published already; give a checkpoint of BudgetedTrainLoop'),
        ('missing key', '1 keys are missing (backbone.ln1.weight)'),
        ('unknown key', '1 keys are not known (neck.weight)'),
        ('other shape', 'size mismatch for backbone.ln1.weight'),
        ('not finite', 'training diverged; give an earlier checkpoint'),
        ('another family', 'does not fit ImageClassifier'),
        ('no averages', 'has no averaged weights'),
    ],
)
def test_bad_input(work_dirs, publish_here, capsys, tmp_path, kind, message):
    out = tmp_path / 'out'
    out.mkdir()
    with pytest.raises(SystemExit) as stop:
        publish_here(*damaged(kind, work_dirs, tmp_path), out / 'model')
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.parametrize('place', ['.', 'folder'])
def test_bad_place(work_dirs, publish_here, capsys, tmp_path, monkeypatch, place):
    (tmp_path / 'folder').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        publish_here(work_dirs['vit'] / 'epoch_3.pth', place)
    assert 'is a folder; give a name in it, such as' in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob('*')] == ['folder']
    publish_here(work_dirs['vit'] / 'epoch_3.pth', 'new/folder/model')
    assert len(list((tmp_path / 'new' / 'folder').iterdir())) == 2


@pytest.mark.parametrize('place', ['notes.txt/model', 'notes.txt/new/model', '/dev/null/model'])
def test_place_below_a_file(work_dirs, publish_here, capsys, tmp_path, monkeypatch, place):
    (tmp_path / 'notes.txt').write_text('mine')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        publish_here(work_dirs['vit'] / 'epoch_3.pth', place)
    assert stop.value.code == 2
    error = ' '.join(capsys.readouterr().err.split())
    assert f'{place} is to lie below a file, which is no folder; give a name in a folder' in error
    assert [p.name for p in tmp_path.rglob('*')] == ['notes.txt']
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_config_keeps_what_the_model_needs(work_dirs):
    """mmpretrain's place for the preprocessor, and imports, of bvit_mm only if it needs it."""
    checkpoint = torch.load(work_dirs['vit'] / 'epoch_3.pth', weights_only=False)
    cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    cfg.data_preprocessor = dict(cfg.model.pop('data_preprocessor'), mean=[10.0, 20.0, 30.0])
    model = build_to_count(cfg.model)
    whole = _config_of(cfg, model.backbone, None)
    assert whole.model.data_preprocessor.mean == [10.0, 20.0, 30.0]
    assert whole.custom_imports.imports == ['tests.support.runs']
    cfg.pop('custom_imports')
    assert 'custom_imports' not in _config_of(cfg, model.backbone, None)
    assert _config_of(cfg, model.backbone, 0).custom_imports.imports == ['bvit_mm']


def test_published_file_is_not_resumed(published, tmp_path):
    with pytest.raises(ValueError, match=r'is published, without what resuming needs; start from'):
        build(
            tmp_path,
            resume=True,
            load_from=str(published['vit'][0]),
            **{'train_cfg.epochs': [1, 1, 1]},
        ).train()
