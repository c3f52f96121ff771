# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Laws of the house: which module may know which, read from the source.

Modules are found by their names wherever they lie in the package.
"""

import ast
import functools
import inspect
from pathlib import Path

import bvit_mm
from bvit_mm import backbones

from .support.tools import ROOT

PACKAGE = ROOT / 'bvit_mm'

# Modules that import no tensors, directly or through others: what they compute is checked by hand.
PURE = {
    'plan', 'shares', 'budget', 'hours', 'meter', 'ledger', 'report', 'training_stages', 'options',
    'share', 'waiting', 'choice',
}  # fmt: skip
HEAVY = {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmpretrain'}
# The core: files at the top and rooms of the loop's servants. Satellites: files and rooms.
CORE_ROOMS = {'running', 'reading', 'backbones', 'loading', 'slim'}
SATELLITES = {'analysis', 'compare', 'publish', 'subsets', 'testing'}
# The door, which names everything, and the one file that knows what others keep private.
DOOR, GAPS = '__init__', 'mmengine_gaps'
LINES_OF_A_FUNCTION, LINES_OF_THE_LOOP = 60, 335
# Named tuples, whose methods begin with an underscore lest they clash with fields.
NAMED_TUPLES = {'_asdict'}
# What torch gives no public name: what its reader of weights allows.
OF_TORCH = {'_get_allowed_globals', '_weights_only_unpickler'}


@functools.cache
def modules():
    """Each file's dotted name below the package, with its syntax tree."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        found[name] = ast.parse(path.read_text())
    return found


def file_of(name):
    return PACKAGE.joinpath(*name.split('.')).with_suffix('.py')


def imported(nodes):
    """What syntax nodes import: (dots before, name, names from there)."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or '', [alias.name for alias in node.names]


def nodes_of(name, ever):
    """The nodes of a module that run when it is imported, or all, those in functions too."""
    return ast.walk(modules()[name]) if ever else modules()[name].body


def foreign(name, ever=False):
    """The top packages of others that a module imports, when it is imported or ever."""
    return {
        module.split('.')[0]
        for level, module, _ in imported(nodes_of(name, ever))
        if not level and module.split('.')[0] != 'bvit_mm'
    }


@functools.cache
def ours(name, ever=False):
    """The modules of this package that a module imports, rooms' own files included."""
    found = set()
    for level, module, names in imported(nodes_of(name, ever)):
        if level:
            place = name.split('.')[:-level]
            parts = [*place, *module.split('.')] if module else place
        elif module.split('.')[0] == 'bvit_mm':
            parts = module.split('.')[1:]
        else:
            continue
        for each in ([*parts, extra] for extra in (*names, None)):
            dotted = '.'.join(part for part in each if part)
            rooms = (
                '.'.join([*dotted.split('.')[:n], DOOR]) for n in range(1, dotted.count('.') + 2)
            )
            found.update(each for each in (dotted, *rooms) if each in modules())
    return found - {DOOR, name, '.'.join([*name.split('.')[:-1], DOOR])}  # nor its own room


def reached(name):
    """All that a module imports, through others too, each with the way there."""
    ways, todo = {name: [name]}, [name]
    while todo:
        at = todo.pop()
        for other in sorted(ours(at) - ways.keys()):
            ways[other] = [*ways[at], other]
            todo.append(other)
    return ways


def stem(name):
    """What a module is called in the tables: its room, or its own name at the top."""
    room, _, rest = name.partition('.')
    return rest if room in CORE_ROOMS else room


def check(problems):
    assert list(problems) == []


def test_modules_are_found():
    """Each table names something that there is."""
    names = {name.split('.')[-1] for name in modules()}
    rooms = {name.partition('.')[0] for name in modules()}
    told = {each for room, unknown in MAY_NOT_KNOW for each in (room, *unknown)}
    assert names >= PURE and rooms >= SATELLITES | CORE_ROOMS | told
    assert 'elastic' in ours('growth') and 'torch' in foreign('growth')
    assert 'reading.weights' in reached('growth')


def test_pure_modules_import_no_tensors():
    check(
        f'{" -> ".join(way)} imports {heavy}'
        for name in modules()
        if name.split('.')[-1] in PURE
        for other, way in reached(name).items()
        for heavy in sorted(foreign(other) & HEAVY)
    )


def test_core_imports_no_satellite():
    check(
        f'{name} imports {other}'
        for name in modules()
        if name != DOOR and stem(name) not in SATELLITES
        for other in sorted(ours(name, ever=True))
        if stem(other) in SATELLITES
    )


# Which room may not know which module, through others either.
MAY_NOT_KNOW = [
    ('backbones', {'budget', 'plan', 'ledger', 'growth', 'recipes', 'loop', 'stage_switch_hook'}),
    ('loading', {'backbones', 'elastic', 'budget', 'plan', 'loop', 'running'}),
    ('growth', {'backbones', 'budget', 'plan', 'loop', 'stage_switch_hook'}),
    ('recipes', {'backbones', 'budget', 'plan', 'loop'}),
    ('stage_switch_hook', {'backbones', 'budget', 'cost', 'loop'}),
    *((room, {'backbones'}) for room in ('loop', 'running', 'cost', 'analysis')),
]


def test_rooms_know_only_what_they_may():
    check(
        f'{" -> ".join(way)}'
        for room, unknown in MAY_NOT_KNOW
        for name in modules()
        if room in (name, name.partition('.')[0])
        for other, way in reached(name).items()
        if {other, other.partition('.')[0]} & unknown
    )


def test_package_stands_alone():
    """A wheel has neither."""
    check(
        f'{name} imports {other}'
        for name in modules()
        for other in sorted(foreign(name, ever=True) & {'tests', 'tools'})
    )


def test_no_import_cycles():
    check(f'{" -> ".join(way)} -> {name}' for name in modules() for way in cycles(name))


def cycles(name):
    return [way for other, way in reached(name).items() if other != name and name in ours(other)]


@functools.cache
def own_privates():
    """The names with an underscore that this package defines: functions, attributes, constants."""
    found = NAMED_TUPLES | OF_TORCH
    for name, tree in modules().items():
        if name.split('.')[-1] == GAPS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.update({node.attr} if is_own(node.value) else ())
    return found


def is_private(name):
    return name.startswith('_') and not name.startswith('__')


def is_own(node):
    """Whether an attribute is of ``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        node = node.func
    return isinstance(node, ast.Name) and node.id in ('self', 'cls', 'super')


def privates_of_others(tree):
    known = own_privates()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in known and not is_own(node.value):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {alias.name for alias in node.names}
            yield from (name for name in names - OF_TORCH if is_private(name))


def test_one_file_reaches_into_privates_of_others():
    check(
        f'{name} reaches {attribute}'
        for name, tree in modules().items()
        if name.split('.')[-1] != GAPS
        for attribute in sorted({*privates_of_others(tree)})
    )
    assert {
        *privates_of_others(ast.parse('a.runner._hooks; self._x; super()._y; b._asdict()'))
    } == {'_hooks'}


def test_functions_are_short():
    check(
        f'{name}: {node.name} has {length} lines'
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := node.end_lineno - node.lineno + 1) > LINES_OF_A_FUNCTION
    )


def test_loop_is_the_order_of_a_run():
    (loop,) = (name for name in modules() if name.split('.')[-1] == 'loop')
    lines = len(file_of(loop).read_text().splitlines())
    check([f'{loop} has {lines} lines'] * (lines > LINES_OF_THE_LOOP))


def test_no_test_imports_another():
    for path in Path(__file__).parent.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or '').split('.')[-1].startswith('test_'), path


FORMS = 'only_stage=None, gates=False, widths=None'
SURFACE = {
    'REXLR': 'optimizer, *args, **kwargs',
    'BudgetedTrainLoop': (
        'runner, dataloader, val_begin=1, val_interval=1, dynamic_intervals=None, '
        'schedule=None, accumulative_counts=None, **plan'
    ),
    'ClassCountHook': '',
    'ElasticConvNeXt': (f'*args, img_size=224, training_stages=None, {FORMS}, **kwargs'),
    'ElasticPVTv2': (
        "arch='b2', linear=False, img_size=224, in_channels=3, patch_sizes=(7, 3, 3, 3), "
        'strides=(4, 2, 2, 2), qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, '
        'drop_path_rate=0.0, out_indices=(3,), with_cp=False, frozen_stages=-1, '
        f'training_stages=None, {FORMS}, init_cfg=None'
    ),
    'ElasticPoolFormer': (f'*args, img_size=224, training_stages=None, {FORMS}, **kwargs'),
    'ElasticSwinTransformer': (
        f"*args, training_stages=None, new_offsets='nearest', {FORMS}, **kwargs"
    ),
    'ElasticSwinTransformerV2': f'*args, training_stages=None, {FORMS}, **kwargs',
    'ElasticVisionTransformer': f'*args, training_stages=None, {FORMS}, **kwargs',
    'LinearDecayLR': 'optimizer, *args, **kwargs',
    'LoadImageFromFile': '*args, **kwargs',
    'MuonAdamW': 'params, lr=0.001, weight_decay=0.01, momentum=0.95, betas=(0.9, 0.999), '
    'eps=1e-08',
    'Plan': 'gflops, epochs, full_cost, budget=None, epoch_share=1.0, charges=()',
    'RandAugment': 'policies, *args, **kwargs',
    'RandomFlip': "prob=None, direction='horizontal', swap_seg_labels=None",
    'RandomResizedCrop': "scale, interpolation='bilinear', backend='torch', **kwargs",
    'RedundancyHook': 'interval=1, num_images=64',
    'Resize': (
        'scale=None, scale_factor=None, keep_ratio=False, clip_object_border=True, '
        "backend='torch', interpolation='bilinear'"
    ),
    'ResizeEdge': "scale, edge='short', backend='torch', interpolation='bilinear'",
    'SlimHook': 'heads=0.23, hidden=0.23, interval=1',
    'StageSwitchHook': "init='copy', moments='drop', recipes=None",
    'SubsetHook': (
        'selection, interval=20, batch_size=256, ridge=0.5, features=True, width=4096, '
        'count_selection=True'
    ),
    'SubsetSampler': 'dataset, share, seed=None',
    'make_plan': (
        'gflops, budget=None, full_epochs=300, alpha=None, seed=None, epochs=None, '
        'max_epochs=None, family=None, epoch_share=1.0, charges=(), shares=None, slim=None'
    ),
    'subset_share': 'budget, full_epochs=300, interval=20, count_selection=True',
}


def test_public_surface():
    """Names and arguments that users' configs and scripts may rely on."""
    found = {name: arguments_of(getattr(bvit_mm, name)) for name in bvit_mm.__all__}
    added = {name: found.pop(name) for name in set(backbones.__all__) - set(SURFACE)}
    assert found == SURFACE
    assert all('training_stages=None' in each for each in added.values())


def arguments_of(public):
    parameters = inspect.signature(public).parameters.values()
    return ', '.join(str(p.replace(annotation=p.empty)) for p in parameters)
