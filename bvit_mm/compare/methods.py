# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Methods: ways to spend a budget, as what each changes of a config."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from ..building import build_to_count, model_config
from ..config_types import builds
from ..cost import plan_of_config, stage_gflops
from ..elastic import find_backbone
from ..registry import PARAM_SCHEDULERS
from ..subsets.gradients import check_classifier
from ..subsets.share import subset_share
from .changes import Changes, MakesChanges, grown, together, whole_network
from .scaling import efficient_train, scaled


@dataclass(frozen=True)
class Method:
    """A way to spend a budget; called with a config and a budget, it says what to change.

    Attributes:
        changes: Changes as of ``--cfg-options``, or a function that makes them from the config and
            the share of its full cost that may be spent; None if a time may be spent.
        charged: Whether the cost has all that is computed. A method that is not charged gets no
            place on the Pareto front.
        takes_time: Whether it can spend a time as well, for which it must not need the share.
    """

    changes: Changes | MakesChanges
    charged: bool = True
    takes_time: bool = True

    def __call__(self, cfg: Config, share: float | None) -> Changes:
        return self.changes(cfg, share) if callable(self.changes) else self.changes


def methods_of(changes: Mapping[str, Method | Changes | MakesChanges]) -> dict[str, Method]:
    """Methods by name, of what each changes, or already a method."""
    return {
        name: each if isinstance(each, Method) else Method(each) for name, each in changes.items()
    }


KEPT = ('begin', 'by_epoch', 'convert_to_iter_based', 'eta_min')  # of a schedule


def with_schedule(kind: str, others: Changes | MakesChanges) -> MakesChanges:
    """Another learning rate schedule after the warm-up, with the end value that there was.

    Args:
        kind: The type of the schedule.
        others: What else is changed.
    """

    def changes(cfg: Config, share: float) -> Changes:
        schedulers = cfg.get('param_scheduler')
        schedulers = list(schedulers) if isinstance(schedulers, list) else [schedulers]
        rates = [
            i for i, s in enumerate(schedulers) if builds(s, PARAM_SCHEDULERS, LRSchedulerMixin)
        ]
        if not rates:
            raise ValueError('the config has no scheduler of learning rates that could be another')
        main = schedulers[rates[-1]]
        kept = {key: main[key] for key in KEPT if key in main}
        schedulers[rates[-1]] = dict(type=kind, **kept)
        more = others(cfg, share) if callable(others) else others
        return {**more, 'param_scheduler': schedulers}

    return changes


def downsample(cfg: Config, share: float) -> Changes:
    """The whole network on images scaled down to about the share of its cost (Table 12).

    Of the sizes that divide into patches at every level, the one with the nearest cost; epochs
    fill the budget.
    """
    model = build_to_count(cfg.model)
    whole, full = find_backbone(model).whole, stage_gflops(model)[-1]
    size = cfg.model.backbone.get('img_size')
    if not isinstance(size, int):
        raise ValueError(f'downsample needs a number as model.backbone.img_size, not {size!r}')
    levels = len(whole.hidden) if isinstance(whole.hidden, tuple) else 1
    step = size // whole.grid[0] * 2 ** (levels - 1)

    def cost(side: int) -> float:
        backbone = dict(cfg.model.backbone, img_size=side, training_stages=None)
        return stage_gflops(build_to_count(dict(cfg.model, backbone=backbone)))[-1]

    side = min(range(step, size + 1, step), key=lambda side: abs(cost(side) / full - share))
    epochs = math.ceil(cfg.train_cfg.get('full_epochs', 300) * full / cost(side))
    changes = {
        **whole_network(cfg),
        'model.backbone.img_size': side,
        'train_cfg.full_epochs': epochs,
    }
    if 'window' in whole.keys:  # its last levels may be smaller than a window
        changes['model.backbone.pad_small_map'] = True
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    for name in (name for name in loaders if cfg.get(name)):
        pipeline = cfg[name].dataset.get('pipeline')
        if not pipeline:
            raise ValueError(f'downsample needs {name}.dataset.pipeline, to resize before its end')
        resize = dict(type='Resize', scale=(side, side), interpolation='area')
        changes[f'{name}.dataset.pipeline'] = [*pipeline[:-1], resize, pipeline[-1]]
    return changes


def equal_updates(cfg: Config, share: float) -> Changes:
    """``rex`` on batches so small that it makes as many updates as the growing network does.

    A control: early epochs of a growing network are cheap, so it makes more updates for a budget.
    The learning rate falls with the root of the batch size, as usual for Adam.
    """
    changes = with_schedule('bvit_mm.REXLR', whole_network)(cfg, share)
    growing, _ = plan_of_config(cfg)
    whole = copy.deepcopy(cfg)
    whole.merge_from_dict(whole_network(cfg))
    ratio = plan_of_config(whole)[0].total_epochs / growing.total_epochs
    size = max(1, round(ratio * cfg.train_dataloader.batch_size))
    rate = cfg.optim_wrapper.optimizer.lr * math.sqrt(size / cfg.train_dataloader.batch_size)
    return {
        **changes,
        'train_dataloader.batch_size': size,
        'optim_wrapper.optimizer.lr': rate,
    }


def subset(selection: str, **options: Any) -> MakesChanges:
    """The whole network for all epochs, on a share of the data (Table 10; docs/baselines.md).

    Data is selected every 20 epochs, as there, and of short runs eight times; mini-batches are
    matched that are as large as those that train.
    """

    def changes(cfg: Config, share: float) -> Changes:
        epochs = cfg.train_cfg.get('full_epochs', 300)
        interval = min(20, max(1, epochs // 8))
        hook = dict(type='bvit_mm.SubsetHook', selection=selection, interval=interval, **options)
        if selection == 'gradmatch':
            model = build_to_count(model_config(cfg))
            check_classifier(model, features=options.get('features', True))
            hook['batch_size'] = cfg.train_dataloader.batch_size
            share = subset_share(share, epochs, interval, options.get('count_selection', True))
        changes = whole_network(cfg)
        hooks = changes.get('custom_hooks', cfg.get('custom_hooks') or [])
        return {
            **changes,
            'train_cfg.budget': None,
            'train_cfg.epochs': [epochs],
            'train_dataloader.sampler': dict(
                _delete_=True, type='bvit_mm.SubsetSampler', share=share
            ),
            'custom_hooks': [*hooks, hook],
        }

    return changes


METHODS = methods_of(
    {
        'bvit': {},
        'linear': with_schedule('bvit_mm.LinearDecayLR', whole_network),
        'rex': with_schedule('bvit_mm.REXLR', whole_network),
        'cosine': with_schedule('CosineAnnealingLR', whole_network),
        'scale': scaled(grows=True),
        'scale-whole': scaled(grows=False),
        'etpp': efficient_train(grows=False),
        'etpp-grow': efficient_train(grows=True),
        'recommended': together(
            efficient_train(grows=True),
            grown('half', 'drop'),
            with_schedule('bvit_mm.REXLR', {}),
        ),
        'downsample': Method(downsample, takes_time=False),
        'equal-updates': Method(equal_updates, takes_time=False),
        'random-subset': Method(subset('random'), takes_time=False),
        'gradmatch': Method(subset('gradmatch'), takes_time=False),
        'gradmatch-uncharged': Method(
            subset('gradmatch', count_selection=False), charged=False, takes_time=False
        ),
    }
)
