# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Gradients of a classifier's mini-batches by its last layer, from a forward pass alone."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.runner import set_random_seed
from mmpretrain.models import ClsHead, CrossEntropyLoss, LabelSmoothLoss
from mmpretrain.models.classifiers import BaseClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..elastic import images_of_training
from ..mmengine_gaps import smoothing
from ..running.randomness import derived_seed, kept_random_state
from .matching import batch_gradient, sketch_of


def last_layer(head: nn.Module) -> nn.Linear | None:
    """The only linear layer of a head that scores classes; None if there is none, or several."""
    classes = getattr(head, 'num_classes', None)
    found = [m for m in head.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    return found[0] if len(found) == 1 else None


def check_classifier(model: nn.Module, features: bool) -> None:
    """Raises ValueError unless the gradients are those of the cross-entropy of single labels."""
    name = type(model).__name__
    head = getattr(model, 'head', None)
    if not isinstance(head, ClsHead):
        raise ValueError(
            f"selection='gradmatch' needs a classifier of single labels, but the head of {name} is "
            f"{type(head).__name__}; give one of mmpretrain's ClsHead, or selection='random'"
        )
    loss = head.loss_module
    smooths = type(loss) is LabelSmoothLoss
    entropy = loss.ce if smooths else loss
    if type(entropy) is not CrossEntropyLoss or entropy.use_sigmoid:
        problem = f'{type(loss).__name__} is not the cross-entropy of a softmax'
    elif entropy.use_soft and not smooths:
        problem = 'use_soft=True of CrossEntropyLoss takes scores, and here are labels'
    elif entropy.class_weight is not None:
        problem = 'class_weight has no part in the gradients that are matched'
    elif getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        problem = (
            'batch augments (Mixup, CutMix; train_cfg of the model) mix samples of different '
            'weights, and their labels'
        )
    elif features and last_layer(head) is None:
        raise ValueError(
            f"selection='gradmatch' needs one linear layer that scores classes, and "
            f'{type(head).__name__} has none or several; give features=False'
        )
    else:
        return
    raise ValueError(
        f"selection='gradmatch' cannot be right with this model: {problem}; give the head "
        "dict(type='CrossEntropyLoss') or 'LabelSmoothLoss' and no augments, or selection='random'"
    )


def mini_batches(total: int, batch_size: int, seed: int) -> list[list[int]]:
    """The fixed mini-batches that are matched: all samples, shuffled once; the last may be short.

    Data sets often lie class by class, and mini-batches of one class each would leave out most of
    the classes when few are chosen.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[i : i + batch_size] for i in range(0, total, batch_size)]


@torch.no_grad()
def mini_batch_gradients(
    model: BaseClassifier,
    train: DataLoader,
    batches: Sequence[list[int]],
    features: bool,
    width: int,
    seed: int,
) -> Tensor:
    """Gradients of mini-batches of the training data, in all processes.

    Each process computes some. The model is in eval mode; samples go through the pipeline that
    trains, with random numbers of the seed. Random states and the model are left as they were.

    Args:
        model: A classifier, not wrapped.
        train: The loader of the training data, whose dataset, workers and collation serve.
        batches: Which samples are in each mini-batch.
        features: Whether by the last layer's weights too, not by its bias alone.
        width: The most numbers of a gradient by the weights; longer ones are sketched.
        seed: Draws the augmentation and the sketch.

    Returns:
        Mini-batches x numbers of a gradient, in single precision on the CPU.
    """
    rank, world_size = get_dist_info()
    layer: Any = last_layer(model.head)  # if features, there is one (check_classifier)
    inputs: list[Tensor] = []
    sketch = None
    if features:
        sketch = sketch_of(layer.out_features, layer.in_features, width, seed)
        device = next(model.parameters()).device
        sketch = sketch and (sketch[0].to(device), sketch[1].to(device))
        handle = layer.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    drawn = derived_seed(seed, rank)
    seeded = partial(worker_init_fn, num_workers=train.num_workers, rank=rank, seed=drawn)
    loader = DataLoader(
        train.dataset,
        batch_sampler=batches[rank::world_size],
        num_workers=train.num_workers,
        collate_fn=train.collate_fn,
        worker_init_fn=seeded if train.num_workers else None,
    )
    is_training, rows = model.training, []
    model.eval()
    try:
        with kept_random_state():
            set_random_seed(drawn)
            for batch in loader:
                data = model.data_preprocessor(batch, False)
                with images_of_training(model):
                    scores = model.head(model.extract_feat(data['inputs']))
                targets = _targets(model.head.loss_module, scores, data['data_samples'])
                entered = inputs.pop() if features else None
                rows.append(batch_gradient(scores, targets, entered, sketch).cpu())
    finally:
        model.train(is_training)
        if features:
            handle.remove()
    parts = all_gather_object(rows)
    return torch.stack([parts[i % world_size][i // world_size] for i in range(len(batches))])


def _targets(loss: nn.Module, scores: Tensor, samples: Sequence) -> Tensor:
    """What the loss compares the softmax with: one-hot, or smoothed labels."""
    labels = torch.cat([sample.gt_label for sample in samples]).to(scores.device)
    if len(labels) != len(scores):
        raise ValueError(
            f'{len(scores)} samples have {len(labels)} labels, but gradients are matched of those '
            "with one label each; give selection='random'"
        )
    one_hot = nn.functional.one_hot(labels, scores.shape[1]).float()
    smooth = smoothing(loss)
    return one_hot * (1 - smooth) + smooth / scores.shape[1]
