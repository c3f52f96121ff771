# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""From a training checkpoint to what is handed on: plain weights, and a config to run them."""

import contextlib
import copy
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..building import build_to_count, model_config
from ..cost import present_gflops
from ..elastic import FORM, ElasticBackbone, find_backbone
from ..files import write_whole
from ..ledger import Ledger
from ..loading.plain import plain_pipeline
from ..plan import Plan
from ..reading.saved_config import check_buildable, read_config
from ..reading.weights import cut_prefix, load_strictly, read_checkpoint
from ..running.class_count_hook import FOLDERS
from ..running.old_records import ledger_of_today
from ..slim.cutting import slim_, slim_stage, widths_argument
from ..widths import units_of_width

WEIGHTS = ('ema', 'raw')
HASH_LENGTH = 8


class Published(NamedTuple):
    """What is handed on of a network: a checkpoint to save, and the config of its model."""

    checkpoint: dict[str, Any]
    config: Config
    backbone: ElasticBackbone


class Trained(NamedTuple):
    """The network of a training checkpoint.

    Attributes:
        file: The checkpoint.
        meta: What it says of its run.
        cfg: The config of its run.
        model: With the weights that are wanted.
        backbone: Of the model.
        weights: Which weights those are, of ``WEIGHTS``.
    """

    file: str
    meta: dict[str, Any]
    cfg: Config
    model: nn.Module
    backbone: ElasticBackbone
    weights: str


def publish(file: str, weights: str | None = None, stage: int | None = None) -> Published:
    """Makes the finished network of a training checkpoint, without what only training needs.

    Of a finished network the config has mmpretrain's own types, so that it runs without
    bvit_mm; of PVTv2 and CSWin, which mmpretrain does not have, of DeiT III and T2T-ViT,
    which it computes otherwise (``plain_fault``), of an earlier training stage and of most slimmed
    networks (``plain_widths``) it has those of bvit_mm. Gates are folded into the weights.

    Args:
        file: A checkpoint of ``BudgetedTrainLoop``.
        weights: ``'ema'`` for the averaged weights, which validation measured, or ``'raw'`` for
            those that were trained; by default the averaged if there are any.
        stage: The training stage (1-based) of an unfinished checkpoint, to publish the smaller
            network that it is; see ``StageSwitchHook``, which keeps one of each stage.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint, its weights are not complete or not finite, or
            it is of another training stage than asked for.
    """
    advice = 'give a checkpoint of BudgetedTrainLoop, such as work_dirs/.../epoch_300.pth'
    kind = 'training checkpoint of a budgeted run'
    trained = trained_network(read_training(file, kind, advice, ('cfg', 'bvit_mm')), file, weights)
    meta, backbone, plan = trained.meta, trained.backbone, _plan(trained.meta)
    k = enter_stage_(trained)
    _check_stage(stage, k, trained, plan)
    only = None
    if backbone.has_phases and k == len(plan.epochs) - 1:
        _slim_as_trained_(backbone)
    elif not backbone.is_whole:
        only = k
        backbone.shrink_(k)
    backbone.drop_gates_()
    about = dict(
        plan=meta['bvit_mm']['plan'],
        spent=_spent(meta, plan),
        training_stage=k + 1,
        gflops=present_gflops(trained.model),
    )
    return packed(trained, about, only)


def read_training(file: str, kind: str, advice: str, keys: Sequence[str]) -> dict[str, Any]:
    """A checkpoint of a run.

    Args:
        file: The checkpoint.
        kind: What it must be, for messages.
        advice: What to do if it is not.
        keys: What its ``meta`` must have.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(file, advice)
    meta = checkpoint.get('meta') or {}
    if 'batches_done' not in meta.get('bvit_mm', {'batches_done': None}):
        raise ValueError(f'{file} is published already; {advice}')
    if 'state_dict' not in checkpoint or not set(keys) <= set(meta):
        raise ValueError(f'{file} is no {kind}; {advice}')
    return checkpoint


def trained_network(checkpoint: dict[str, Any], file: str, weights: str | None = None) -> Trained:
    """Builds the network of a checkpoint by its own config, and loads its weights strictly.

    Args:
        checkpoint: What ``read_training`` read.
        file: The file.
        weights: See ``choose_weights``.

    Raises:
        ValueError: If there are no such weights, or they are not finite or do not fit.
    """
    meta = checkpoint['meta']
    weights, state_dict = choose_weights(checkpoint, weights, file)
    broken = [key for key, value in state_dict.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f'{file} has weights that are infinite or no numbers ({len(broken)} of '
            f'{len(state_dict)}: {broken[0]}, ...): training diverged; give an earlier checkpoint'
        )
    cfg = read_config(meta['cfg'], file)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    check_buildable({name: cfg.get(name) for name in ('model', 'data_preprocessor')}, file)
    model = build_to_count(copy.deepcopy(cfg.model))
    load_strictly(model, state_dict, str(file))
    return Trained(file, meta, cfg, model, find_backbone(model), weights)


def _slim_as_trained_(backbone: ElasticBackbone) -> None:
    """Becomes the network of the slimmed training stage that it is at, for good, in place.

    That has the first units of each module, and gates that rest: they were folded when it began.
    """
    active = backbone.active_units(backbone.training_stage)
    kept = [
        units_of_width(width, module.total(axis))
        for module, axis, width in active
        if axis == module.read_axis
    ]
    stage = backbone.num_training_stages - 2  # the whole network
    backbone.set_training_stage(stage)
    for module, _ in backbone.read_units():
        module.gates_learn = False
    slim_(backbone, kept)


def packed(trained: Trained, about: dict[str, Any], only: int | None = None) -> Published:
    """What is handed on of a network that has become what it is to be.

    Args:
        trained: The network.
        about: What ``meta['bvit_mm']`` tells of it, besides what is told of all.
        only: The training stage (0-based) that it is the smaller network of.
    """
    meta, cfg, file, backbone = trained.meta, trained.cfg, trained.file, trained.backbone
    about = dict(
        about, epoch=meta['epoch'], weights=trained.weights, backbone=type(backbone).__name__
    )
    if backbone.widths is not None:
        about['widths'] = widths_argument(backbone, backbone.widths)
    folders = {FOLDERS: meta[FOLDERS]} if FOLDERS in meta else {}
    published = dict(
        state_dict=trained.model.state_dict(),
        meta=dict(bvit_mm=about, dataset_meta=_plain(meta.get('dataset_meta') or {}), **folders),
    )
    config = _config_of(cfg, backbone, only)
    read_config(config.pretty_text, file)  # others will run what is written
    check_buildable(config.to_dict(), file)
    return Published(published, config, backbone)


def _spent(meta: dict[str, Any], plan: Plan) -> float:
    """What training has cost; of checkpoints without a ledger, their finished epochs."""
    ledger = meta['bvit_mm'].get('ledger')
    return Ledger.from_dict(ledger_of_today(ledger)).cost if ledger else plan.spent(meta['epoch'])


def write_published(published: Published, out: Path) -> tuple[Path, Path]:
    """Writes ``OUT-<hash>.pth`` and ``OUT-<hash>.py``, the hash being the weights file's SHA-256.

    Returns:
        The two files.

    Raises:
        ValueError: If ``out`` is a folder.
    """
    weights = write_hashed(published.checkpoint, out)
    config = weights.with_suffix('.py')
    write_whole(config, published.config.pretty_text.encode())
    return weights, config


def write_hashed(content: dict, out: Path) -> Path:
    """Saves ``content`` as ``OUT-<hash>.pth``; a file of that name has the same content."""
    make_place(out)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()[:HASH_LENGTH]
    file = out.with_name(f'{out.name}-{digest}.pth')
    write_whole(file, data)
    return file


def make_place(out: Path) -> None:
    """Makes the folder that files ``OUT-...`` will lie in.

    Raises:
        ValueError: If ``out`` is a folder, or a file is in the way.
    """
    if not out.name or out.is_dir():
        raise ValueError(f'{out} is a folder; give a name in it, such as {out / "model"}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f'{out} is to lie below a file, which is no folder; give a name in a folder, such as '
            f'work_dirs/{out.name}'
        ) from None


def choose_weights(
    checkpoint: dict[str, Any], wanted: str | None, file: str
) -> tuple[str, dict[str, Tensor]]:
    """Averaged or raw weights of a checkpoint, and which; by default averaged, if there are any.

    mmengine saves averaged weights as ``state_dict``, and then the raw ones beside them.

    Raises:
        ValueError: If ``wanted`` is not known, or there are no averaged weights.
    """
    averaged = 'ema_state_dict' in checkpoint
    wanted = wanted or WEIGHTS[not averaged]
    if wanted not in WEIGHTS:
        raise ValueError(f'weights={wanted!r} is not known; give one of {WEIGHTS}')
    if wanted == 'ema' and not averaged:
        raise ValueError(
            f'{file} has no averaged weights (its run had no EMAHook); give the raw ones'
        )
    if wanted == 'raw' and averaged:
        return wanted, cut_prefix(checkpoint['ema_state_dict'], 'module.')
    return wanted, checkpoint['state_dict']


def enter_stage_(trained: Trained) -> int:
    """Enters the training stage of a checkpoint of a budgeted run, as its plan has it.

    Returns:
        The stage, 0-based.

    Raises:
        ValueError: If its weights say another.
    """
    meta, backbone, plan = trained.meta, trained.backbone, _plan(trained.meta)
    epoch = meta['epoch']
    k = plan.stage_at(epoch if meta['bvit_mm']['batches_done'] else max(epoch - 1, 0))
    if len(plan.epochs) > backbone.num_training_stages:  # of slimming: weights tell after the cut
        backbone.add_phases_(slim_stage(backbone, backbone.totals()))
    stages = backbone.training_stages
    if stages[k] != stages[backbone.training_stage]:  # several stages may have one shape
        raise ValueError(
            f'{trained.file} was saved after {epoch} epochs, in training stage {k + 1} of its '
            f'plan, but its weights say stage {backbone.training_stage + 1}: another program has '
            'saved it again, without the metadata of its state_dict. Give the file that the run '
            'left'
        )
    backbone.set_training_stage(k)
    return k


def _check_stage(stage: int | None, k: int, trained: Trained, plan: Plan) -> None:
    """Checks that the training stage of a checkpoint, ``k``, 0-based, is the wanted one."""
    file, last = trained.file, len(plan.epochs) - 1
    if stage is not None and not 1 <= stage <= last + 1:
        raise ValueError(f'--stage {stage} does not exist; give 1..{last + 1}')
    if stage is None and k < last:
        raise ValueError(
            f'{file} is unfinished: after {trained.meta["epoch"]} epochs it is in training stage '
            f'{k + 1} of {last + 1}. Give a checkpoint of the end of the run, or --stage {k + 1} '
            'for the smaller network of that stage'
        )
    if stage is not None and stage - 1 != k:
        raise ValueError(
            f'--stage {stage}, but {file} is the network of training stage {k + 1} of '
            f'{last + 1}, whose weights went on training together. Give the checkpoint '
            'that a run leaves at the end of each stage (stage_1.pth, ...)'
        )


def _plan(meta: dict[str, Any]) -> Plan:
    plan = meta['bvit_mm']['plan']
    gflops, epochs = (tuple(s[name] for s in plan['stages']) for name in ('gflops', 'epochs'))
    return Plan(gflops, epochs, plan['full_cost'], plan['budget'])


def _config_of(cfg: Config, backbone: ElasticBackbone, only: int | None) -> Config:
    """The model, and what it is tested with, as mmpretrain's inferencers and tools ask for it."""
    model = model_config(cfg)
    arguments = model['backbone']
    for part in (model, arguments):
        part.pop('init_cfg', None)
    model.pop('train_cfg', None)
    form, is_plain = _form(arguments, backbone, only)
    for name in backbone.own_arguments() if is_plain else FORM:
        arguments.pop(name, None)
    if is_plain and backbone.plain_type is not None:
        arguments['type'] = backbone.plain_type
    arguments.update(form)
    published = dict(default_scope=cfg.get('default_scope', 'mmpretrain'), model=model)
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = {imports} if isinstance(imports, str) else set(imports)
    imports -= {'bvit_mm'}  # others may have the head, or a step of the pipeline
    if not is_plain or backbone.plain_type is None:
        imports |= {'bvit_mm'}
    if imports:
        published['custom_imports'] = dict(imports=sorted(imports), allow_failed_imports=False)
    kind = 'test' if cfg.get('test_dataloader') else 'val'
    with contextlib.suppress(AttributeError, KeyError, TypeError):  # a config may have no pipeline
        loader = copy.deepcopy(cfg[f'{kind}_dataloader'])
        loader.dataset.pipeline = plain_pipeline(loader.dataset.pipeline)
        published['test_dataloader'] = loader
        if cfg.get(f'{kind}_evaluator'):
            published.update(test_evaluator=cfg[f'{kind}_evaluator'], test_cfg=dict())
    return Config(published)


def _form(
    given: dict[str, Any], backbone: ElasticBackbone, only: int | None
) -> tuple[dict[str, Any], bool]:
    """Arguments that make the network what it has become, and whether the plain class takes them.

    Args:
        given: The arguments that it was trained with.
        backbone: The network.
        only: The training stage (0-based) that it is the smaller network of.
    """
    if only is not None:
        return dict(training_stages=given['training_stages'], only_stage=only), False
    if backbone.widths is None:
        return {}, True
    plain = None if backbone.plain_type is None else backbone.plain_widths(given)
    if plain is not None:
        return plain, True
    return dict(widths=widths_argument(backbone, backbone.widths)), False


def _plain(value: Any) -> Any:
    """Lists, dicts, text and numbers only, which ``torch.load(weights_only=True)`` takes."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
