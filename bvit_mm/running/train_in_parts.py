# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A training step on a batch in parts, for stages whose activations do not fit at once."""

from contextlib import nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor

from ..mmengine_gaps import run_forward, set_inner_count
from ..wrapped import unwrapped


def train_in_parts(
    model: BaseModel | MMDistributedDataParallel,
    data_batch: Any,
    optim_wrapper: OptimWrapper,
    parts: int,
) -> dict[str, Tensor]:
    """What ``model.train_step`` does, with the batch divided after it was preprocessed.

    Mixed images, the batch that one update sees and the number of iterations stay as they are;
    the gradient is the whole batch's, for losses that are means over samples.

    Args:
        model: The model, wrapped or not.
        data_batch: As the data loader gives it.
        optim_wrapper: Its own accumulation over iterations goes on as ever.
        parts: Into how many parts; at most as many as there are samples.

    Returns:
        Losses of the whole batch by name.
    """
    module = unwrapped(model)
    with optim_wrapper.optim_context(model):
        data = module.data_preprocessor(data_batch, True)
    pieces = split(data, parts)
    total = sum(count_samples(piece) for piece in pieces)
    logs: dict[str, Tensor] = {}
    for i, piece in enumerate(pieces, start=1):
        share = count_samples(piece) / total
        is_last = i == len(pieces)
        alone = nullcontext() if is_last or model is module else model.no_sync()
        with alone, optim_wrapper.optim_context(model):
            losses = run_forward(model, piece)
        loss, parts_logs = module.parse_losses(losses)
        for name, value in parts_logs.items():
            logs[name] = logs.get(name, 0) + share * value.detach()
        if is_last:
            optim_wrapper.update_params(loss * share)
        else:
            optim_wrapper.backward(optim_wrapper.scale_loss(loss * share))
            set_inner_count(
                optim_wrapper, optim_wrapper.inner_count - 1
            )  # the parts are one iteration
    return logs


def count_samples(data: Any) -> int:
    """Samples of a batch, preprocessed or not."""
    if isinstance(data, dict):
        return len(data.get('inputs', next(iter(data.values()))))
    return len(data[0])


def split(data: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Divides a preprocessed batch, a dict of tensors and lists, into parts as equal as can be."""
    total = count_samples(data)
    sizes = [len(places) for places in torch.arange(total).tensor_split(min(parts, total))]
    pieces, begin = [], 0
    for size in sizes:
        pieces.append({k: v if v is None else v[begin : begin + size] for k, v in data.items()})
        begin += size
    return pieces
