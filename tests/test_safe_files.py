# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Files that are programs: nothing that is read runs, unless somebody trusts it on purpose."""

import argparse
import collections
import contextlib
import os
import pathlib
import pickle
import re
import runpy
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner.checkpoint import load_from_local
from mmpretrain.models.backbones import VisionTransformer
from torch import _weights_only_unpickler

from bvit_mm.compare.runner import finished
from bvit_mm.compare.runs import goes_on
from bvit_mm.compare.settings import base_config
from bvit_mm.cost import build_to_count, find_backbone
from bvit_mm.publish.network import publish
from bvit_mm.reading.safe_files import (
    TRUST,
    UnsafeFileError,
    _load_by_torch,
    _load_restricted,
    guarded,
)
from bvit_mm.reading.saved_config import check_buildable, read_config
from bvit_mm.reading.weights import read_checkpoint

from .support.files import differences
from .support.runs import build, config
from .support.scripts import run_tool
from .support.tools import ROOT
from .support.variants import SHORT, VARIANTS

TORCH_2_1 = ('collections.OrderedDict', 'torch.nn.parameter.', 'torch._utils.', 'torch._tensor.')


def _load_by_old_torch(file, map_location):
    """The same beside the shorter list of an earlier torch."""
    names = _weights_only_unpickler._get_allowed_globals()
    names = {name: each for name, each in names.items() if name.startswith(TORCH_2_1)}
    names |= {str(each): each for each in (torch.float16, torch.float32)} | {
        'torch.Size': torch.Size
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_weights_only_unpickler, '_get_allowed_globals', lambda: names)
        return _load_restricted(file, map_location)


readers = pytest.mark.parametrize('reader', [_load_by_torch, _load_restricted, _load_by_old_torch])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The work_dir of a run with all that mmengine keeps: averages, gradients, the best."""
    folder = tmp_path_factory.mktemp('whole')
    hook = dict(type='CheckpointHook', interval=1, save_best='auto', max_keep_ckpts=5)
    build(folder, **VARIANTS['both'], **SHORT, **{'default_hooks.checkpoint': hook}).train()
    return folder


# Programs.


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def rebuilt(function, kind, *args):
    """The same by way of a function that torch's safe unpickler allows."""
    return Call(torch._tensor._rebuild_from_type_v2, function, kind, args, None)


def through_getattr(marker):
    """From a class that mmengine allows to ``exec``, by functions that it allows."""
    of = partial(Call, getattr)
    names = of(of(HistoryBuffer, 'mean'), '__globals__')
    builtins = rebuilt(of(names, 'get'), of({}, '__class__'), '__builtins__')
    execute = rebuilt(of(builtins, 'get'), of(getattr, '__class__'), 'exec')
    return rebuilt(execute, of(None, '__class__'), f'import os; os.mkdir({str(marker)!r})')


PROGRAMS = {  # what makes the folder, and the name of it that is said
    'os': (lambda marker: Call(os.mkdir, str(marker)), 'would run posix.mkdir'),
    'eval': (
        lambda marker: Call(eval, f'__import__("os").mkdir({str(marker)!r})'),
        'would run eval',
    ),
    'getattr': (through_getattr, 'would run getattr'),
}


def as_program(source, file, marker, kind='os'):
    """A whole checkpoint that makes a folder when it is read."""
    checkpoint = torch.load(source, weights_only=False)
    checkpoint['more'] = PROGRAMS[kind][0](marker)
    torch.save(checkpoint, file)


def start_from(folder, file):
    cfg = config(folder / 'work')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(file), prefix='backbone.')
    find_backbone(MODELS.build(cfg.model)).init_weights()


def start_head_from(folder, file):
    cfg = config(folder / 'work')
    cfg.model.head.init_cfg = dict(type='Pretrained', checkpoint=str(file), prefix='head.')
    MODELS.build(cfg.model).init_weights()


def fine_tune(folder, file):
    os.environ['CHECKPOINT'] = str(file)
    try:
        cfg = Config.fromfile(ROOT / 'configs/demo/transfer/deit_cifar100-shapes.py')
    finally:
        del os.environ['CHECKPOINT']
    find_backbone(MODELS.build(cfg.model)).init_weights()


def train(folder, file, **changes):
    build(folder / 'work', **VARIANTS['both'], **SHORT, **changes).train()


def search(folder, file):
    (folder / 'work').mkdir()
    os.link(file, folder / 'work' / 'epoch_2.pth')
    train(folder, file, resume=True)


def test_tool(folder, file):
    config(folder / 'work').dump(str(folder / 'config.py'))
    run_tool('test', folder / 'config.py', file)


def analyze_tool(folder, file):
    run_tool('analyze', file, '--out', folder / 'out')


def publish_tool(folder, file):
    run_tool('publish', file, folder / 'out' / 'model')


test_tool.__test__ = False
READERS = {
    'init_cfg of the backbone': start_from,
    'init_cfg of the head': start_head_from,
    'a transfer config': fine_tune,
    'load_from': lambda folder, file: train(folder, file, load_from=str(file)),
    'resume by name': lambda folder, file: train(folder, file, resume=True, load_from=str(file)),
    'resume by search': search,
    "mmengine's load_checkpoint": lambda folder, file: load_checkpoint(
        torch.nn.Linear(1, 1), str(file)
    ),
    "mmengine's loader": lambda folder, file: CheckpointLoader.load_checkpoint(str(file)),
    'publish': lambda folder, file: publish(str(file)),
    'tools/publish.py': publish_tool,
    'tools/test.py': test_tool,
    'tools/analyze.py': analyze_tool,
}


@pytest.mark.parametrize('kind', PROGRAMS)
@pytest.mark.parametrize('reader', READERS)
def test_programs_do_not_run(reader, kind, whole, tmp_path, capsys):
    init_default_scope('mmpretrain')
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    as_program(whole / 'epoch_2.pth', file, marker, kind)
    with pytest.raises((UnsafeFileError, SystemExit)) as refused:
        READERS[reader](tmp_path, file)
    assert not marker.exists()
    said = str(refused.value)
    if refused.type is SystemExit:
        assert refused.value.code == 2
        said = ' '.join(capsys.readouterr().err.split())
    assert f'is not only data (it {PROGRAMS[kind][1]})' in said
    assert f'{TRUST}=' in said
    torch.load(file, weights_only=False)  # it is a program indeed
    assert marker.exists()


def test_mmengine_alone_runs_programs(whole, tmp_path):
    """Why all its loaders are guarded, and why its list of safe names is not taken."""
    as_program(whole / 'epoch_2.pth', tmp_path / 'w.pth', tmp_path / 'ran', 'getattr')
    load_from_local(str(tmp_path / 'w.pth'), map_location='cpu')
    assert (tmp_path / 'ran').exists()


@readers
@pytest.mark.parametrize('kind', PROGRAMS)
def test_either_reader_refuses(reader, kind, whole, tmp_path):
    as_program(whole / 'epoch_2.pth', tmp_path / 'w.pth', tmp_path / 'ran', kind)
    name = PROGRAMS[kind][1].rpartition(' ')[2]
    with pytest.raises(Exception, match=f'GLOBAL (builtins.)?{name}'):
        reader(tmp_path / 'w.pth', 'cpu')
    assert not (tmp_path / 'ran').exists()


def test_pickles_of_another_protocol(tmp_path):
    """torch and mmengine write the second; torch's safe unpickler knows no fourth."""
    torch.save(dict(state_dict={}), tmp_path / 'w.pth', pickle_protocol=4)
    with pytest.raises(UnsafeFileError, match=r'not only data \(Unsupported operand 149'):
        read_checkpoint(tmp_path / 'w.pth')


def test_all_of_an_older_torch(whole, tmp_path, monkeypatch):
    """Where torch's own safe unpickler is not enough."""
    monkeypatch.setattr('bvit_mm.reading.safe_files.TORCH_IS_SAFE', False)
    as_program(whole / 'epoch_2.pth', tmp_path / 'w.pth', tmp_path / 'ran')
    with pytest.raises(UnsafeFileError, match=r'it would run posix\.mkdir'):
        read_checkpoint(tmp_path / 'w.pth')
    assert not (tmp_path / 'ran').exists()
    assert read_checkpoint(whole / 'epoch_2.pth')['meta']['epoch'] == 2


@readers
def test_torchscript_is_a_program(reader, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / 'w.pth')
    with pytest.raises(Exception, match='TorchScript'):
        reader(tmp_path / 'w.pth', 'cpu')
    with pytest.raises(UnsafeFileError, match='it is a program of TorchScript'):
        read_checkpoint(tmp_path / 'w.pth')


@readers
def test_old_files(reader, tmp_path):
    """Of before torch 1.6, whose pickles stand one after the other."""
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    torch.save(dict(a=torch.ones(3)), file, _use_new_zipfile_serialization=False)
    assert torch.equal(reader(file, 'cpu')['a'], torch.ones(3))
    content = dict(a=PROGRAMS['os'][0](marker))
    torch.save(content, file, _use_new_zipfile_serialization=False)
    with pytest.raises(Exception, match=r'GLOBAL posix\.mkdir'):
        reader(file, 'cpu')
    with pytest.raises(UnsafeFileError, match=r'it would run posix\.mkdir'):
        read_checkpoint(file)
    assert not marker.exists()


def test_trusting_a_file_on_purpose(whole, tmp_path, monkeypatch):
    """That file only, however its path is written."""
    for name in 'ab':
        as_program(whole / 'epoch_2.pth', tmp_path / f'{name}.pth', tmp_path / f'ran {name}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST, './a.pth')
    assert 'state_dict' in read_checkpoint(tmp_path / 'a.pth')
    assert (tmp_path / 'ran a').exists()
    with pytest.raises(UnsafeFileError, match=r'b\.pth is not only data'):
        read_checkpoint(tmp_path / 'b.pth')
    assert not (tmp_path / 'ran b').exists()
    assert torch.load.__module__ == 'torch.serialization'


def test_trust_is_pasted(tmp_path, monkeypatch):
    """What the message says, given to a shell, reads the file; mmengine's loader knows ~."""
    file = tmp_path / "a $HOME's" / 'w.pth'
    file.parent.mkdir()
    torch.save(dict(a=PROGRAMS['os'][0](tmp_path / 'ran')), file)
    monkeypatch.setenv('HOME', str(file.parent))
    with pytest.raises(UnsafeFileError) as refused:
        read_checkpoint('~/w.pth')
    setting = re.search(f'{TRUST}=.*(?= in the environment)', str(refused.value))[0]
    shell = subprocess.run(['sh', '-c', f'{setting} env'], capture_output=True, text=True)
    assert f'{TRUST}=~/w.pth\n' in shell.stdout
    with pytest.raises(UnsafeFileError) as refused:
        read_checkpoint(file)
    setting = re.search(f'{TRUST}=.*(?= in the environment)', str(refused.value))[0]
    shell = subprocess.run(['sh', '-c', f'{setting} env'], capture_output=True, text=True)
    assert f'{TRUST}={file}\n' in shell.stdout
    monkeypatch.setenv(TRUST, str(file))
    read_checkpoint('~/w.pth')
    assert (tmp_path / 'ran').exists()


def test_a_torch_load_of_others_is_not_used(tmp_path, monkeypatch):
    """Some programs replace it by one that takes programs, before they import this package."""
    before = torch.load

    def takes_all(*args, **kwargs):
        return before(*args, **{**kwargs, 'weights_only': False})

    torch.save(PROGRAMS['os'][0](tmp_path / 'ran'), tmp_path / 'w.pth')
    monkeypatch.setattr(torch, 'load', takes_all)
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    safe_files = runpy.run_module('bvit_mm.reading.safe_files')
    with pytest.raises(pickle.UnpicklingError, match=r'GLOBAL posix\.mkdir'):
        safe_files['load_plain'](tmp_path / 'w.pth')
    assert not (tmp_path / 'ran').exists()


def test_other_threads_read_as_they_ask(tmp_path):
    """While one reads by the guard."""
    torch.save(collections.UserString('mine'), tmp_path / 'mine.pth')
    read = []

    @guarded
    def loader(filename):
        of = dict(target=lambda: read.append(torch.load(filename, weights_only=False)))
        thread = threading.Thread(**of)
        thread.start()
        thread.join()
        return torch.load(filename)

    with pytest.raises(UnsafeFileError, match=r'collections\.UserString'):
        loader(str(tmp_path / 'mine.pth'))
    assert read == ['mine']


@pytest.mark.parametrize('poison', [HistoryBuffer.max, 'no function'])
def test_states_change_no_other_history(poison, whole, tmp_path):
    """A history buffer keeps its methods in its state, and reading adds them to the class's."""
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HistoryBuffer._statistics_methods, 'mean', poison)
        torch.save(dict(buffer=buffer), tmp_path / 'w.pth')
    assert list(read_checkpoint(tmp_path / 'w.pth')['buffer'].data[0]) == [1, 3]
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2
    assert read_checkpoint(whole / 'epoch_2.pth')['meta']['epoch'] == 2


def test_a_history_that_is_read_first_has_its_methods(whole, monkeypatch):
    """As of a run that had ended before it validated: nothing was logged in the process."""
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', {})
    history = read_checkpoint(whole / 'epoch_2.pth')['message_hub']['log_scalars']
    for buffer in history.values():
        assert buffer.statistics('mean', 1) == buffer.data[0][-1]


def test_classes_of_ones_own(tmp_path):
    """torch's own way to allow a class of a user's hook."""
    torch.save(dict(state_dict={}, mine=collections.UserString('a')), tmp_path / 'w.pth')
    with pytest.raises(UnsafeFileError, match=r'would run collections\.UserString'):
        read_checkpoint(tmp_path / 'w.pth')
    with torch.serialization.safe_globals([collections.UserString]):
        assert read_checkpoint(tmp_path / 'w.pth')['mine'] == 'a'


# Addresses.


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address of it."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / 'served').mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / 'served')
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *args: None)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'served', f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_addresses(served, whole, tmp_path):
    folder, address = served
    os.link(whole / 'epoch_2.pth', folder / 'whole.pth')
    as_program(whole / 'epoch_2.pth', folder / 'program.pth', tmp_path / 'ran')
    read = read_checkpoint(f'{address}/whole.pth')
    plain = torch.load(whole / 'epoch_2.pth', weights_only=False)
    assert not differences(read['state_dict'], plain['state_dict'])
    with pytest.raises(UnsafeFileError, match=rf'{address}/program\.pth is not only data'):
        read_checkpoint(f'{address}/program.pth')
    assert not (tmp_path / 'ran').exists()


def test_stores(bucket, whole, tmp_path):
    bucket.mkdir()
    os.link(whole / 'epoch_2.pth', bucket / 'whole.pth')
    as_program(whole / 'epoch_2.pth', bucket / 'program.pth', tmp_path / 'ran')
    assert read_checkpoint('s3://whole.pth')['meta']['epoch'] == 2
    with pytest.raises(UnsafeFileError, match=r's3://program\.pth is not only data'):
        read_checkpoint('s3://program.pth')
    assert not (tmp_path / 'ran').exists()


# What checkpoints hold.


def unpacked(value):
    """History buffers and arrays as plain lists, with their types."""
    if isinstance(value, HistoryBuffer):
        return [unpacked(each) for each in value.data]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return {key: unpacked(each) for key, each in value.items()}
    return value


@readers
def test_all_that_a_run_saves(reader, whole):
    files = sorted(whole.glob('*.pth'))
    assert len(files) == 6  # of three epochs, two stages, and the best
    for file in files:
        plain, read = torch.load(file, weights_only=False), reader(file, 'cpu')
        assert list(plain['message_hub']['log_scalars'])
        assert not differences(*(unpacked(each) for each in (plain, read)))
        assert plain['state_dict']._metadata == read['state_dict']._metadata


SCHEDULERS = [
    dict(type='MultiStepLR', milestones=[1, 2, 2]),
    dict(type='OneCycleLR', eta_max=1.0, total_steps=9),
    dict(type='CosineRestartLR', periods=[2, 3], restart_weights=[1, 0.5], eta_min=0),
    dict(type='ReduceOnPlateauLR'),
    dict(type='bvit_mm.REXLR', end=3),
]
CONTENTS = {
    'numbers of NumPy': [np.dtype(code).type(1) for code in 'bBhHiIlLqQefdg?'],
    'arrays': [np.arange(6).reshape(2, 3).astype(code) for code in 'bBhHiIlLefd?'],
    'texts': np.array(['a', 'bc']),
    'no numbers': np.array([np.nan, np.inf]),
    'tensors': [torch.zeros(2, dtype=getattr(torch, kind)) for kind in ('bfloat16', 'half')]
    + [torch.nn.Parameter(torch.ones(2)), torch.Size([2]), torch.float16],
    'containers': [collections.OrderedDict(a=1), collections.Counter('aab'), {1, 2}, (1,), {2: 3}],
    'plain': [None, True, 10**30, 1.5, 'ä', b'\xff', 1j, frozenset({1}), slice(1, 2)],
    'arguments': argparse.Namespace(lr=0.1, out=pathlib.PosixPath('a/b')),
    'paths': [pathlib.PosixPath('/a'), pathlib.PurePosixPath('b/c')],
    'metainfo of a config': ConfigDict(classes=['a'], nested=dict(palette=[(1, 2, 3)])),
}


@readers
@pytest.mark.parametrize('name', CONTENTS)
def test_plain_content(reader, name, tmp_path):
    torch.save(CONTENTS[name], tmp_path / 'w.pth')
    read = reader(tmp_path / 'w.pth', 'cpu')
    assert repr(read) == repr(CONTENTS[name]) and type(read) is type(CONTENTS[name])


@readers
@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=lambda each: each['type'])
def test_schedulers(reader, scheduler, tmp_path):
    param = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([param], lr=0.1))
    with wrapper.optim_context(torch.nn.Linear(1, 1)):
        state = PARAM_SCHEDULERS.build({**scheduler, 'optimizer': wrapper}).state_dict()
    torch.save(state, tmp_path / 'w.pth')
    assert reader(tmp_path / 'w.pth', 'cpu') == state


# Configs in checkpoints.


def with_config(source, file, change):
    """A whole checkpoint whose config is another."""
    checkpoint = torch.load(source, weights_only=False)
    checkpoint['meta']['cfg'] = change(checkpoint['meta']['cfg'])
    torch.save(checkpoint, file)


def changed(text, **changes):
    cfg = Config.fromstring(text, file_format='.py')
    cfg.merge_from_dict(changes)
    return cfg.pretty_text


MKDIR = '__import__("os").mkdir({!r})'
CONFIGS = {
    'a statement': (lambda text, marker: f'{text}\n{MKDIR.format(marker)}', 'would be run'),
    'a value': (lambda text, marker: f'{text}\nx = {MKDIR.format(marker)}', 'would be run'),
    'deep within': (
        lambda text, marker: f'{text}\nx = dict(a=[{{1: {MKDIR.format(marker)}}}])',
        'would be run',
    ),
    'a default': (
        lambda text, marker: f'{text}\nx = lambda a={MKDIR.format(marker)}: a',
        'would be run',
    ),
    'a text with values': (
        lambda text, marker: f"{text}\nx = f'''{{{MKDIR.format(marker)}}}'''",
        'would be run',
    ),
    'dict of another name': (
        lambda text, marker: f'{text}\ndict = __import__("os").mkdir\nx = dict({marker!r})',
        'would be run',
    ),
    'a type': (
        lambda text, marker: changed(text, **{'model.neck': dict(type='os.mkdir', path=marker)}),
        "config.model.neck.type='os.mkdir' of its config is not registered",
    ),
    'a type of mmengine': (
        lambda text, marker: changed(
            text, **{'model.neck': dict(type='mmengine.utils.path.mkdir_or_exist', dir_name=marker)}
        ),
        "type='mmengine.utils.path.mkdir_or_exist' of its config is not registered",
    ),
}


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('reader', ['publish', 'tools/publish.py', 'tools/analyze.py'])
def test_configs_do_not_run(reader, name, whole, tmp_path, capsys):
    change, message = CONFIGS[name]
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    with_config(whole / 'epoch_3.pth', file, lambda text: change(text, str(marker)))
    with pytest.raises((UnsafeFileError, SystemExit)) as refused:
        READERS[reader](tmp_path, file)
    assert not marker.exists()
    said = str(refused.value)
    if refused.type is SystemExit:
        assert refused.value.code == 2
        said = ' '.join(capsys.readouterr().err.split())
    assert message in said and f'{TRUST}={file}' in said
    assert not (tmp_path / 'out').exists()


def test_configs_are_programs(whole, tmp_path):
    """Those above run when mmengine reads and builds them."""
    text = torch.load(whole / 'epoch_3.pth', weights_only=False)['meta']['cfg']
    for number, (change, _) in enumerate(CONFIGS.values()):
        marker = tmp_path / str(number)
        with contextlib.suppress(Exception):  # after it ran
            build_to_count(Config.fromstring(change(text, str(marker)), '.py').model)
        assert marker.exists()


def test_resuming_runs_no_config(whole, tmp_path):
    """mmengine's ``Runner.resume`` runs the config that mmcv once wrote, to count its GPUs."""
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    checkpoint = torch.load(whole / 'epoch_2.pth', weights_only=False)
    checkpoint['meta']['config'] = MKDIR.format(str(marker))
    torch.save(checkpoint, file)
    READERS['resume by name'](tmp_path, file)
    assert (tmp_path / 'work' / 'epoch_3.pth').exists()
    assert not marker.exists()


def test_trusted_config(whole, tmp_path, monkeypatch):
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    change, _ = CONFIGS['a value']
    with_config(whole / 'epoch_3.pth', file, lambda text: change(text, str(marker)))
    monkeypatch.setenv(TRUST, str(file))
    assert publish(str(file)).backbone.is_whole
    assert marker.exists()


def test_pipelines_are_looked_at(whole, tmp_path, capsys):
    """tools/analyze.py reads images as the config says; publishing hands that on."""
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    step = dict(type='os.mkdir', path=str(marker))
    changes = {'val_dataloader.dataset.pipeline': [step]}
    with_config(whole / 'epoch_3.pth', file, lambda text: changed(text, **changes))
    with pytest.raises(UnsafeFileError, match=r"pipeline\[0\]\.type='os\.mkdir'"):
        publish(str(file))
    with pytest.raises(SystemExit):
        analyze_tool(tmp_path, file)
    assert "pipeline[0].type='os.mkdir'" in capsys.readouterr().err
    assert not marker.exists()


def test_annotations_that_are_pickles(whole, tmp_path, capsys):
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    mmengine.dump(PROGRAMS['os'][0](marker), tmp_path / 'images.pkl')
    images = dict(type='mmpretrain.BaseDataset', ann_file=str(tmp_path / 'images.pkl'))
    changes = {'val_dataloader.dataset': {**images, '_delete_': True}}
    with_config(whole / 'epoch_3.pth', file, lambda text: changed(text, **changes))
    with pytest.raises(SystemExit):
        analyze_tool(tmp_path, file)
    assert 'of its config is a pickle, which may be a program' in capsys.readouterr().err
    assert not marker.exists()


def test_published_configs_are_data(whole, tmp_path):
    """mmengine writes keys as they are: one that holds a quote would be a program."""
    file, marker = tmp_path / 'w.pth', tmp_path / 'ran'
    key = f"a': {MKDIR.format(str(marker))}, 'b"
    changes = {'val_dataloader.dataset.pipeline': [dict(type='PackInputs', meta={'-': 1})]}

    def change(text):
        return changed(text, **changes).replace("{'-': 1}", repr({key: 1}))

    with_config(whole / 'epoch_3.pth', file, change)
    with pytest.raises(UnsafeFileError, match='would be run, so it is not read'):
        publish(str(file))
    assert not marker.exists()


@pytest.mark.parametrize(
    'text, message',
    [
        ('x = (', 'SyntaxError'),
        ('x = "\0"', 'cannot be read'),
        (None, 'TypeError'),
        ('x = {[]: 1}', 'TypeError'),
        ('x = -"a"', 'TypeError'),
        ('x = ' + '[' * 5000 + ']' * 5000, 'cannot be read'),
        ('text = 1', 'KeyError'),
        ('x = range()', 'would be run'),
        ('x = range("a")', 'TypeError'),
        ('custom_imports = None', 'custom_imports=None of its config is no dict'),
        ('custom_imports = ["json"]', r"custom_imports=\['json'\] of its config is no dict"),
        ('custom_imports = dict(imports=[1])', 'of its config is no dict'),
        ('custom_imports = dict(imports="json", a=1)', 'of its config is no dict'),
        ('custom_imports = dict(imports="no_such")', 'cannot be imported .*PYTHONPATH'),
    ],
)
def test_configs_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        read_config(text, 'w.pth')


@pytest.mark.parametrize(
    'path', sorted(ROOT.glob('configs/*/*bvit-b50*.py')), ids=lambda path: path.stem
)
def test_configs_of_the_suite_are_read_alike(path):
    cfg = Config.fromfile(path)
    read = read_config(cfg.pretty_text, 'w.pth')
    assert read.to_dict() == Config.fromstring(cfg.pretty_text, '.py').to_dict()
    check_buildable(read.model, 'w.pth')
    check_buildable(read.val_dataloader, 'w.pth')


def test_plain_values_of_configs():
    text = "a = -1.5\nb = (1, [2, {'k-1': None}])\nc = dict(x=dict({'.y': True}))\n"
    text += 'd = float\ne = -inf\nf = range(0, 100)\ng = set()\n'
    expected = dict(
        a=-1.5, b=(1, [2, {'k-1': None}]), c=dict(x={'.y': True}), d=float, e=-float('inf'),
        f=range(100), g=set(),
    )  # fmt: skip
    assert Config.fromstring(text.replace('-inf', "-float('inf')"), '.py').to_dict() == expected
    assert read_config(text, 'w.pth').to_dict() == expected


@pytest.mark.parametrize(
    'kind, known',
    [
        ('VisionTransformer', True),
        ('mmpretrain.VisionTransformer', True),
        ('mmpretrain.models.backbones.VisionTransformer', True),  # of configs in pure Python
        (VisionTransformer, True),
        ('bvit_mm.ElasticVisionTransformer', True),
        ('torch.nn.GELU', True),
        ('torchvision/ToTensor', True),
        ('nms', True),  # found by another name than a registry's
        ('os', False),
        ('', False),
        ('torchvision/Nothing', False),
        ('getattr(__import__("os"),"system")("id")', False),  # mmcv runs the type of nms
        ('f(1)', False),
        ('os.system', False),
        (os.system, False),
        ('torch.hub.load', False),
        ('mmengine.load', False),
        ('nowhere.VisionTransformer', False),
        ('mmpretrain.apis.get_model', False),
    ],
)
def test_types_that_may_be_built(kind, known):
    if known:
        check_buildable(dict(type=kind), 'w.pth')
    else:
        with pytest.raises(UnsafeFileError, match='is not registered'):
            check_buildable(dict(a=[dict(type=kind)]), 'w.pth')


@pytest.mark.parametrize(
    'values, reason',
    [
        (dict(dtype='float32 if __import__("os") else 1'), 'would be run, for it is no plain'),
        (dict(dtype='hub.load("a/b", "c")'), 'would be run, for it is no plain'),
        (dict(warp_mode='__import__("os").getcwd()'), 'would be run, for it is no plain'),
        (dict(other=['__import__("os").getcwd()']), 'looks like a program'),
        (dict(backend_args=dict(backend='memcached', sys_path='/a')), 'imported from'),
        (dict(codebook_init_path='a.pth'), 'is read by torch itself'),
        (dict(hierarchy_file='a.npy'), 'may be a pickle'),
        (dict(tag_list='a.bin'), 'is a pickle'),
        (dict(trust_remote_code=True), 'runs what is downloaded'),
        (dict(trust_remote_code=dict(a=0)), 'runs what is downloaded'),
        (dict(ann_file='a.pkl'), 'is a pickle'),
        (dict(ann_file='pkl'), 'is a pickle'),  # mmengine takes what is after the last dot
        (dict(ann_file='a.yaml'), 'is YAML'),
        (dict(teacher_config='a.py'), 'is a program'),
        (dict(dtype='float32'), None),
        (dict(warp_mode='cv2.MOTION_EUCLIDEAN'), None),
        (dict(classes=['crane (bird)', 'importer', '__a__']), None),
        (dict(backend_args=dict(backend='local'), trust_remote_code=False), None),
        (dict(ann_file='a.json', codebook_init_path=None), None),
    ],
)
def test_values_that_may_be_built(values, reason):
    if reason is None:
        check_buildable(dict(a=[values]), 'w.pth')
    else:
        with pytest.raises(UnsafeFileError, match=f'{reason}.*so it is not built; give another'):
            check_buildable(dict(a=[values]), 'w.pth')


@pytest.mark.parametrize(
    'registry, cfg',
    [
        (TRANSFORMS, dict(type='torchvision/ConvertImageDtype', dtype='float32 if {} else 1')),
        (
            MODELS,
            dict(
                type='mmdet.models.task_modules.tracking.camera_motion_compensation.'
                'CameraMotionCompensation',
                warp_mode='{}',
            ),
        ),
    ],
    ids=['dtype', 'warp_mode'],
)
def test_arguments_that_are_programs(registry, cfg, tmp_path):
    """Of classes that are registered, and run a text as Python."""
    init_default_scope('mmpretrain')
    marker = tmp_path / 'ran'
    program = MKDIR.format(str(marker))
    cfg = {key: value.format(program) for key, value in cfg.items()}
    with pytest.raises(UnsafeFileError, match='would be run'):
        check_buildable(cfg, 'w.pth')
    with contextlib.suppress(Exception):  # after it ran
        registry.build(cfg)
    assert marker.exists()


def test_classes_of_ones_own_by_full_name():
    """A config in pure Python names them so; trust comes first in what is said."""
    message = rf'; if you know who .*{TRUST}=w\.pth in the .*, or import its module first'
    with pytest.raises(UnsafeFileError, match=message):
        check_buildable(dict(type='json.tool.Mine'), 'w.pth')


def test_comparing_reads_configs_as_data(tmp_path, monkeypatch):
    """A folder of runs may come from others, with the configs that compare.py finds in it."""
    cfg, marker = config(tmp_path / 'work'), tmp_path / 'ran'
    settings = SimpleNamespace(out=tmp_path, base=cfg)
    cfg.dump(str(tmp_path / 'config.py'))
    assert finished(settings, []) == {}
    (tmp_path / 'config.py').write_text(f'{cfg.pretty_text}\nx = {MKDIR.format(str(marker))}\n')
    with pytest.raises(UnsafeFileError, match=r'config\.py has a config that is not only data'):
        finished(settings, [])
    assert not marker.exists()
    said = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text: said.append(text))
    monkeypatch.setenv(TRUST, str(tmp_path / 'config.py'))
    with pytest.raises(ValueError, match='is another config'):  # with one value more
        finished(settings, [])
    assert marker.exists()
    assert said == [f'{tmp_path / "config.py"} may run programs: {TRUST} names it']


def test_compared_runs_have_checkpoints_of_their_own(whole, tmp_path):
    """Whatever the config calls them, and wherever it saves them."""
    cfg = config(tmp_path / 'work')
    cfg.default_hooks.checkpoint.update(out_dir=str(tmp_path / 'out'), filename_tmpl='{}.pth')
    cfg.dump(str(tmp_path / 'config.py'))
    hook = base_config(str(tmp_path / 'config.py')).default_hooks.checkpoint
    assert hook == dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
    run = SimpleNamespace(folder=tmp_path / 'run')
    run.folder.mkdir()
    assert not goes_on(run)
    os.link(whole / 'stage_1.pth', run.folder / 'stage_1.pth')
    assert not goes_on(run)  # it would not go on from that one
    os.link(whole / 'epoch_2.pth', run.folder / 'epoch_2.pth')
    assert goes_on(run)
    half = (whole / 'epoch_3.pth').read_bytes()[:-5000]
    (run.folder / 'epoch_3.pth').write_bytes(half)
    assert goes_on(run)
    as_program(whole / 'epoch_2.pth', run.folder / 'epoch_3.pth', tmp_path / 'ran')
    assert goes_on(run)  # so that train.py refuses it
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('noted', [False, True])
def test_compared_runs_begin_anew(noted, whole, tmp_path, capsys):
    """If a kill left half of the first checkpoint: train.py would not resume."""
    run = SimpleNamespace(folder=tmp_path / 'work')
    run.folder.mkdir()
    file = run.folder / 'epoch_1.pth'
    file.write_bytes((whole / 'epoch_2.pth').read_bytes()[:-5000])
    if noted:
        (run.folder / 'last_checkpoint').write_text(str(file))
    with pytest.raises(ValueError, match='has no checkpoint that is whole'):
        train(tmp_path, file, resume=True)
    assert not goes_on(run)
    assert 'work begins anew, for it has no whole checkpoint' in capsys.readouterr().out
    train(tmp_path, file)
    assert goes_on(run)
    assert read_checkpoint(run.folder / 'epoch_3.pth')['meta']['epoch'] == 3
