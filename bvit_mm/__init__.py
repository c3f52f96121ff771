# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Vision Transformers trained to any budget, in OpenMMLab.

A budget (``budget``) becomes a plan (``plan``); the plan sets the length of the run (``loop``),
and the ledger says what of it is spent (``ledger``); at each epoch the hook asks which training
stage it is (``stage_switch_hook``); the stage says what the network is (``training_stages``) and
how it is trained (``recipes``); the elastic backbone computes with only the active heads, hidden
units and tokens (``elastic``, ``backbones``); when the stage changes, the weights grow
(``growth``); the checkpoint is a plain mmpretrain checkpoint, which ``publish`` hands on; transfer
needs none of this.

What serves a run has a room of its own (``running``), and so have files from elsewhere
(``reading``). Baselines that train on less data (``subsets``), comparisons (``compare``) and a look
at why growing costs so little (``analysis``) stand beside it: nothing here needs them. The laws of
a backbone can be called for others (``testing``). docs/architecture.md tells a run in order.
"""

from importlib import metadata
from importlib.util import find_spec

__version__ = '0.1.0'


def _check_environment() -> None:
    """Raises ImportError unless one fork of mmengine, mmcv and mmpretrain is installed."""
    missing = [name for name in ('mmengine', 'mmcv', 'mmpretrain') if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'bvit_mm needs {" and ".join(missing)}, not installed here; install one fork of '
            "OpenMMLab's packages: pip install 'bvit_mm[onedl]' (maintained), or 'bvit_mm[classic]'"
        )
    installed = {d.metadata['Name'] for d in metadata.distributions()}
    owners = sorted(installed & {'onedl-mmengine', 'mmengine', 'mmengine-lite'})
    if len(owners) > 1:
        raise ImportError(
            f'{" and ".join(owners)} are both installed and own the same package mmengine, so '
            'files of one overwrite those of the other; uninstall both, then install one fork'
        )


_check_environment()

from .analysis.hook import RedundancyHook  # noqa: E402
from .backbones import *  # noqa: E402, F403
from .backbones import __all__ as _families  # noqa: E402
from .loading.augmenting import RandAugment, RandomFlip  # noqa: E402
from .loading.decoding import LoadImageFromFile  # noqa: E402
from .loading.resizing import RandomResizedCrop, Resize, ResizeEdge  # noqa: E402
from .loop import BudgetedTrainLoop  # noqa: E402
from .muon import MuonAdamW  # noqa: E402
from .plan import Plan, make_plan  # noqa: E402
from .running.class_count_hook import ClassCountHook  # noqa: E402
from .schedulers import REXLR, LinearDecayLR  # noqa: E402
from .slim.hook import SlimHook  # noqa: E402
from .stage_switch_hook import StageSwitchHook  # noqa: E402
from .subsets.hook import SubsetHook  # noqa: E402
from .subsets.sampler import SubsetSampler  # noqa: E402
from .subsets.share import subset_share  # noqa: E402

__all__ = [
    'REXLR',
    'BudgetedTrainLoop',
    'ClassCountHook',
    'LinearDecayLR',
    'LoadImageFromFile',
    'MuonAdamW',
    'Plan',
    'RandAugment',
    'RandomFlip',
    'RandomResizedCrop',
    'RedundancyHook',
    'Resize',
    'ResizeEdge',
    'SlimHook',
    'StageSwitchHook',
    'SubsetHook',
    'SubsetSampler',
    'make_plan',
    'subset_share',
    *_families,
]
