# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What a budgeted run is refused for before it starts."""

import os

from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..budget import Budget
from ..loading.resized_files import check_complete, folders_of
from ..options import is_whole_number
from ..run_hook import RunHook
from .class_count_hook import check_classes
from .snapshot import lasting_iterators

STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')


def check_runner(runner: Runner, budget: Budget, val_begin: int, val_interval: int) -> None:
    """Raises ValueError if it cannot be told when to validate, or schedulers not be rebuilt."""
    check_validation(val_begin, val_interval)
    if budget.follows_pace and not hasattr(runner, 'build_param_scheduler'):
        raise ValueError(
            f"a budget in {budget.meter.unit} needs mmengine's Runner, not "
            f'{type(runner).__name__}; leave out runner_type, or give a budget in GFLOPs'
        )


def check_sampler(loader: DataLoader) -> None:
    """Raises ValueError if the order of training data cannot be gone back in."""
    drawing = dict(sampler=loader.sampler, batch_sampler=loader.batch_sampler)
    for name, sampler in drawing.items():
        places = lasting_iterators(sampler, without=[loader.dataset])
        if places:
            raise ValueError(
                f'train_dataloader.{name}={type(sampler).__name__} keeps an iterator '
                f'({places[0]}) that goes on from epoch to epoch. No resumed run can go back in '
                'it, nor a run that has tried a batch before; give '
                "sampler=dict(type='DefaultSampler', shuffle=True)"
            )


def check_data(loop: EpochBasedTrainLoop, model: nn.Module) -> None:
    """Raises ValueError if the training data has no iteration, other classes, no order, or gaps.

    Hooks are asked as well (``RunHook``).
    """
    loader = loop.dataloader
    check_complete(folders_of(loader.dataset))
    check_classes(model, loader.dataset)
    check_sampler(loader)
    if not len(loader):
        raise ValueError(
            'an epoch of train_dataloader has no iteration; give more data, a smaller '
            'train_dataloader.batch_size, or drop_last=False'
        )
    for hook in loop.runner.hooks:
        if isinstance(hook, RunHook):
            hook.check_run(loop, model)


def check_processes(runner: Runner) -> None:
    """Raises ValueError if processes would not train one network, each with all of it."""
    check_launcher(runner)
    check_strategy(runner)


def check_launcher(runner: Runner) -> None:
    """Raises ValueError if several processes were started that would not train together."""
    started = int(os.environ.get('WORLD_SIZE', 1)) if 'TORCHELASTIC_RUN_ID' in os.environ else 1
    if max(started, get_world_size()) > 1 and not runner.distributed:
        raise ValueError(
            f'launcher={runner.launcher!r}, but this is one of {max(started, get_world_size())} '
            'processes: each would train by itself, all into one work_dir; '
            "give launcher='pytorch' (tools/train.py --launcher pytorch)"
        )


def check_strategy(runner: Runner) -> None:
    """Raises ValueError if something shards or copies the parameters that growth writes."""
    strategy = type(getattr(runner, 'strategy', None)).__name__
    wrapper = runner.model if is_model_wrapper(runner.model) else None
    if getattr(wrapper, 'static_graph', False):
        raise ValueError(
            'static_graph=True of model_wrapper_cfg lets DistributedDataParallel learn the graph '
            'from its first step, but a trial comes before that, and stages have graphs of their '
            'own: gradients would not be shared. Leave it out'
        )
    if strategy not in (*STRATEGIES, 'NoneType'):
        problem = f'the strategy {strategy}'
    elif wrapper is not None and not isinstance(wrapper, DistributedDataParallel):
        problem = f'the model wrapper {type(wrapper).__name__}'
    else:
        return
    raise ValueError(
        f'{problem} shards or copies the parameters, so weights that grow would be overwritten; '
        'train with one process or with DistributedDataParallel'
    )


def check_validation(val_begin: int, val_interval: int) -> None:
    """Raises ValueError unless it can be told after which epochs to validate."""
    if not is_whole_number(val_begin):
        raise ValueError(f'val_begin={val_begin!r} of train_cfg must be a whole number of epochs')
    if not is_whole_number(val_interval) or val_interval < 1:
        raise ValueError(
            f'val_interval={val_interval!r} of train_cfg must be a whole number of epochs, at '
            'least 1; to validate at the end only, give one above the number of epochs'
        )
