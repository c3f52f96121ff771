# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How much heads, hidden units and tokens repeat each other (Section 3 of the paper, Fig. 2 to 4).

A network is looked at through a copy of it that is as small as its training stage, in which every
linear layer is called as a module: forward hooks see what goes through them, in every family and in
mmpretrain's plain classes, and the network itself is not touched.
"""

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..elastic import ElasticBackbone
from ..elastic_modules import ElasticModule, UnitSlot
from ..head_dims import padded_heads
from ..wrapped import unwrapped

VARIANCE = 0.99  # share of the variance that the counted components hold (Fig. 3)
ROUNDING = 1e-12  # values whose variance is a smaller share of their mean square are constant


class HeadSimilarity:
    """Linear CKA between the heads of one attention (Eq. 4), over any number of batches.

    Eq. 4 compares m x m Gram matrices of m tokens. With a linear kernel the HSIC of two heads X
    and Y times (m - 1)^2 is the squared Frobenius norm of their co-moments, the centered X^T Y; the
    factor cancels. Co-moments of all heads add up over batches. So the result is that of Eq. 4 on
    all tokens of all images at once, not an estimate from parts of them, and the memory it takes
    does not depend on how many there are. All sums are in float64.

    Args:
        heads: How many heads lie side by side in what it is given.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.tokens = 0
        self.mean: Tensor = torch.zeros(())
        self.comoments: Tensor = torch.zeros(())

    def update(self, outputs: Tensor) -> None:
        """Adds head outputs (..., heads * dims): concatenated, before the projection (Eq. 3)."""
        x = outputs.flatten(0, -2).double()
        tokens, mean = self.tokens + len(x), x.mean(0)
        # Centering each batch by itself loses no digits where means are large against deviations.
        x, moved = x - mean, mean - self.mean
        between = moved.outer(moved) * (self.tokens * len(x) / tokens)
        self.comoments = self.comoments + x.T @ x + between
        self.mean = self.mean + moved * (len(x) / tokens)
        self.tokens = tokens

    def matrix(self) -> Tensor:
        """CKA of all pairs, (heads, heads) in float64, as in Fig. 2b.

        NaN for pairs with a head whose output is constant, 0/0 in Eq. 4: it says nothing that
        could be compared, and a 0 would read as heads that differ.
        """
        pairs = self.comoments.unflatten(0, (self.heads, -1)).unflatten(2, (self.heads, -1))
        hsic = pairs.square().sum((1, 3))
        variance, square = (
            values.unflatten(0, (self.heads, -1)).sum(1)
            for values in (self.comoments.diagonal() / self.tokens, self.mean.square())
        )
        own = hsic.diagonal().sqrt()
        own = own.masked_fill(variance <= ROUNDING * (variance + square), math.nan)
        return hsic / own.outer(own)


def mean_of_pairs(matrix: Tensor) -> float:
    """The mean CKA of different heads (Fig. 2a) of a matrix (heads, heads).

    Pairs that are NaN do not count; NaN if there is no other.
    """
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[rows, columns].nanmean().item()


def count_components(features: Tensor) -> Tensor:
    """How many principal components hold 99 % of the variance of features, image by image (Fig. 3).

    The tokens of an image are the samples, and centered, as is usual in a principal component
    analysis; so there are at most one fewer than tokens.

    Args:
        features: (images, tokens, units).

    Returns:
        (images,) whole numbers; 0 where all tokens are the same, because nothing varies.
    """
    x = features.double()
    centered = x - x.mean(1, keepdim=True)
    # Both products have the same eigenvalues but for zeros: that of the smaller side is taken.
    small = centered @ centered.mT if x.shape[1] < x.shape[2] else centered.mT @ centered
    variances = torch.linalg.eigvalsh(small).clamp(min=0).flip(-1)
    total = variances.sum(-1)
    # The tolerance is for variances that come to 99 % exactly, but for rounding.
    missing = variances.cumsum(-1) < (VARIANCE - 1e-9) * total[:, None]
    return (missing.sum(-1) + 1).masked_fill(total <= ROUNDING * x.square().sum((1, 2)), 0)


class ComponentShare:
    """The mean of ``count_components`` over images, as a share of the units (Fig. 3).

    Where there are fewer tokens than units the share cannot exceed (tokens - 1) / units.
    """

    def __init__(self) -> None:
        self.images = self.components = 0

    def update(self, features: Tensor) -> None:
        """Adds features (images, tokens, units)."""
        self.images += len(features)
        self.components += int(count_components(features).sum())
        self.tokens, self.units = features.shape[1:]

    @property
    def share(self) -> float:
        return self.components / self.images / self.units


def class_attention(attention: MultiheadAttention, qkv: Tensor) -> Tensor:
    """How much the class token attends to each token, averaged over heads (Section 3.4).

    Args:
        attention: Computes with all of its heads.
        qkv: What its first layer makes of tokens, (images, tokens, 3 * heads * dims).

    Returns:
        (images, tokens), which sum up to 1 with the class token itself, the first of them.
    """
    attend = attention.scaled_dot_product_attention
    if widths := _head_widths(attention):
        q, k, _ = padded_heads(qkv.unflatten(-1, (3, -1)), widths).permute(3, 1, 0, 2, 4)
        attend = partial(attend, scale=attention.head_dims**-0.5)
    else:
        q, k, _ = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    # What attends to an identity matrix returns its weights, by the module's own scale.
    identity = torch.eye(k.shape[2]).to(k).expand(*k.shape[:2], -1, -1)
    weights = attend(q[:, :, :1], k, identity)
    return weights[:, :, 0].mean(1)


class ClassAttention(NamedTuple):
    """Class-token attention of a block.

    Attributes:
        block: Its name.
        maps: (images, rows, columns), of the patch tokens that are active, without the class
            token, so their sum is below 1.
        grid: Rows and columns of all patch tokens, of which the active ones are the center.
    """

    block: str
    maps: Tensor
    grid: tuple[int, int]


def image_loader(dataset: Dataset, count: int, workers: int = 0) -> DataLoader:
    """Loads images of a data set in batches, each a list of tensors (channels, height, width).

    They are spread evenly over the data set, because those for validation are often sorted by
    class. All of them if there are no more than ``count``.

    Raises:
        ValueError: If there are none.
    """
    size = len(cast(Sized, dataset))
    count = min(count, size)
    if count < 1:
        raise ValueError('the data set has no images; give one that has')
    chosen = [i * size // count for i in range(count)]
    return DataLoader(
        Subset(dataset, chosen), batch_size=32, num_workers=workers, collate_fn=_inputs
    )


def _pairs(matrix: Tensor) -> dict[str, Any]:
    """The similarities of heads in plain numbers."""
    rows = [[*map(_number, row)] for row in matrix]
    return dict(mean=_number(mean_of_pairs(matrix)), matrix=rows)


@torch.no_grad()
def measure_redundancy(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    what: Collection[str] = ('cka', 'pca'),
) -> dict[str, Any]:
    """Measures redundancy in the network of a model's training stage, in eval mode.

    Blocks are numbered from 1, those of pyramids as level and block, such as ``'3.2'``. Tokens
    that pad the map of a Swin to whole windows count like others.

    Args:
        model: One with a ``backbone`` and a ``data_preprocessor``; it is left as it is.
        batches: Images, as ``image_loader`` has them.
        what: ``'cka'`` (Fig. 2), ``'pca'`` (Fig. 3), or both.

    Returns:
        ``training_stage``, from 1 on, None of a plain network; ``images``, how many there were;
        ``cka`` by block, with the ``matrix`` (heads, heads) and the ``mean`` of its pairs, None
        where it is 0/0, without blocks of a single head; ``pca`` by block, with the mean number of
        ``components``, ``units`` and ``tokens``, and the ``share`` of the units. Plain numbers.

    Raises:
        ValueError: If the model has no backbone, or it has no attention and MLP that are known.
    """
    network = observable_copy(model)
    similarities, shares = {}, {}
    for block, module, described in _blocks(network):
        slot = _reading_slot(described)
        axis = 'heads' if slot.axis == 'dims' else slot.axis
        if axis != 'heads' and 'pca' in what:
            shares[block] = ComponentShare()
            _first_layer(module, described).register_forward_hook(
                lambda layer, args, out, share=shares[block]: share.update(_tokens(layer, out))
            )
        elif axis == 'heads' and 'cka' in what:
            heads = slot.blocks * _count_of_heads(module, described)
            if heads == 1:
                continue
            similarities[block] = _similarity_of(heads, module, described)
    images = 0
    for batch in batches:
        network(_preprocessed(model, batch))
        images += len(batch)
    stage = getattr(unwrapped(model).backbone, 'training_stage', None)
    record: dict[str, Any] = dict(
        training_stage=None if stage is None else stage + 1, images=images
    )
    if 'cka' in what:
        record['cka'] = {block: _pairs(each.matrix()) for block, each in similarities.items()}
    if 'pca' in what:
        record['pca'] = {
            block: dict(
                share=s.share, components=s.components / s.images, units=s.units, tokens=s.tokens
            )
            for block, s in shares.items()
        }
    return record


def _head_widths(module: nn.Module) -> tuple[int, ...] | None:
    """How wide heads are that were cut to different widths."""
    return getattr(module, 'head_widths', None)


def _count_of_heads(module: Any, described: Any) -> int:
    axes = described.axes
    return module.num_heads if 'dims' in axes else getattr(module, axes['heads'])


def _similarity_of(count: int, module: nn.Module, described: Any) -> HeadSimilarity:
    """The similarity of the heads of an attention, of all that it computes from now on."""
    similarity, widths = HeadSimilarity(count), _head_widths(module)

    def watch(_: nn.Module, args: tuple[Tensor]) -> None:
        heads = args[0]
        if widths is not None:  # of zeros a similarity sees nothing
            heads = torch.cat([*padded_heads(heads, widths)], dim=-1)
        similarity.update(heads)

    _last_layer(module, described).register_forward_pre_hook(watch)
    return similarity


@torch.no_grad()
def measure_class_attention(
    model: nn.Module, batches: Iterable[Sequence[Tensor]], block: str | None = None
) -> ClassAttention:
    """Class-token attention in the network of a model's training stage (Section 3.4, Fig. 4).

    Args:
        model: One with a ``backbone`` and a ``data_preprocessor``; it is left as it is.
        batches: Images, as ``image_loader`` has them, of the size the network is built for.
        block: Its name, such as ``'4'``; by default a shallow one, a third of the way.

    Raises:
        ValueError: If the network has no class token or no such block, or its tokens are not
            those of images of its own size.
    """
    network: Any = observable_copy(model)
    if getattr(network, 'cls_token', None) is None:
        raise ValueError(
            f'{type(network).__name__} has no class token here, so there is no attention of it '
            '(Fig. 4); "cka" and "pca" can be had, or attention of a VisionTransformer that '
            'has one (with_cls_token=True)'
        )
    attentions = {
        name: module
        for name, module, _ in _blocks(network)
        if isinstance(module, MultiheadAttention)
    }
    names = list(attentions)
    block = names[(len(names) - 1) // 3] if block is None else block
    if block not in attentions:
        raise ValueError(f'block={block!r} does not exist; give one of {", ".join(names)}')
    attention, seen = attentions[block], []
    attention.qkv.register_forward_hook(
        lambda _, args, qkv: seen.append(class_attention(attention, qkv).cpu())
    )
    for batch in batches:
        network(_preprocessed(model, batch))
    rows, columns = network.patch_resolution
    whole = grid = int(rows), int(columns)
    if isinstance(network, ElasticBackbone):
        grid = network.training_stages[network.training_stage].grid
    weights = torch.cat(seen)[:, network.num_extra_tokens :]
    if weights.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f'the images have {weights.shape[1]} patch tokens in block {block}, but the network is '
            f'built for {grid[0]}x{grid[1]}; give images of its img_size'
        )
    return ClassAttention(block, weights.unflatten(1, grid), whole)


def observable_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's backbone for forward hooks, with the size of its training stage for good.

    Raises:
        ValueError: If the model has no backbone, or that no attention and MLP that are known.
    """
    model = unwrapped(model)
    if not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise ValueError(
            f'{type(model).__name__} has no backbone to look into; give a model that has one, such '
            'as an ImageClassifier'
        )
    network: Any = copy.deepcopy(model.backbone)
    if isinstance(network, ElasticBackbone):
        network.drop_gates_()  # which hooks of layers would not see
        network.shrink_(network.training_stage)
    if not any(True for _ in _blocks(network)):
        raise ValueError(
            f'{type(network).__name__} has no attention and no MLP that are known; give a '
            'backbone of bvit_mm, or the class of mmpretrain that one of them extends'
        )
    network.eval()
    return network


def _blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Attentions and MLPs: name of the block, module, and what has the slots that describe it."""
    for name, module in network.named_modules():
        described = module if isinstance(module, ElasticModule) else _elastic_class(type(module))
        if described is not None and any(slot.out for slot in described.slots):
            numbers = [str(int(part) + 1) for part in name.split('.') if part.isdigit()]
            yield '.'.join(numbers) or name, module, described


def _elastic_class(plain: type[nn.Module]) -> type[ElasticModule] | None:
    """The class that a plain module would be made: its slots say which layers have the units."""
    if plain.forward is nn.Module.forward:  # it only holds others
        return None
    found = (c for c in ElasticModule.__subclasses__() if c.__bases__ == (ElasticModule, plain))
    return next(found, None)


def _first_layer(module: nn.Module, described: Any) -> nn.Module:
    """The linear layer, or convolution of 1 x 1, that makes the units."""
    return module.get_submodule(described.slots[0].param.rpartition('.')[0])


def _tokens(layer: nn.Module, out: Tensor) -> Tensor:
    """What a layer makes, as (images, tokens, units)."""
    return out.flatten(2).mT if isinstance(layer, nn.Conv2d) else out.flatten(1, -2)


def _last_layer(module: nn.Module, described: Any) -> nn.Module:
    """The linear layer that reads the units."""
    return module.get_submodule(_reading_slot(described).param.rpartition('.')[0])


def _reading_slot(described: Any) -> UnitSlot:
    (slot,) = (slot for slot in described.slots if slot.out)
    return slot


def _preprocessed(model: nn.Module, images: Sequence[Tensor]) -> Tensor:
    data = dict(inputs=images, data_samples=None)
    preprocess: Any = unwrapped(model).data_preprocessor
    return preprocess(data, False)['inputs']


def _inputs(samples: list[dict[str, Any]]) -> list[Tensor]:
    return [sample['inputs'] for sample in samples]


def _number(value: Tensor | float) -> float | None:
    """A number for JSON, which has no NaN."""
    value = float(value)
    return None if math.isnan(value) else value
