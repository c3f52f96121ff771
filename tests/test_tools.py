# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The command-line tools, ours and stock ones, as a user calls them."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from bvit_mm.cost import plan_of_config

from .support.files import assert_same_run, last_file
from .support.scripts import load_script, run_tool
from .support.tools import DEIT_S, DEMO, ROOT, STOCK, call, script, tool

SWIN_S = ROOT / 'configs' / 'swin' / 'swin-small_bvit-b50_16xb64_in1k.py'
MIM = Path(sys.executable).with_name('mim')


@pytest.fixture
def plan_here():
    """Runs tools/plan.py in this process."""
    return partial(run_tool, 'plan')


@pytest.fixture(scope='module')
def short(digits):
    """Options that make the demo run three epochs of eight batches."""
    loaders = ('train', 'val', 'test')
    return [
        '--cfg-options',
        'train_cfg.budget=None',
        'train_cfg.epochs=[1,1,1]',
        *(f'{name}_dataloader.num_batch_per_epoch=8' for name in loaders),
        f'train_dataloader.dataset.data_root={digits}/train',
        f'val_dataloader.dataset.data_root={digits}/val',
        f'test_dataloader.dataset.data_root={digits}/val',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
    ]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, short):
    """The work_dir of a run with our tools/train.py."""
    work_dir = tmp_path_factory.mktemp('trained')
    tool('train', DEMO, '--work-dir', work_dir, *short, cwd=work_dir.parent)
    return work_dir


def test_digits_are_complete_and_kept(digits):
    for split, count in (('train', 400), ('val', 100)):
        for label in range(10):
            assert len(list((digits / split / str(label)).glob('*.png'))) == count
    assert cv2.imread(str(digits / 'train' / '3' / '000.png')).shape == (28, 28, 3)
    assert 'has all 5000 digits already' in tool('make_digits', digits, cwd=digits.parent)


def test_digits_do_not_overwrite(tmp_path):
    (tmp_path / 'mine').mkdir()
    error = tool('make_digits', tmp_path / 'mine', cwd=tmp_path, fails=True)
    assert 'exists with 0 of 5000 digits; remove it first' in error


def test_stock_tool_trains_the_same(trained, short, tmp_path):
    """mmpretrain's own train.py ends with the same checkpoint."""
    script(STOCK / 'train.py', DEMO, '--work-dir', tmp_path, *short, cwd=tmp_path)
    assert_same_run(last_file(tmp_path), last_file(trained))


@pytest.mark.parametrize('by', ['ours', 'mim'])
def test_resume(trained, short, tmp_path, by):
    """Ours, and `mim train mmpretrain`, resume a run that stopped at the first switch."""
    work_dir = tmp_path / 'resumed'
    work_dir.mkdir()
    shutil.copy(trained / 'epoch_1.pth', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    args = [DEMO, '--work-dir', work_dir, '--resume', *short]
    if by == 'ours':
        tool('train', *args, cwd=tmp_path)
    else:
        call(MIM, 'train', 'mmpretrain', *args, cwd=tmp_path)
    assert_same_run(last_file(work_dir), last_file(trained))


@pytest.mark.parametrize('epoch, stage', [(1, 0), (3, 2)])
def test_test_tools_evaluate_the_stage(trained, short, tmp_path, epoch, stage):
    """Ours and mmpretrain's agree, on the network of the checkpoint's stage."""
    checkpoint, out = trained / f'epoch_{epoch}.pth', tmp_path / 'metrics.json'
    args = ['--work-dir', tmp_path, '--out', out, '--out-item', 'metrics', *short]
    printed = tool('test', DEMO, checkpoint, *args, cwd=tmp_path)
    assert ('the network of training stage 1 of 3' in printed) == (stage == 0)
    ours = json.loads(out.read_text())
    if stage == 0:
        call(MIM, 'test', 'mmpretrain', DEMO, '--checkpoint', checkpoint, *args, cwd=tmp_path)
    else:
        script(STOCK / 'test.py', DEMO, checkpoint, *args, cwd=tmp_path)
    assert json.loads(out.read_text()) == ours
    log = next(trained.glob('*/vis_data/scalars.json')).read_text().splitlines()
    scores = [json.loads(line) for line in log]
    validated = {s['step']: s['accuracy/top1'] for s in scores if 'accuracy/top1' in s}
    assert ours['accuracy/top1'] == pytest.approx(validated[epoch])


def test_train_refuses_another_plan_and_writes_nothing(trained, short, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob('*')}
    options = [o.replace('[1,1,1]', '[1,1,2]') for o in short]
    error = tool('train', DEMO, '--work-dir', trained, *options, cwd=tmp_path, fails=True)
    assert 'holds a run with another plan: epochs=[1, 1, 1]' in error
    assert {p: p.stat().st_mtime_ns for p in trained.rglob('*')} == before


def test_train_refuses_a_hook_without_a_loop(short, tmp_path):
    options = [*short, 'train_dataloader.dataset.data_root=nowhere']
    options = [o for o in options if not o.startswith('train_cfg')]
    options.append('train_cfg.type=EpochBasedTrainLoop')
    error = tool('train', DEMO, '--work-dir', tmp_path / 'a', *options, cwd=tmp_path, fails=True)
    assert 'is not that of a budgeted run alone; give train_cfg=dict(_delete_=True' in error


def test_plan_prints_a_table(tmp_path):
    lines = tool('plan', DEIT_S, '--epochs', '55,55,193', cwd=tmp_path).splitlines()
    assert lines[0].split() == [
        'stage',
        'heads',
        'hidden',
        'tokens',
        'GFLOPs',
        'epochs',
        'cost',
        'share',
    ]
    assert lines[1].split() == ['1', '2', '384', '100', '0.6901', '55', '37.96', '3.7%']
    assert lines[3].split() == ['3', '6', '1536', '196', '4.608', '193', '889.4', '86.2%']
    assert lines[4].split() == ['total', '303', '1032', '100.0%']
    assert lines[5].startswith('costs 1032.13 GFLOPs x epochs, 74.66% of the full cost of 1382.5')


def test_plan_prints_json(tmp_path):
    # A real command: packages that talk while they are imported must not be heard.
    command = [sys.executable, ROOT / 'tools' / 'plan.py', DEIT_S, '--budget', '0.25']
    out = call(*command, '--alpha', '-1', '--seed', '3', '--json', cwd=tmp_path)
    plan = json.loads(out)
    assert set(plan) == {'stages', 'total_epochs', 'cost', 'budget', 'full_cost'}
    assert [set(stage) for stage in plan['stages']] == [{'gflops', 'epochs', 'cost'}] * 3
    assert sum(stage['cost'] for stage in plan['stages']) == pytest.approx(plan['cost'])
    assert sum(stage['epochs'] for stage in plan['stages']) == plan['total_epochs']
    assert plan['full_cost'] == pytest.approx(1382.5, abs=0.01)
    assert plan['cost'] <= plan['budget'] == pytest.approx(345.6, abs=0.1)
    absolute = tool('plan', DEIT_S, '--budget', '345.625', '--json', cwd=tmp_path)
    assert json.loads(absolute)['budget'] == 345.625


@pytest.mark.parametrize(
    'args, message',
    [
        (['--budget', '0'], "budget='0' must be above 0"),
        (['--budget', 'x'], "budget='x' is not a budget"),
        (['--epochs', '1,2'], 'must be a list of 3 numbers'),
        (['--epochs', '1,a,2'], '--epochs 1,a,2 must be whole numbers'),
        (['--budget', '0.5', '--epochs', '1,2,3'], 'not allowed with argument'),
        (['--alpha', 'x'], 'invalid float value'),
        (['--run', 'x'], '--run is drawn into a picture; give --plot FILE too'),
        (['--cfg-options', 'train_cfg.epochs=[1,1,1]'], 'are both given'),
        (['--cfg-options', 'model.backbone.type=VisionTransformer'], 'training_stages'),
        (['--cfg-options', 'train_cfg.by_epoch=True'], 'give train_cfg=dict(_delete_=True'),
        (
            ['--cfg-options', 'train_cfg.type=EpochBasedTrainLoop'],
            'is not that of a budgeted run alone; give',
        ),
    ],
)
def test_plan_with_bad_input(plan_here, capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        plan_here(DEIT_S, *args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_plan_of_a_missing_config(plan_here, capsys):
    with pytest.raises(SystemExit):
        plan_here('nowhere.py')
    assert 'nowhere.py' in capsys.readouterr().err


def test_plan_of_a_pyramid_has_a_number_a_level(plan_here, capsys):
    plan_here(SWIN_S, '--epochs', '42,123,167')
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ['stage', 'heads', 'hidden', 'tokens', 'window', 'GFLOPs']
    assert lines[2].split()[:5] == ['2', '2,4,8,16', '192,384,768,1536', '2304', '6']
    assert lines[5].startswith('costs 1967.79 GFLOPs x epochs, 74.81%')


def test_shares_are_of_all_that_a_stage_sets():
    """Swin-S: a third of the heads, a quarter of the hidden units, 40 x 40 of 56 x 56 tokens."""
    _, backbone = plan_of_config(Config.fromfile(SWIN_S))
    plan = load_script(ROOT / 'tools' / 'plan.py')
    shares = plan.active_shares(backbone.training_stages)
    assert list(shares) == ['heads', 'hidden', 'tokens', 'window']
    assert [shares[name][0] for name in shares] == pytest.approx([1 / 3, 1 / 4, 25 / 49, 5 / 7])
    assert all(shares[name][-1] == 1 for name in shares)


def test_the_stock_config_leaves_the_command_line_alone():
    """Also if mmpretrain's parser exits."""
    stock, before = load_script(ROOT / 'tools' / '_stock.py'), list(sys.argv)
    cfg = stock.train_config(str(DEMO), ['--no-validate', '--launcher', 'none'])
    assert sys.argv == before and cfg.val_cfg is None and cfg.launcher == 'none'
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    with pytest.raises(SystemExit):
        stock.train_config(str(DEMO), ['--magic'])
    assert sys.argv == before


def test_plan_draws_a_picture(trained, short, tmp_path):
    picture = tmp_path / 'new' / 'plan.png'
    tool('plan', DEMO, '--plot', picture, '--run', trained, *short, cwd=tmp_path)
    image = cv2.imread(str(picture))
    assert image.shape[0] > 700 and image.shape[1] > 700
    assert len({tuple(pixel) for pixel in image.reshape(-1, 3)[::7]}) > 20  # lines, not blank
    error = tool(
        'plan', DEMO, '--plot', picture, '--run', tmp_path, *short, cwd=tmp_path, fails=True
    )
    assert 'holds no log of a run with validation' in error


def test_analyze_a_run(trained, tmp_path):
    """Of real digits, over three stages: one head, then two, then three."""
    files = sorted(trained.glob('epoch_*.pth'))
    options = ['--what', 'cka', 'pca', 'attention', '--num-images', '40']
    printed = tool('analyze', *files, *options, '--out', 'out', cwd=tmp_path).splitlines()
    assert printed == [
        f'out/{name}'
        for name in (
            'redundancy.json',
            'cka.pdf',
            'cka_matrices.pdf',
            'components.pdf',
            'attention.pdf',
        )
    ]
    assert all((tmp_path / name).stat().st_size > 5000 for name in printed)
    records = json.loads((tmp_path / 'out' / 'redundancy.json').read_text())
    assert [[len(b['matrix']) for b in r['cka'].values()] for r in records] == [
        [],
        [2] * 4,
        [3] * 4,
    ]
    assert all(0 < b['mean'] < 1 for r in records for b in r['cka'].values())
    assert [r['pca']['1']['tokens'] for r in records] == [26, 50, 50]
    assert all(0 < b['share'] < 0.3 for r in records for b in r['pca'].values())
    maps = [r['attention']['maps'] for r in records]
    assert [(len(m), len(m[0]), len(m[0][0])) for m in maps] == [(6, 5, 5), (6, 7, 7), (6, 7, 7)]


def test_plan_in_hours(short, tmp_path):
    """It times the stages of this machine and leaves nothing behind."""
    options = [o for o in short if not o.startswith('train_cfg.')]
    plan = json.loads(tool('plan', DEMO, '--hours', '0.05', '--json', *options, cwd=tmp_path))
    assert plan['seconds'] == 180
    assert 0.02 < sum(stage['hours'] for stage in plan['stages']) < 0.055  # of a last epoch, a part
    for stage in plan['stages']:
        assert stage['images_per_second'] > 10 and stage['peak_memory'] > 10**8
        assert stage['bound_by'] in ('data', 'compute')
    table = tool('plan', DEMO, '--budget', '3min', *options, cwd=tmp_path).splitlines()
    assert table[0].split()[:2] == ['stage', 'heads']
    assert table[6].split() == [
        'stage',
        'epochs',
        'hours',
        'images/s',
        'waiting',
        'bound',
        'by',
        'peak',
        'memory',
    ]
    assert re.fullmatch(r'timing the stages took [\d.]+ s, [\d.]+% of the budget', table[-1])
    assert not list(tmp_path.iterdir())


def test_plan_in_hours_with_mixed_precision_on_a_cpu(short, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # a GPU can mix precision
    options = [o for o in short if not o.startswith('train_cfg.')]
    error = tool('plan', DEMO, '--hours', '0.05', '--amp', *options, cwd=tmp_path, fails=True)
    assert 'plan.py: error: ' in error.splitlines()[-1] and 'only available' in error
