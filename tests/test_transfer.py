# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Every downstream config trains and evaluates, from a published checkpoint, on drawn data.

The configs are made small here: backbone, heads, images, one iteration.
"""

import re
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner

from bvit_mm.publish.network import publish, write_published
from bvit_mm.running.class_count_hook import check_classes

from .support.configs import CONFIGS, row
from .support.runs import build
from .support.scripts import load_script, run_tool
from .support.tools import ROOT

DEMOS = sorted((ROOT / 'configs' / 'demo' / 'transfer').glob('*.py'))
CLASSES = ('cross', 'disc', 'ring', 'square', 'star', 'triangle')
STAGES = ('sky', 'floor', *CLASSES)
BACKBONES = dict(
    vit=dict(
        type='bvit_mm.ElasticVisionTransformer',
        arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
        img_size=32,
        patch_size=8,
    ),
    pvtv2=dict(
        type='bvit_mm.ElasticPVTv2',
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 3, 4),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(1, 1, 1, 1),
        ),
        linear=True,
        img_size=32,
    ),
    cswin=dict(
        type='bvit_mm.ElasticCSWin',
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 1, 1, 1),
            num_heads=(2, 2, 4, 4),
            mlp_ratios=(2, 2, 2, 2),
        ),
        img_size=32,
        window=(2, 2, 1, 1),
    ),
    swin=dict(
        type='bvit_mm.ElasticSwinTransformer',
        arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 4]),
        img_size=32,
        window_size=4,
        pad_small_map=True,
    ),
    convnext=dict(
        type='bvit_mm.ElasticConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
        img_size=32,
    ),
)
WIDTHS = dict(
    cswin=[8, 16, 24, 32],
    pvtv2=[8, 16, 24, 32],
    swin=[16, 32, 64, 128],
    convnext=[8, 16, 24, 32],
)
FEW = dict(num_workers=0, persistent_workers=False, batch_size=2)


@HOOKS.register_module()
class StartHook(Hook):
    """Keeps the backbone's weights as they are before the first iteration."""

    def before_train(self, runner):
        runner.backbone_at_start = {
            key: value.clone() for key, value in runner.model.backbone.state_dict().items()
        }


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    few = ['--train', '4', '--val', '2', '--size', '64']
    run_tool('make_shapes', folder, *few, '--sets', 'coco', 'ade20k', 'cifar10', 'cifar100')
    return folder


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """A published checkpoint of each family, after a budgeted run of three iterations."""
    files = {}
    for family, backbone in BACKBONES.items():
        folder = tmp_path_factory.mktemp(family)
        head = dict(type='VisionTransformerClsHead', in_channels=24)
        neck = None
        if family != 'vit':
            head = dict(type='LinearClsHead', in_channels=WIDTHS[family][-1])
            neck = dict(type='GlobalAveragePooling') if family != 'convnext' else None
        build(
            folder,
            custom_imports=dict(
                imports=['bvit_mm', 'tests.support.runs'], allow_failed_imports=False
            ),
            **{
                'train_cfg.epochs': [1, 1],
                'train_dataloader.batch_size': 10,
                'train_dataloader.dataset.size': (32, 32),
                'val_dataloader.dataset.size': (32, 32),
                'model.backbone': dict(
                    _delete_=True, **backbone, training_stages=[dict(hidden=H[family]), dict()]
                ),
                'model.neck': neck,
                'model.head': head,
            },
        ).train()
        files[family], _ = write_published(publish(str(folder / 'epoch_2.pth')), folder / family)
    return files


H = dict(
    vit=24,
    cswin=(8, 16, 24, 32),
    pvtv2=(8, 16, 24, 32),
    swin=(16, 32, 64, 128),
    convnext=(8, 16, 24, 32),
)


def family_of(name):  # cswin is before swin, which its name contains
    return next((family for family in BACKBONES if family in name), 'vit')


def reduced(cfg, family, shapes):
    """Changes that make a downstream config small and read the drawn data."""
    backbone = {f'model.backbone.{k}': v for k, v in BACKBONES[family].items() if k != 'type'}
    arch = dict(_delete_=True, **BACKBONES[family]['arch'])
    changes = {
        **backbone,
        'model.backbone.arch': arch,
        'default_hooks.logger.interval': 1,
        'custom_hooks': [dict(type='StartHook')],
    }
    if cfg.default_scope == 'mmpretrain':
        return {**changes, **_classification(cfg, shapes)}
    width = WIDTHS[family]
    if cfg.default_scope == 'mmdet':
        return {**changes, **_detection(shapes, width)}
    return {**changes, **_segmentation(cfg, shapes, width)}


def _classification(cfg, shapes):
    pipeline = [
        dict(type='PILToNumpy', to_bgr=True),
        dict(type='Resize', scale=(32, 32)),
        dict(type='PackInputs'),
    ]
    kind = 'drawn_cifar.Drawn' + cfg.train_dataloader.dataset.type
    dataset = dict(type=kind, data_root=str(shapes), pipeline=pipeline)
    loaders = {
        f'{part}_dataloader.{key}': value
        for part in ('train', 'val', 'test')
        for key, value in dict(
            FEW, num_batch_per_epoch=2
        ).items()  # a new head is 0: none for the rest at first
    }
    return {
        **loaders,
        'model.head.in_channels': 24,
        'train_dataloader.dataset': dataset,
        'val_dataloader.dataset': dataset,
        'test_dataloader.dataset': dataset,
        'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler'),
        'train_cfg': dict(max_epochs=1),
        'param_scheduler': [dict(type='CosineAnnealingLR')],
    }


def _detection(shapes, width):
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(64, 48)),
    ]
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    changes = {
        'model.neck.in_channels': width,
        'model.neck.out_channels': 16,
        'model.rpn_head.in_channels': 16,
        'model.rpn_head.feat_channels': 16,
        'model.roi_head.bbox_roi_extractor.out_channels': 16,
        'model.roi_head.bbox_head.in_channels': 16,
        'model.roi_head.bbox_head.fc_out_channels': 16,
        'model.roi_head.bbox_head.num_classes': 6,
        'model.roi_head.mask_roi_extractor.out_channels': 16,
        'model.roi_head.mask_head.in_channels': 16,
        'model.roi_head.mask_head.conv_out_channels': 16,
        'model.roi_head.mask_head.num_classes': 6,
        'model.test_cfg.rpn.max_per_img': 20,
        'train_cfg': dict(max_epochs=1, val_interval=1),
        'param_scheduler': [dict(type='LinearLR', by_epoch=False, end=1)],
    }
    for part in ('train', 'val', 'test'):
        changes.update({f'{part}_dataloader.{key}': value for key, value in FEW.items()})
        place = f'{part}_dataloader.dataset'
        changes[f'{place}.data_root'] = f'{shapes}/coco/'
        changes[f'{place}.metainfo'] = dict(classes=CLASSES)
        changes[f'{place}.pipeline'] = [*load, dict(type='PackDetInputs', meta_keys=meta)]
        if part != 'train':
            file = f'{shapes}/coco/annotations/instances_val2017.json'
            changes[f'{part}_evaluator.ann_file'] = file
    return changes


def _segmentation(cfg, shapes, width):
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
    ]
    resize, pack = [dict(type='Resize', scale=(64, 64))], [dict(type='PackSegInputs')]
    norm = dict(type='BN')
    changes = {
        'model.data_preprocessor.size': (64, 64),
        'model.decode_head.channels': 16,
        'model.decode_head.num_classes': 8,
        'model.decode_head.norm_cfg': norm,
        'train_cfg': dict(max_iters=1, val_interval=1),
        'param_scheduler': [dict(type='PolyLR', by_epoch=False)],
    }
    if 'auxiliary_head' in cfg.model:
        head = 'model.auxiliary_head'
        changes['model.decode_head.in_channels'] = width
        changes[f'{head}.in_channels'] = width[2]
        changes.update({f'{head}.num_classes': 8, f'{head}.norm_cfg': norm})
    else:
        changes.update({'model.neck.in_channels': width, 'model.neck.out_channels': 16})
        changes['model.decode_head.in_channels'] = [16] * 4
    for part, split in (('train', 'training'), ('val', 'validation'), ('test', 'validation')):
        changes.update({f'{part}_dataloader.{key}': value for key, value in FEW.items()})
        changes[f'{part}_dataloader.dataset'] = dict(
            _delete_=True,
            type='BaseSegDataset',
            metainfo=dict(classes=STAGES),
            reduce_zero_label=True,
            data_root=f'{shapes}/ade20k',
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=[*load, *resize, *pack] if part == 'train' else [*load, *pack],
        )
    return changes


METRICS = dict(
    mmpretrain=['accuracy/top1'], mmdet=['coco/bbox_mAP', 'coco/segm_mAP'], mmseg=['mIoU']
)


@pytest.mark.parametrize('path', [row(path) for path in CONFIGS], ids=lambda path: path.stem)
def test_trains_and_evaluates_from_a_published_checkpoint(
    path, shapes, checkpoints, tmp_path, monkeypatch
):
    # The data sets of configs that make_shapes.py draws for, as tools/train.py has them beside it.
    readers = load_script(ROOT / 'tools' / 'drawn_cifar.py')
    monkeypatch.setitem(sys.modules, 'drawn_cifar', readers)
    family = family_of(path.stem)
    monkeypatch.setenv('CHECKPOINT', str(checkpoints[family]))
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(reduced(cfg, family, shapes))
    cfg.work_dir, cfg.experiment_name = str(tmp_path), path.stem
    runner = Runner.from_cfg(cfg)
    runner.train()
    published = torch.load(checkpoints[family], weights_only=True)['state_dict']
    published = {
        key.removeprefix('backbone.'): value
        for key, value in published.items()
        if key.startswith('backbone.')
    }
    start, end = runner.backbone_at_start, runner.model.backbone.state_dict()
    new = dict(swin='norm{}', convnext='norm{}', cswin='levels.{}.norm').get(family, '')
    norms = {f'{new}.{name}'.format(i) for i in range(3) for name in ('weight', 'bias')}
    assert set(start) - set(published) == (norms if new else set())
    assert not set(published) - set(start)
    assert all(torch.equal(start[key], value) for key, value in published.items())
    changed = [key for key in start if not torch.equal(start[key], end[key])]
    assert len(changed) > 0.6 * len(start)
    metrics = runner.val_loop.run()
    for name in METRICS[cfg.default_scope]:
        assert 0 <= metrics[name] <= 100


@pytest.mark.parametrize(
    'name, head',
    [
        row('fpn_pvtv2_shapes', 'decode_head'),
        row('upernet_swin_shapes', 'auxiliary_head'),
        row('mask-rcnn_pvtv2_shapes', 'roi_head.mask_head'),
        row('deit_cifar100-shapes', 'head'),
    ],
)
def test_more_classes_than_a_head_has_are_refused(name, head):
    path = ROOT / 'configs' / 'demo' / 'transfer' / f'{name}.py'
    cfg = Config.fromfile(path)
    assert cfg.custom_hooks == [dict(type='bvit_mm.ClassCountHook')]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        good = MODELS.build(cfg.model)
        cfg.merge_from_dict({f'model.{head}.num_classes': 5})
        model = MODELS.build(cfg.model)
    outputs = good.get_submodule(head).num_classes
    dataset = SimpleNamespace(metainfo=dict(classes=tuple(map(str, range(outputs)))))
    check_classes(good, dataset)
    place = re.escape(f'classes (0, 1, 2, ...), but model.{head} has num_classes=5; give model.')
    with pytest.raises(ValueError, match=f'{outputs} {place}'):
        check_classes(model, dataset)


@pytest.mark.parametrize('path', DEMOS, ids=lambda path: path.stem)
def test_configs_of_the_tour_inherit_the_real_ones(path):
    """And their weights come by the same variable."""
    cfg = Config.fromfile(path)
    base, *_ = Config._get_base_files(str(path))
    assert (path.parent / base).resolve() in CONFIGS
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('work_dirs/tour/')


@pytest.mark.ops
def test_operators_are_compiled():
    """Detectors need them: `make ops` compiles them. This fails, and does not skip."""
    assert find_spec('mmcv._ext'), 'mmcv has no compiled operators here; run: make ops'
