# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""mmpretrain's own tools on our configs: the table of docs/stock_tools.md."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import matplotlib as mpl
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from bvit_mm.cost import budget_of_config

from .support.runs import BATCHES, build, config
from .support.scripts import load_script, run_script
from .support.tools import ROOT, STOCK

vis_scheduler = load_script(ROOT / 'tools' / 'vis_scheduler.py')
stock_tool = load_script(ROOT / 'tools' / '_stock.py').stock_tool

PAGE = (ROOT / 'docs' / 'stock_tools.md').read_text()
FAMILIES = ('deit', 'pvtv2', 'swin')
OPTIONS = (
    'train_cfg.budget=None train_cfg.epochs=[1,0,1] param_scheduler.0.end=1 '
    'param_scheduler.1.begin=1 train_cfg.val_interval=2 model.head.topk=1 '
    + ' '.join(
        f'{name}_dataloader.num_batch_per_epoch=2 {name}_dataloader.batch_size=8'
        for name in ('train', 'val', 'test')
    )
)
# Of the tools in the table: their arguments, and the files that they leave.
RUNS = {
    'train.py': ('CONFIG --work-dir again --cfg-options SHORT', ['again/epoch_2.pth']),
    'test.py': ('CONFIG FILE --work-dir t --out test.pkl --cfg-options SHORT', ['test.pkl']),
    'visualization/vis_scheduler.py': (
        'CONFIG --not-show -s rates.png --cfg-options SHORT work_dir=rates',
        ['rates.png'],
    ),
    'visualization/browse_dataset.py': (
        'CONFIG --not-show -o seen -n 2 --cfg-options SHORT',
        ['seen/000.png', 'seen/001.png'],
    ),
    'visualization/vis_tsne.py': (
        'CONFIG --checkpoint FILE --work-dir tsne --max-num-class 2 --max-num-samples 4 '
        '--perplexity 3 --n-iter 250 --cfg-options SHORT test_dataloader.num_batch_per_epoch=1',
        ['tsne/*/*.png'],
    ),
    'analysis_tools/get_flops.py': ('CONFIG --shape 28 28', []),
    'analysis_tools/analyze_logs.py': ('plot_curve LOG --keys loss --out loss.png', ['loss.png']),
    'analysis_tools/analyze_results.py': (
        'CONFIG results.pkl --out-dir best --topk 1 --cfg-options SHORT',
        ['best/*/*.png'],
    ),
    'analysis_tools/confusion_matrix.py': (
        'CONFIG results.pkl --show-path matrix.png --cfg-options SHORT',
        ['matrix.png'],
    ),
    'analysis_tools/eval_metric.py': ('results.pkl --metric type=Accuracy topk=1', []),
    'misc/print_config.py': ('CONFIG', []),
    'misc/verify_dataset.py': (
        'CONFIG --out-path broken.log --num-process 1 --cfg-options SHORT',
        [],  # it removes the list if that is empty
    ),
    'kfold-cross-valid.py': (
        'CONFIG --num-splits 2 --fold 0 --work-dir folds --cfg-options SHORT',
        ['folds/fold0/epoch_2.pth'],
    ),
}
# Of those that leave no file: what they print.
SAYS = {
    'analysis_tools/get_flops.py': 'Flops',
    'analysis_tools/eval_metric.py': 'accuracy/top1',
    'misc/print_config.py': 'bvit_mm.BudgetedTrainLoop',
    'misc/verify_dataset.py': 'There is no broken file found.',
}
OURS = ('train.py', 'test.py', 'visualization/vis_scheduler.py', 'visualization/browse_dataset.py')


@pytest.fixture
def call(monkeypatch):
    """Runs a tool in this process and a folder."""
    mpl.use('Agg')

    def run(file, arguments, folder):
        monkeypatch.chdir(folder)
        run_script(file, *arguments)

    return run


@pytest.fixture(scope='module')
def small_digits(tmp_path_factory, digits):
    """Four images of each class."""
    folder = tmp_path_factory.mktemp('small')
    for split in ('train', 'val'):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            images = sorted((digits / split / str(label)).iterdir())[:4]
            for i, image in enumerate(images):
                cv2.imwrite(
                    str(folder / split / str(label) / f'{i:03}.png'), cv2.imread(str(image))
                )
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory, small_digits):
    """Of each family, a folder with a run and its predictions, made when it is asked for."""
    folders = {}

    def folder(family, call):
        if family not in folders:
            folders[family] = made = tmp_path_factory.mktemp(family)
            for tool, arguments in (
                ('train', 'CONFIG --work-dir w --cfg-options SHORT'),
                ('test', 'CONFIG FILE --work-dir t --out results.pkl --cfg-options SHORT'),
            ):
                call(ROOT / 'tools' / f'{tool}.py', filled(arguments, family, made), made)
        return folders[family]

    def filled(arguments, family, folder):
        short = OPTIONS.split()
        for loader in ('train', 'val', 'test'):
            split = 'train' if loader == 'train' else 'val'
            short.append(f'{loader}_dataloader.dataset.data_root={small_digits / split}')
        log = next(folder.glob('w/*/vis_data/scalars.json'), '')
        values = {
            'CONFIG': [str(ROOT / 'configs' / 'demo' / f'{family}-digits_bvit-b50.py')],
            'FILE': ['w/epoch_2.pth'],
            'LOG': [str(log)],
            'SHORT': short,
        }
        return [each for word in arguments.split() for each in values.get(word, [word])]

    return SimpleNamespace(folder=folder, filled=filled)


def test_every_tool_is_in_the_table():
    found = [f for f in STOCK.rglob('*') if f.suffix in ('.py', '.sh')]
    assert len(found) > 50
    missing = [f.name for f in found if not re.search(rf'\b{re.escape(f.name)}`', PAGE)]
    assert not missing, 'docs/stock_tools.md does not name them'


def test_what_is_tested_is_marked():
    rows = [line for line in PAGE.splitlines() if line.endswith('| tested |')]
    assert {line.split('`')[1] for line in rows} == set(RUNS)


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('family', FAMILIES)
def test_tool(made, call, capsys, family, name):
    folder = made.folder(family, call)
    arguments, files = RUNS[name]
    tool = ROOT / 'tools' / Path(name).name if name in OURS else STOCK / name
    capsys.readouterr()
    call(tool, made.filled(arguments, family, folder), folder)
    for file in files:
        assert any(each.stat().st_size for each in folder.glob(file)), file
    printed = capsys.readouterr().out
    assert files or SAYS[name] in printed


class Rates(Hook):
    """Keeps the learning rate of each iteration."""

    def __init__(self):
        self.kept = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.kept.append(runner.optim_wrapper.get_lr()['lr'][0])


@pytest.mark.parametrize('schedule', ['epochs', 'budget'])
def test_rates_are_those_of_the_run(tmp_path, monkeypatch, schedule):
    """What is drawn is what a run trains with, stage by stage; lines stand where stages begin."""
    runner, rates = build(tmp_path, **{'train_cfg.schedule': schedule}), Rates()
    runner.register_hook(rates)
    runner.train()
    cfg = config(tmp_path / 'drawn', **{'train_cfg.schedule': schedule})
    stock = stock_tool('visualization/vis_scheduler')
    budget, plan, _ = budget_of_config(cfg)
    vis_scheduler.use_plan(stock, budget, plan)
    assert vis_scheduler.iterations(cfg, gpus=1) == BATCHES
    assert vis_scheduler.iterations(cfg, gpus=2) == math.ceil(BATCHES / 2)
    loader = type('Loader', (list,), dict(dataset=SimpleNamespace(metainfo=None)))
    cfg.default_hooks.param_scheduler = dict(type='ParamSchedulerHook')
    drawn = stock.simulate_train(loader(range(BATCHES)), cfg, True)
    assert drawn['lr'] == pytest.approx(rates.kept, rel=1e-9)
    mpl.use('Agg')
    args = SimpleNamespace(window_size='4*3', title='', style='whitegrid', config='mine.py')
    stock.plot_curve(drawn['lr'], args, 'lr', BATCHES, False)
    lines = [line.get_xdata()[0] for line in stock.plt.gca().lines[1:]]
    stock.plt.close('all')
    assert lines == [BATCHES * plan.epochs[0], BATCHES * sum(plan.epochs[:2])]


REFUSED = [
    (['--cfg-options', 'train_cfg.budget=8h'], "budget='8h' has no epochs until they are timed"),
    (['-d', '5'], '--dataset-size 5 is less than one batch of each GPU (train_dataloader.batch_'),
    (['-d', '50', '-n', '2'], 'batch_size=32, --ngpus 2); give -d 64 or more'),
    (['-d', '640', '-n', '0'], '--ngpus 0 must be at least 1'),
    (['--cfg-options', 'train_dataloader=None'], 'the config has no train_dataloader'),
    (['--cfg-options', 'model.backbone.type=Nope'], 'Nope is not in the mmpretrain::model'),
]


@pytest.mark.parametrize('arguments, message', REFUSED)
def test_rates_that_cannot_be_drawn_are_refused(call, capsys, tmp_path, arguments, message):
    config = ROOT / 'configs' / 'demo' / 'deit-digits_bvit-b50.py'
    with pytest.raises(SystemExit) as stop:
        call(ROOT / 'tools' / 'vis_scheduler.py', [str(config), '--not-show', *arguments], tmp_path)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.split('vis_scheduler.py: error: ')[1]
    assert not list(tmp_path.iterdir())


def test_visualizers_have_no_scope():
    """browse_dataset.py hands all of it to the visualizer; others inherit from these."""
    texts = {f: f.read_text() for f in (ROOT / 'configs').rglob('*.py')}
    files = [f for f, text in texts.items() if "'mmpretrain::" in text]
    visualizers = [Config.fromfile(f).get('visualizer') for f in files]
    assert sum(each is not None for each in visualizers) > 4
    for file, visualizer in zip(files, visualizers):
        assert '_scope_' not in (visualizer or {}), file
