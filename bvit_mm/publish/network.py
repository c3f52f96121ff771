# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""From a training checkpoint to what is handed on: plain weights, and a config to run them."""

import contextlib
import copy
import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from ..building import build_to_count, model_config
from ..elastic import ElasticBackbone, find_backbone
from ..files import write_whole
from ..ledger import Ledger
from ..loading.plain import plain_pipeline
from ..plan import Plan
from ..reading.saved_config import check_buildable, read_config
from ..reading.weights import cut_prefix, load_strictly, read_checkpoint
from ..running.class_count_hook import FOLDERS
from ..running.old_records import ledger_of_today

WEIGHTS = ('ema', 'raw')
HASH_LENGTH = 8


class Published(NamedTuple):
    """What ``publish`` makes: a checkpoint to save, and the config of its model."""

    checkpoint: dict[str, Any]
    config: Config
    backbone: ElasticBackbone


def publish(file: str, weights: str | None = None, stage: int | None = None) -> Published:
    """Makes the finished network of a training checkpoint, without what only training needs.

    Of a finished network the config has mmpretrain's own types, so that it runs without
    bvit_mm; of PVTv2 and CSWin, which mmpretrain does not have, of DeiT III and T2T-ViT,
    which it computes otherwise (``plain_fault``), and of an earlier training stage it has those of
    bvit_mm.

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
    checkpoint = _read_trained(file)
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
    backbone = find_backbone(model)
    plan = _plan(meta)
    k = _check_stage(stage, backbone, file, plan, meta)
    only = None if backbone.is_whole else k
    about = dict(
        plan=meta['bvit_mm']['plan'],
        spent=_spent(meta, plan),
        epoch=meta['epoch'],
        training_stage=k + 1,
        gflops=plan.gflops[k],
        weights=weights,
        backbone=type(backbone).__name__,
    )
    if only is not None:
        backbone.shrink_(only)
    folders = {FOLDERS: meta[FOLDERS]} if FOLDERS in meta else {}
    published = dict(
        state_dict=model.state_dict(),
        meta=dict(bvit_mm=about, dataset_meta=_plain(meta.get('dataset_meta') or {}), **folders),
    )
    config = _config_of(cfg, backbone, only)
    read_config(config.pretty_text, file)  # others will run what is written
    check_buildable(config.to_dict(), file)
    return Published(published, config, backbone)


def _read_trained(file: str) -> dict[str, Any]:
    """A checkpoint of a budgeted run."""
    advice = 'give a checkpoint of BudgetedTrainLoop, such as work_dirs/.../epoch_300.pth'
    checkpoint = read_checkpoint(file, advice)
    meta = checkpoint.get('meta') or {}
    if 'batches_done' not in meta.get('bvit_mm', {'batches_done': None}):
        raise ValueError(f'{file} is published already; {advice}')
    if 'state_dict' not in checkpoint or 'bvit_mm' not in meta or 'cfg' not in meta:
        raise ValueError(f'{file} is no training checkpoint of a budgeted run; {advice}')
    return checkpoint


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
    if not out.name or out.is_dir():
        raise ValueError(f'{out} is a folder; give a name in it, such as {out / "model"}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f'{out} is to lie below a file, which is no folder; give a name in a folder, such as '
            f'work_dirs/{out.name}'
        ) from None
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()[:HASH_LENGTH]
    file = out.with_name(f'{out.name}-{digest}.pth')
    write_whole(file, data)
    return file


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


def _check_stage(
    stage: int | None, backbone: ElasticBackbone, file: str, plan: Plan, meta: dict[str, Any]
) -> int:
    """Returns the training stage of a checkpoint, 0-based, if that is the wanted one."""
    epoch = meta['epoch']
    k = plan.stage_at(epoch if meta['bvit_mm']['batches_done'] else max(epoch - 1, 0))
    stages, last = backbone.training_stages, backbone.num_training_stages - 1
    if stages[k] != stages[backbone.training_stage]:  # several stages may have one shape
        raise ValueError(
            f'{file} was saved after {epoch} epochs, in training stage {k + 1} of its plan, '
            f'but its weights say stage {backbone.training_stage + 1}: another program has saved '
            'it again, without the metadata of its state_dict. Give the file that the run left'
        )
    if stage is not None and not 1 <= stage <= last + 1:
        raise ValueError(f'--stage {stage} does not exist; give 1..{last + 1}')
    if stage is None and k < last:
        raise ValueError(
            f'{file} is unfinished: after {epoch} epochs it is in training stage {k + 1} of '
            f'{last + 1}. Give a checkpoint of the end of the run, or --stage {k + 1} for '
            'the smaller network of that stage'
        )
    if stage is not None and stage - 1 != k:
        raise ValueError(
            f'--stage {stage}, but {file} is the network of training stage {k + 1} of '
            f'{last + 1}, whose weights went on training together. Give the checkpoint '
            'that a run leaves at the end of each stage (stage_1.pth, ...)'
        )
    return k


def _plan(meta: dict[str, Any]) -> Plan:
    plan = meta['bvit_mm']['plan']
    gflops, epochs = (tuple(s[name] for s in plan['stages']) for name in ('gflops', 'epochs'))
    return Plan(gflops, epochs, plan['full_cost'], plan['budget'])


def _config_of(cfg: Config, backbone: ElasticBackbone, only: int | None) -> Config:
    """The model, and how it reads an image: what mmpretrain's inferencers ask of a config."""
    model = model_config(cfg)
    for part in (model, model['backbone']):
        part.pop('init_cfg', None)
    model.pop('train_cfg', None)
    if only is None:
        for name in backbone.own_arguments():
            model['backbone'].pop(name, None)
        if backbone.plain_type is not None:
            model['backbone']['type'] = backbone.plain_type
    else:
        model['backbone']['only_stage'] = only
    published = dict(default_scope=cfg.get('default_scope', 'mmpretrain'), model=model)
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = {imports} if isinstance(imports, str) else set(imports)
    imports -= {'bvit_mm'}  # others may have the head, or a step of the pipeline
    if only is not None or backbone.plain_type is None:
        imports |= {'bvit_mm'}
    if imports:
        published['custom_imports'] = dict(imports=sorted(imports), allow_failed_imports=False)
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    with contextlib.suppress(AttributeError, KeyError, TypeError):  # a config may have no pipeline
        pipeline = plain_pipeline(loader.dataset.pipeline)
        published['test_dataloader'] = dict(dataset=dict(pipeline=pipeline))
    return Config(published)


def _plain(value: Any) -> Any:
    """Lists, dicts, text and numbers only, which ``torch.load(weights_only=True)`` takes."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
