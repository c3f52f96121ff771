# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training, validation and test data with other classes are refused, before the first iteration."""

import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.runner import FlexibleRunner
from mmpretrain.datasets import CustomDataset

from bvit_mm.publish.network import publish
from bvit_mm.running.class_count_hook import check_same_classes

from .support.runs import build


@pytest.fixture
def folder(tmp_path):
    """Makes an image folder with two images of each class, and with folders that are empty."""

    def make(name, classes, empty=()):
        for each in (*classes, *empty):
            (tmp_path / name / each).mkdir(parents=True)
        for label, each in enumerate(classes):
            for i in range(2):
                image = np.full((16, 16, 3), 40 * label + i, np.uint8)
                cv2.imwrite(str(tmp_path / name / each / f'{i}.png'), image)
        return tmp_path / name

    return make


def data(root, **options):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    return dict(
        _delete_=True, type='CustomDataset', data_root=str(root), pipeline=pipeline, **options
    )


def run(work_dir, train, val, **changes):
    changes = {
        'train_dataloader.dataset': data(train) if not isinstance(train, dict) else train,
        'val_dataloader.dataset': data(val) if not isinstance(val, dict) else val,
        'train_cfg.epochs': [1, 0, 1],
        **changes,
    }
    return build(work_dir, **changes)


OTHER = [
    (
        'abcd',
        'bcd',
        'it lacks a. So its labels would count for other classes. the training data has 4 '
        '(a, b, c, d), and the validation data 3 (b, c, d); give both a folder for each class, '
        'which may be empty',
    ),
    ('abc', 'abcd', 'only it has d. So'),
    ('abcd', 'abxy', 'it lacks c, d and only it has x, y. So'),
]


@pytest.mark.parametrize('train, val, message', OTHER, ids=['fewer', 'more', 'others'])
@pytest.mark.parametrize('loop', ['budgeted', 'other'])
def test_validation_with_other_classes(folder, tmp_path, train, val, message, loop):
    changes = {}
    if loop == 'other':
        changes = {
            'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2),
            'custom_hooks': [dict(type='bvit_mm.ClassCountHook')],
        }
    runner = run(tmp_path / 'w', folder('train', train), folder('val', val), **changes)
    with pytest.raises(ValueError) as error:
        runner.train()
    start = 'the validation data has other classes than the training data: '
    assert start + message in str(error.value)
    assert runner.iter == 0 and not list((tmp_path / 'w').glob('*.pth'))


def test_an_empty_folder_makes_the_classes_the_same(folder, tmp_path):
    train, val = folder('train', 'abcd'), folder('val', 'bcd', empty='a')
    runner = run(tmp_path / 'w', train, val)
    runner.train()
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() >= 0


@pytest.mark.parametrize('where', ['train', 'val'])
def test_a_folder_that_is_no_class_is_named(folder, tmp_path, where):
    empty = {where: ['.ipynb_checkpoints']}
    train, val = (folder(name, 'abc', empty.get(name, ())) for name in ('train', 'val'))
    runner = run(tmp_path / 'w', train, val)
    place = f'{tmp_path}/{where}/.ipynb_checkpoints'
    with pytest.raises(ValueError, match=f'the folder {place} holds no image: remove it'):
        runner.train()


def test_folders_that_are_no_classes_are_named_before_more_outputs(folder, tmp_path):
    train = folder('train', 'abcd', ['.cache', '.ipynb_checkpoints'])
    runner = run(tmp_path / 'w', train, train)
    message = (
        'the training data has 6 classes .*but model.head has num_classes=4; the folders '
        f'{train}/.cache, {train}/.ipynb_checkpoints hold no image: remove them, or give model.head'
    )
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_stated_names_do_not_hide_other_folders(folder, tmp_path):
    train, val = (
        data(folder(name, classes), metainfo=dict(classes=['cat', 'dog', 'owl']))
        for name, classes in (('train', 'abc'), ('val', 'bcd'))
    )
    with pytest.raises(ValueError, match='it lacks a and only it has d'):
        run(tmp_path / 'w', train, val).train()


def test_wrapped_data(folder):
    first, same, other = (
        CustomDataset(data_root=str(folder(name, classes)))
        for name, classes in (('first', 'abc'), ('same', 'abc'), ('other', 'ab'))
    )
    wrapped = ConcatDataset([first, same])
    check_same_classes(wrapped, 'mine', RepeatDataset(first, 2), 'theirs')
    check_same_classes(first, 'mine', wrapped, 'theirs')
    for mine, theirs in ((RepeatDataset(other, 2), wrapped), (wrapped, RepeatDataset(other, 2))):
        with pytest.raises(ValueError, match='mine has other classes than theirs: '):
            check_same_classes(mine, 'mine', theirs, 'theirs')


def named(classes):
    """Data whose classes are only named, as of detectors and segmentors."""
    return SimpleNamespace(metainfo=dict(classes=classes))


def test_classes_that_are_only_named():
    check_same_classes(named(('cat', 'dog')), 'mine', named(['cat', 'dog']), 'theirs')
    for unnamed in (None, object(), named(None), named(()), SimpleNamespace(metainfo={})):
        check_same_classes(unnamed, 'mine', named(['cat']), 'theirs')
        check_same_classes(named(['cat']), 'mine', unnamed, 'theirs')
    with pytest.raises(ValueError, match='theirs: they are in another order'):
        check_same_classes(named(['dog', 'cat']), 'mine', named(['cat', 'dog']), 'theirs')
    many = [f'c{i}' for i in range(1000)]
    with pytest.raises(ValueError, match=r'has 1000 \(c0, .*, c9, \.\.\.\), and mine 999') as error:
        check_same_classes(named(many[1:]), 'mine', named(many), 'theirs')
    assert len(str(error.value)) < 400


def test_a_checkpoint_knows_its_classes(folder, tmp_path):
    """At a test, at a validation alone, and when a run is resumed."""
    same, other = folder('same', 'abcd'), folder('other', 'abdx')
    run(tmp_path / 'w', same, same).train()
    file = tmp_path / 'w' / 'epoch_2.pth'
    assert publish(str(file)).checkpoint['meta']['class_folders'] == list('abcd')
    tests = {
        'test_dataloader': dict(
            dataset=data(same),
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        'test_evaluator': dict(type='Accuracy'),
        'test_cfg': dict(),
        'load_from': str(file),
    }
    tests['test_dataloader']['dataset'].pop('_delete_')
    assert 'accuracy/top1' in run(tmp_path / 't', same, same, **tests).test()
    message = 'has other classes than the checkpoint: it lacks c and only it has x. So'
    tests['test_dataloader']['dataset']['data_root'] = str(other)
    with pytest.raises(ValueError, match=f'the test data {message}'):
        run(tmp_path / 't', same, same, **tests).test()
    with pytest.raises(ValueError, match=f'the validation data {message}'):
        run(tmp_path / 't', same, other, load_from=str(file)).val()
    with pytest.raises(ValueError, match=f'the training data {message}'):
        first = str(tmp_path / 'w' / 'epoch_1.pth')
        run(tmp_path / 'r', other, other, load_from=first, resume=True).train()
    run(tmp_path / 'f', other, other, load_from=str(file)).train()  # that is fine-tuning
    tests.pop('load_from')  # FlexibleRunner loads before it calls before_run
    with pytest.raises(ValueError, match=f'the test data {message}'):
        flexible(tmp_path / 'n', same, same, load_from=str(file), **tests).test()


def flexible(work_dir, train, val, load_from, **changes):
    cfg = run(work_dir, train, val, **changes).cfg
    left = ('launcher', 'env_cfg', 'resume', 'load_from', 'experiment_name')
    options = {key: value for key, value in cfg.items() if key not in left}
    return FlexibleRunner(
        **options, cfg=cfg, load_from=load_from, experiment_name=f'flexible-{work_dir.name}'
    )


@pytest.mark.parametrize('loop', ['budgeted', 'other'])
def test_a_checkpoint_knows_its_folders(folder, tmp_path, loop):
    """Names that only the training data states do not make the same folders other classes."""
    changes = {}
    if loop == 'other':
        changes = {
            'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2),
            'custom_hooks': [dict(type='bvit_mm.ClassCountHook')],
        }
    same, other = folder('same', 'abc'), folder('other', 'abx')
    named = data(same, metainfo=dict(classes=['cat', 'dog', 'owl']))
    run(tmp_path / 'w', named, same, **changes).train()
    file = tmp_path / 'w' / 'epoch_2.pth'
    saved = torch.load(file, weights_only=False)
    assert saved['meta']['class_folders'] == ['a', 'b', 'c']
    run(tmp_path / 'v', named, same, load_from=str(file), **changes).val()
    run(tmp_path / 'r', same, same, load_from=str(file), resume=True, **changes).train()
    message = 'the validation data has other classes than the checkpoint: it lacks c and only it'
    with pytest.raises(ValueError, match=message):
        run(tmp_path / 'v', named, other, load_from=str(file), **changes).val()
    del saved['meta']['class_folders']  # as of checkpoints without them
    torch.save(saved, file)
    advice = (
        'if its folders a, b, c are those of the checkpoint, in this order, give '
        "dataset.metainfo=dict(classes=['cat', 'dog', 'owl'])"
    )
    with pytest.raises(ValueError, match=re.escape(advice)):
        run(tmp_path / 'v', named, same, load_from=str(file), **changes).val()
    run(tmp_path / 'v', named, named, load_from=str(file), **changes).val()


def test_training_data_of_other_folders_is_named_itself(folder):
    stated = dict(classes=['cat', 'dog', 'owl'])
    first, second = (
        CustomDataset(data_root=str(folder(name, classes)), metainfo=stated)
        for name, classes in (('first', 'abc'), ('second', 'abx'))
    )
    message = 'a part of the training data has other classes than its first part: it lacks c and'
    for validated in (None, first):
        with pytest.raises(ValueError, match=message):
            check_same_classes(
                validated, 'mine', ConcatDataset([first, second]), 'the training data'
            )
