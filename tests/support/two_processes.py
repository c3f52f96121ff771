# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Runs in two processes that talk through gloo.

python -m tests.support.two_processes FOLDER FAMILY...

One start serves many runs, because importing takes longer than they do. The first process writes
what it found of each family to FOLDER/FAMILY/results.json; the tests of test_processes.py read it.
"""

import json
import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import distributed

from bvit_mm.cost import find_backbone
from bvit_mm.testing.closeness import distance

from .data_sets import SizedDataset  # noqa: F401  registers
from .files import differences, forget_times, last_file
from .garbage import leave_garbage_alone
from .piped_data import SMALL, piped
from .runs import FAMILIES, build
from .variants import EVERY_ITERATION, ONE_TWO_ONE, SEARCH, SHORT, SUBSET, VARIANTS

PROCESSES = 2
STOPS = dict(before=4, at=6, middle=8, after=12)
# The global batch is as with one process.
DISTRIBUTED = {
    'launcher': 'pytorch',
    'train_dataloader.batch_size': 2,
    'train_cfg.val_interval': 99,
    'default_hooks.logger.interval': 10,
    'model_wrapper_cfg': dict(type='MMDistributedDataParallel', device_ids=None),
}
# Without random numbers, so that it does not matter which process reads a sample; and not with
# AdamW, whose steps for gradients that are zero but for rounding (key biases) are full ones. Longer
# steps make rounding grow in Swin V2, a hundredfold an epoch.
PLAIN = {
    'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.005, momentum=0.9),
    'model.backbone.drop_path_rate': 0.0,
    'model.train_cfg': None,
    'model.head.loss.use_soft': False,
    'train_dataloader.dataset.noise': 0.0,
}
GROWTH = dict(
    noise=dict(init='noise', moments='corrected'), random=dict(init='random', moments='drop_all')
)


def train(work_dir, **changes):
    """Trains in all processes; whether their weights ended alike, bit for bit."""
    runner = build(work_dir, **DISTRIBUTED, **changes)
    runner.train()
    weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
    return all(torch.equal(weights, other) for other in all_gather_object(weights))


def distance_of_weights(ours, theirs):
    """As ``closeness.distance``, over all weights of two state dicts; infinite for other names."""
    if ours.keys() != theirs.keys():
        return float('inf')
    weights = [
        torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])
        for state in (ours, theirs)
    ]
    return distance(*weights)


def resumed(folder, changes):
    """Resumed from what a kill at several places leaves, beside the whole run."""
    changes = {**changes, **EVERY_ITERATION, **ONE_TWO_ONE}
    results = {'alike': train(folder / 'whole', **changes)}
    for place, at in STOPS.items():
        work_dir = folder / place
        last = folder / 'whole' / f'iter_{at - 1}.pth'
        train(work_dir, **changes, resume=True, load_from=str(last))
        distributed.barrier()
        files = [last_file(each) for each in (work_dir, folder / 'whole')]
        for file in files:
            forget_times(file)
        results[place] = differences(*files)
    return results


def grown(folder, family):
    """Random initializers must draw the same in all processes, also if these are seeded apart."""
    return {
        name: train(
            folder / name,
            **FAMILIES[family],
            custom_hooks=[dict(type='bvit_mm.StageSwitchHook', **options)],
            **SHORT,
            **{'randomness.diff_rank_seed': True, 'train_dataloader.dataset.number': 8},
        )
        for name, options in GROWTH.items()
    }


@HOOKS.register_module()
class SignalOneHook(Hook):
    """Sends a signal to one of the processes only."""

    def __init__(self, at, rank=1):
        self.at, self.rank = at, rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at and distributed.get_rank() == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


def decided(folder):
    """What processes must decide alike: when hours are over, when to stop, how batches divide."""
    hours = {'train_cfg.epochs': None, 'train_cfg.budget': '5s'}
    results = {'hours': train(folder / 'hours', **hours)}
    changes = {**PLAIN, **VARIANTS['both']}
    parts = {'train_cfg.accumulative_counts': [1, 2, 2]}
    results['parts'] = train(folder / 'parts', **changes, **parts)
    train(folder / 'whole', **changes)
    try:
        train(folder / 'static', **{'model_wrapper_cfg.static_graph': True})
    except ValueError as error:
        results['static'] = str(error)
    hooks = [*changes['custom_hooks'], dict(type='SignalOneHook', at=13)]
    try:
        train(folder / 'stopped', **{**changes, 'custom_hooks': hooks})
    except SystemExit as stop:
        results['codes'] = all_gather_object(stop.code)
    results['stopped at'] = last_file(folder / 'stopped')['meta']['iter']
    train(folder / 'stopped', **changes, resume=True)
    distributed.barrier()
    files = [last_file(folder / name) for name in ('stopped', 'whole')]
    results['by'] = max(
        distance_of_weights(*(file[key] for file in files))
        for key in ('state_dict', 'ema_state_dict')
    )
    return results


@HOOKS.register_module(force=True)
class EnlargeOneHook(Hook):
    """Gives one of the processes larger images than the others."""

    def before_run(self, runner):
        if distributed.get_rank() == 1:
            runner.train_dataloader.dataset.size = (24, 24)


def booked(folder):
    """What images cost that only one process has larger, and that a budget is refused in both."""
    hooks = [dict(type='bvit_mm.StageSwitchHook'), dict(type='EnlargeOneHook')]
    decay = [dict(type='bvit_mm.LinearDecayLR', convert_to_iter_based=True)]
    changes = {
        'custom_hooks': hooks,
        'param_scheduler': decay,
        'train_cfg.schedule': 'budget',
        'train_dataloader.dataset.type': 'SizedDataset',
    }
    runner = build(folder / 'epochs', **DISTRIBUTED, **changes, **SHORT)
    runner.train()
    extra = all_gather_object(runner.train_loop.ledger.extra)
    refusals = ['none']
    budget = {'train_cfg.epochs': None, 'train_cfg.budget': 0.5, 'train_cfg.full_epochs': 6}
    try:
        build(folder / 'budget', **DISTRIBUTED, **changes, **budget).train()
    except ValueError as error:
        refusals = all_gather_object(str(error))
    backbone = find_backbone(runner.model)
    larger = [(backbone.flops(k, 24) - backbone.flops(k)) / 1e9 / 2 for k in range(3)]
    return dict(extra=extra, expected=larger, refusals=refusals)


def matched(folder):
    """Mini-batches chosen by gradients that each process computes some of, and resumed."""
    changes = {**PLAIN, **SUBSET, **EVERY_ITERATION}
    results = {'alike': train(folder / 'whole', **changes)}
    last = folder / 'whole' / 'iter_7.pth'  # the second of the epoch that a selection begins
    train(folder / 'resumed', **changes, resume=True, load_from=str(last))
    distributed.barrier()
    files = [last_file(folder / name) for name in ('resumed', 'whole')]
    for file in files:
        forget_times(file)
    results['resumed'] = differences(*files)
    return results


def slimmed(folder):
    """Gates that learn by a penalty."""
    return train(folder, **PLAIN, **SEARCH)


def variants(family):
    """The variants that are resumed: the first family shows what each does to the others."""
    return list(VARIANTS) if family == 'vit' else ['both']


def of_family(family, folder):
    """All runs of a family, in all processes."""
    own = FAMILIES[family]
    names = variants(family)
    results = {name: resumed(folder / name, {**own, **VARIANTS[name]}) for name in names}
    results['growth'] = grown(folder / 'growth', family)
    for name in ('neither', 'both'):
        changes = {**FAMILIES[family], **PLAIN, **VARIANTS[name], **ONE_TWO_ONE}
        results[f'plain {name}'] = train(folder / f'plain {name}', **changes)
    if family == 'vit':  # the network does not matter here
        results['recipes'] = resumed(folder / 'recipes', piped(**SMALL))
        results['matched'] = matched(folder / 'matched')
        results['decided'] = decided(folder / 'decided')
        results['booked'] = booked(folder / 'booked')
        results['slimmed'] = slimmed(folder / 'slimmed')
    if distributed.get_rank() == 0:
        (folder / 'results.json').write_text(json.dumps(results))
    distributed.barrier()


def work(rank, folder, families):
    """What each process does."""
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    os.environ['LOCAL_RANK'] = str(rank)  # as launchers do
    store = f'file://{folder}/store'
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=PROCESSES)
    for family in families:
        of_family(family, folder / family)


def run(rank, folder, families):
    """A process that tells why it fails before it ends."""
    try:
        work(rank, folder, families)
    except BaseException:
        traceback.print_exc()
        raise


if __name__ == '__main__':
    fork = multiprocessing.get_context('fork')  # what is imported need not be imported again
    leave_garbage_alone()
    arguments = Path(sys.argv[1]), sys.argv[2:]
    children = [fork.Process(target=run, args=(rank, *arguments)) for rank in range(PROCESSES)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            for other in children:
                other.terminate()
            sys.exit(child.exitcode)
