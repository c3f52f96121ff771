# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""tools/analyze.py: it measures what the hook does, and draws it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bvit_mm.analysis.hook import LOG, read_records

from .support.measured import MEASURE, SWITCH, draw, every_family
from .support.runs import FAMILIES, build, config
from .support.scripts import run_tool


@pytest.fixture
def analyze(capsys):
    """Runs tools/analyze.py in this process, which knows the data set of tests/support/runs.py."""

    def run(*args, fails=False):
        if not fails:
            run_tool('analyze', *args)
            # after what the logger of a run says that was trained in this process
            return capsys.readouterr().out.splitlines()
        with pytest.raises(SystemExit) as stop:
            run_tool('analyze', *args)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Finished runs of the families, with the hook."""
    finished = {}

    def of(family):
        if family not in finished:
            finished[family] = tmp_path_factory.mktemp(family)
            changes = {**FAMILIES[family], 'custom_hooks': [SWITCH, MEASURE]}
            changes['val_dataloader.dataset'] = dict(type='TinyDataset', noise=0.0)
            build(finished[family], **changes).train()
        return finished[family]

    return of


def pictures(out):
    return {path.name for path in out.iterdir()} - {'redundancy.json'}


@every_family
def test_tool_measures_what_the_hook_measured(analyze, runs, tmp_path, family):
    files = sorted(runs(family).glob('epoch_*.pth'), reverse=True)
    out = tmp_path / 'new' / 'out'
    printed = analyze(*files, '--num-images', 6, '--out', out)
    assert [Path(line).name for line in printed[-4:]] == [
        'redundancy.json',
        'cka.pdf',
        'cka_matrices.pdf',
        'components.pdf',
    ]
    assert pictures(out) == {Path(line).name for line in printed[-3:]}
    assert all((out / name).read_bytes().startswith(b'%PDF') for name in pictures(out))
    measured = json.loads((out / 'redundancy.json').read_text())
    for ours, theirs in zip(measured, read_records(runs(family) / LOG)):
        assert Path(ours.pop('checkpoint')).name == f'epoch_{theirs["epoch"]}.pth'
        assert ours == theirs
    assert len(measured) == 6


def test_tool_draws_attention(analyze, runs, tmp_path):
    folder = runs('vit')
    files = [folder / f'epoch_{n}.pth' for n in (2, 4, 6)]
    options = ['--what', 'attention', '--num-images', 3, '--format', 'png', '--block', 2]
    analyze(*files, *options, '--out', tmp_path)
    assert pictures(tmp_path) == {'attention.png'}
    picture = cv2.imread(str(tmp_path / 'attention.png'))
    assert min(picture.shape[:2]) > 300 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    records = json.loads((tmp_path / 'redundancy.json').read_text())
    assert [np.shape(r['attention']['maps']) for r in records] == [(3, 6, 6), (3, 6, 6), (3, 8, 8)]
    assert {r['attention']['block'] for r in records} == {'2'}
    assert all(r['attention']['grid'] == [8, 8] and 'cka' not in r for r in records)


def test_tool_draws_a_log_of_the_hook(analyze, runs, tmp_path):
    printed = analyze('--log', runs('swin') / LOG, '--out', tmp_path, '--format', 'svg')
    assert pictures(tmp_path) == {'cka.svg', 'cka_matrices.svg', 'components.svg'}
    assert {Path(line).name for line in printed[-3:]} == pictures(tmp_path)
    assert '<svg' in (tmp_path / 'cka.svg').read_text()


def test_tool_reads_other_images_as_the_config_does(analyze, runs, tmp_path):
    """Also with averaged weights, whose raw ones are the default, and another config."""
    file, pipeline = (
        runs('vit') / 'epoch_6.pth',
        [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(16, 16)),
            dict(type='PackInputs'),
        ],
    )
    (tmp_path / 'images' / 'any').mkdir(parents=True)
    for i in range(3):
        image = draw(20, 20, 3, seed=i).numpy() * 50 + 128
        cv2.imwrite(str(tmp_path / 'images' / 'any' / f'{i}.png'), image.clip(0, 255))
    cfg = config('unused')
    cfg.val_dataloader.dataset.pipeline = pipeline
    cfg.dump(tmp_path / 'config.py')
    checkpoint = torch.load(file, weights_only=False)
    raw = checkpoint['state_dict']
    averaged = type(raw)((key, 0.5 * value) for key, value in raw.items())
    averaged._metadata = raw._metadata
    # as EMAHook saves them
    checkpoint['ema_state_dict'] = {f'module.{key}': value for key, value in raw.items()}
    checkpoint['state_dict'] = averaged
    torch.save(checkpoint, tmp_path / 'both.pth')
    found = {}
    for name, weights in (('raw', 'raw'), ('ema', 'ema')):
        options = ['--images', tmp_path / 'images', '--config', tmp_path / 'config.py']
        out = tmp_path / name
        analyze(tmp_path / 'both.pth', *options, '--weights', weights, '--out', out)
        (found[name],) = json.loads((out / 'redundancy.json').read_text())
        assert found[name]['images'] == 3
    analyze(file, *options, '--out', tmp_path / 'alone')
    (alone,) = json.loads((tmp_path / 'alone' / 'redundancy.json').read_text())
    assert alone['cka'] == found['raw']['cka'] != found['ema']['cka']


def test_tool_with_bad_input(analyze, runs, tmp_path):
    folder, out = runs('vit'), ['--out', tmp_path / 'out']
    last = folder / 'epoch_6.pth'
    (tmp_path / 'damaged.pth').write_bytes(b'no checkpoint')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty.jsonl').write_text('')
    torch.save(dict(state_dict={}), tmp_path / 'bare.pth')
    torch.save(dict(state_dict={}, meta=dict(epoch=1)), tmp_path / 'no_config.pth')
    cfg = config('unused', **{'val_dataloader.dataset.pipeline': [dict(type='PackInputs')]})
    cfg.dump(tmp_path / 'config.py')
    pipeline = ['--config', tmp_path / 'config.py']
    config('unused', **{'model.backbone.arch.num_layers': 1}).dump(tmp_path / 'other.py')
    (tmp_path / 'bare.py').write_text('image_size = 16\n')
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    config('unused', **{'model.type': 'Nope'}).dump(tmp_path / 'nope.py')
    for args, message in (
        ([last], 'the following arguments are required: --out'),
        ([*out], 'give checkpoints to measure, or --log redundancy.jsonl: one of them'),
        ([last, *out, '--log', folder / LOG], 'one of them'),
        ([folder / 'nowhere.pth', *out], 'nowhere.pth does not exist'),
        ([tmp_path / 'damaged.pth', *out], 'cannot be read as a checkpoint'),
        ([tmp_path / 'bare.pth', *out], 'bare.pth is no checkpoint of training; give one of'),
        ([tmp_path / 'no_config.pth', *out], 'holds no config; give --config'),
        ([last, *out, '--config', tmp_path / 'other.py'], 'keys are not known'),
        ([last, *out, '--config', tmp_path / 'bare.py'], 'bare.py has no model; give a config'),
        ([last, *out, '--config', tmp_path / 'nope.py'], 'KeyError: '),
        ([last, *out, '--config', tmp_path / 'broken.py'], 'SyntaxError: '),
        ([last, *out, '--what', 'tokens'], "invalid choice: 'tokens'"),
        ([last, *out, '--num-images', 0], '--num-images 0 must be 1 or more'),
        ([last, '--out', last], 'is no folder; give another'),
        ([last, *out, '--weights', 'ema'], 'has no averaged weights'),
        ([last, *out, '--images', tmp_path / 'empty'], 'does not say how to read images'),
        ([last, *out, '--images', tmp_path / 'no', *pipeline], 'is no folder'),
        ([last, *out, '--images', tmp_path / 'empty', *pipeline], 'empty has no images'),
        ([last, *out, '--what', 'attention', '--block', 7], "block='7' does not exist"),
        ([folder / 'epoch_1.pth', *out], 'every attention has one head, so there are no pairs'),
        ([runs('swin') / 'epoch_6.pth', *out, '--what', 'attention'], 'has no class token here'),
        ([*out, '--log', folder / LOG, '--what', 'attention'], '--log has no attention'),
        ([*out, '--log', tmp_path / 'no.jsonl'], 'no.jsonl does not exist'),
        ([*out, '--log', tmp_path / 'empty.jsonl'], 'has no records'),
        ([*out, '--log', last], 'is no record of RedundancyHook'),
    ):
        assert message in ' '.join(analyze(*args, fails=True).split()), args
    assert not (tmp_path / 'out').exists()
