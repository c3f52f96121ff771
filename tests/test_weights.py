# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Weights that an elastic backbone starts from: all of them get in, or none."""

from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import save_checkpoint

from bvit_mm.cost import find_backbone

from .support.cases import CASES
from .support.runs import FAMILIES, config
from .support.scripts import run_tool
from .support.tools import ROOT

BASES = {case.name: case for case in CASES if case.name.endswith('-base')}
every_base = pytest.mark.parametrize('name', BASES)


def saved(backbone, file, prefix='backbone.'):
    """A classifier's checkpoint with the weights and metadata of a backbone, and a head."""
    classifier = torch.nn.Module()
    classifier.add_module('backbone', backbone)
    classifier.add_module('head', torch.nn.Linear(3, 4))
    save_checkpoint(dict(state_dict=classifier.state_dict(), meta={}), str(file))
    return dict(type='Pretrained', checkpoint=str(file), prefix=prefix)


@every_base
@pytest.mark.parametrize('prefix', ['backbone.', 'backbone'])
def test_all_weights_get_in(name, prefix, tmp_path):
    case = BASES[name]
    source = case.build()
    backbone = case.build(seed=1, init_cfg=saved(source, tmp_path / 'w.pth', prefix))
    backbone.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key
    assert backbone.init_cfg['type'] == 'Pretrained'


@pytest.mark.parametrize('kind', ['mmengine.Pretrained', PretrainedInit])
def test_other_spellings_of_the_initializer(kind, tmp_path):
    case = BASES['vit-base']
    given = saved(case.build(), tmp_path / 'w.pth') | dict(type=kind)
    weights = torch.load(tmp_path / 'w.pth', weights_only=False)
    del weights['state_dict']['backbone.ln1.weight']
    torch.save(weights, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'1 keys are missing .ln1\.weight.'):
        case.build(seed=1, init_cfg=given).init_weights()


def test_errors_of_the_plain_class_are_passed_on(tmp_path):
    """mmpretrain resizes bias tables before torch looks at shapes, and cannot resize this one."""
    case = BASES['swin-base']
    given = saved(case.build(), tmp_path / 'w.pth')
    weights = torch.load(tmp_path / 'w.pth', weights_only=False)
    key = 'backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    weights['state_dict'][key] = torch.zeros(50, 2)
    torch.save(weights, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'does not fit ElasticSwin.* 1 error while they were fit'):
        case.build(seed=1, init_cfg=given).init_weights()


@every_base
def test_stage_travels_with_them(name, tmp_path):
    """mmengine's own loading with a prefix drops it, and takes them for the whole network."""
    case = BASES[name]
    source = case.build()
    source.set_training_stage(1)
    given = saved(source, tmp_path / 'w.pth')
    backbone = case.build(seed=1, init_cfg=given)
    backbone.init_weights()
    assert backbone.training_stage == 1
    whole = case.build(seed=1, init_cfg=given, training_stages=None)
    with pytest.raises(ValueError, match=r'of an unfinished run, at a training stage with \w+='):
        whole.init_weights()


@every_base
def test_small_network_of_one_stage_starts_another(name, tmp_path):
    case = BASES[name]
    source = case.build(only_stage=0)
    backbone = case.build(seed=1, only_stage=0, init_cfg=saved(source, tmp_path / 'w.pth'))
    backbone.init_weights()
    assert torch.equal(backbone(case.images())[0], source(case.images())[0])


def test_norms_of_other_levels_are_new(tmp_path):
    case = BASES['swin-base']
    given = saved(case.build(), tmp_path / 'w.pth')
    backbone = case.build(seed=1, init_cfg=given, out_indices=(0, 1, 2))
    before = backbone.norm0.weight.clone()
    backbone.init_weights()
    assert torch.equal(backbone.norm0.weight, before)
    assert not torch.equal(backbone.norm2.weight, before)
    without_last = case.build(seed=1, init_cfg=given, out_indices=(0, 1))
    without_last.init_weights()
    assert not hasattr(without_last, 'norm2')


@every_base
@pytest.mark.parametrize(
    'damage, message',
    [
        ('missing', r'1 keys are missing .\S*\.(?:bias|weight)'),
        ('shape', '1 do not fit .size mismatch for'),
        ('unknown', '1 keys are not known .extra.'),
        ('family', 'keys are missing'),
        ('prefix', "has no key that begins with 'neck.', but such as 'backbone."),
        ('no prefix', r'keys are not known .backbone\.'),
        ('cut', 'cannot be read as a checkpoint, it is damaged or something else'),
        ('text', 'cannot be read as a checkpoint, it is damaged or something else'),
        (
            'nowhere',
            'does not exist, the weights that .* CHECKPOINT=FILE in the environment',
        ),
    ],
)
def test_weights_that_do_not_fit(name, damage, message, tmp_path):
    case, file = BASES[name], tmp_path / 'w.pth'
    source = case.build()
    if damage == 'family':
        source = BASES['swin-base' if name != 'swin-base' else 'vit-base'].build()
    given = saved(source, file)
    checkpoint = torch.load(file, weights_only=False)
    key = 'backbone.' + next(name for name, param in source.named_parameters() if param.ndim == 1)
    if damage == 'missing':
        del checkpoint['state_dict'][key]
    elif damage == 'shape':
        checkpoint['state_dict'][key] = torch.zeros(7)
    elif damage == 'unknown':
        checkpoint['state_dict']['backbone.extra'] = torch.zeros(7)
    elif damage == 'prefix':
        given['prefix'] = 'neck.'
    elif damage == 'no prefix':
        del given['prefix']
    torch.save(checkpoint, file)
    if damage == 'cut':
        file.write_bytes(file.read_bytes()[:-2000])
    elif damage == 'text':
        file.write_text('weights')
    elif damage == 'nowhere':
        file.unlink()
    backbone = case.build(seed=1, init_cfg=given)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        backbone.init_weights()


@pytest.fixture
def test_here():
    """Runs tools/test.py in this process."""
    return partial(run_tool, 'test')


@pytest.mark.parametrize(
    'kind, message',
    [
        ('family', 'does not fit ImageClassifier: '),
        ('classes', '2 do not fit (size mismatch for head.layers.head.weight'),
        ('nowhere', 'nowhere.pth can not be found'),
        ('text', 'cannot be read as a checkpoint'),
    ],
)
def test_evaluating_weights_that_do_not_fit(kind, message, test_here, tmp_path, capsys):
    """mmengine would warn and evaluate random weights."""
    init_default_scope('mmpretrain')
    cfg, file = config(tmp_path / 'work'), tmp_path / 'w.pth'
    model = MODELS.build(cfg.model)
    if kind == 'family':
        model = MODELS.build(config(tmp_path, **FAMILIES['swin']).model)
    torch.save(dict(state_dict=model.state_dict()), file)
    if kind == 'nowhere':
        file = tmp_path / 'nowhere.pth'
    elif kind == 'text':
        file.write_text('weights')
    elif kind == 'classes':
        cfg.model.head.num_classes = 7
    cfg.dump(str(tmp_path / 'config.py'))
    with pytest.raises(SystemExit) as stop:
        test_here(tmp_path / 'config.py', file)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()


def test_another_family_is_no_start_for_a_detector(tmp_path, monkeypatch):
    """The same through a downstream config, at its real size."""
    source = MODELS.build(dict(type='bvit_mm.ElasticVisionTransformer', arch='deit-tiny'))
    monkeypatch.setenv('CHECKPOINT', saved(source, tmp_path / 'w.pth')['checkpoint'])
    path = ROOT / 'configs/transfer/ade20k/fpn_pvtv2-b2-linear_8xb4-40k_ade20k-512x512.py'
    cfg = Config.fromfile(path)
    cfg.model.decode_head.norm_cfg = dict(type='BN')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    with pytest.raises(ValueError, match='does not fit ElasticPVTv2: '):
        find_backbone(model).init_weights()
