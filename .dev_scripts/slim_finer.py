# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Measures whether finer gates than those of whole heads pay, on two small data sets.

    python .dev_scripts/slim_finer.py            # the runs that results/slim_finer.jsonl lacks
    python .dev_scripts/slim_finer.py --table    # what they say

It is an experiment, and no part of the package. All variants end with half of the FLOPs, and train
as long on the same batches. Those of a seed begin with one whole network, trained once. Then each
searches with gates, is cut, and retrains:

- ``heads``: gates of heads and hidden units, as ``SlimHook`` and ``tools/slim.py`` have them.
- ``dims``: a gate for each dimension of each head instead (ViT-Slim's unit).
- ``tokens``: as ``heads``, and a gate for each position in each layer. Fewer units go, for tokens
  go as well.
- ``random-tokens``: the network of ``tokens``, searched by the same gates, with its positions
  permuted: as many stay in each layer, but drawn ones.
"""

import argparse
import copy
import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from bvit_mm import flops
from bvit_mm.compare.tables import difference, markdown, mean_and_spread
from bvit_mm.cost import classifier_flops
from bvit_mm.elastic_modules import ElasticMultiheadAttention, elasticize_
from bvit_mm.slim.choice import Unit, Units, ranked
from bvit_mm.slim.cutting import scores, slim_
from bvit_mm.slim.hook import penalty

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / 'results' / 'slim_finer.jsonl'
SETS, SEEDS = ('digits', 'photographs'), range(3)
VARIANTS = ('heads', 'dims', 'tokens', 'random-tokens')
SHARE = 0.5  # of the FLOPs, classifier included, that the cut network may take
WEIGHT = 0.23  # of the mean gate of each kind, as of SlimHook
FLOOR = 1e-4  # of the gates of tokens, whose logarithm is taken


class Run(NamedTuple):
    """A finished run. Accuracies are in percent.

    Attributes:
        variant: One of ``VARIANTS``.
        data: The data set.
        seed: Of the weights, the order of images and their augmentation.
        epochs: Of training, searching and retraining.
        share: Of the whole network's FLOPs that the cut one takes.
        whole: Accuracy of the whole network, before the search.
        searched: After the search.
        before: Of the cut network before it retrains.
        value: After it.
        kept: How many units each module keeps: attention and MLP of each layer in turn, and then
            the positions of each layer.
    """

    variant: str
    data: str
    seed: int
    epochs: list[int]
    share: float
    whole: float
    searched: float
    before: float
    value: float
    kept: list[int]


class DimAttention(ElasticMultiheadAttention):
    """Attention whose units are the dimensions of its heads.

    A gate scales a dimension of q, and what the projection reads of it. At 0 the attention is that
    without the row of q, k and v and without the column of the projection, exactly. So the cut
    network is imitated by a mask of such gates, which no longer learn: what is masked has no
    gradient. The scale of the softmax stays that of all dimensions.
    """

    axes = dict(heads='embed_dims')
    mask: Tensor | None = None

    def fold_gates_(self) -> None:
        if self.gate is not None:
            with torch.no_grad():
                self.qkv.weight[: self.embed_dims] *= self.gate[:, None]
                self.qkv.bias[: self.embed_dims] *= self.gate
        super().fold_gates_()

    def forward(self, x: Tensor) -> Tensor:
        factors = self.mask if self.gate is None else self.gate
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dims)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = q * factors.view(self.num_heads, 1, self.head_dims)
        x = self.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(batch, tokens, self.embed_dims) * factors
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(x))))


def add_token_gates_(backbone: Any) -> None:
    """Gives each patch token a gate in each layer: a factor of the attention it gets from there on.

    Attention is normalized after it. So tokens with gates of 0 are absent, exactly: nobody reads
    them in this layer and all later ones. ViT-Slim scales what layers read of a token instead,
    which leaves it a key. The class token has no gate.
    """
    patches = math.prod(backbone.patch_resolution)
    backbone.token_gate = nn.Parameter(torch.ones(len(backbone.layers), patches))
    for i, layer in enumerate(backbone.layers):
        layer.attn.scaled_dot_product_attention = partial(gated_attention, backbone, i)


def presence(gates: Tensor) -> Tensor:
    """How much of each token there is in each layer, 0 to 1: never more than in the one before."""
    return gates.abs().clamp(FLOOR, 1).cumprod(0)


def gated_attention(
    backbone: Any, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0
) -> Tensor:
    """Attention of a layer in which each token counts as much as it is present."""
    logs = F.pad(presence(backbone.token_gate)[layer].log(), (1, 0))
    return F.scaled_dot_product_attention(q, k, v, logs.expand(q.shape[-2], -1), dropout_p)


def select_tokens_(backbone: Any, kept: Sequence[set[int]]) -> None:
    """Has each layer compute with some positions only, in place; each set is part of the last."""
    present = range(math.prod(backbone.patch_resolution))
    for layer, positions in zip(backbone.layers, kept):
        layer.attn.scaled_dot_product_attention = F.scaled_dot_product_attention
        index = [i for i, position in enumerate(present, start=1) if position in positions]
        layer.register_forward_pre_hook(partial(selected, torch.tensor([0, *index])))
        present = sorted(positions)
    del backbone.token_gate


def selected(index: Tensor, _layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """What a layer is given of its tokens: a hook of torch."""
    return (args[0].index_select(1, index),)


def positions_of(backbone: Any, kept: Sequence[Sequence[int]]) -> list[set[int]]:
    """The positions of each layer, of what modules keep; those that an earlier one drops are gone.

    Args:
        backbone: The backbone.
        kept: Units of attention and MLP of each layer in turn, and then maybe its positions.
    """
    layers = len(backbone.layers)
    present, found = set(range(math.prod(backbone.patch_resolution))), []
    for positions in kept[2 * layers :] or [present] * layers:
        present = present & set(positions)
        found.append(present)
    return found


def flops_of(model: nn.Module, kept: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of one image in the network that is cut to some units, classifier included.

    Products of the attention have the width of the layer's widest head in each head that is left,
    as one padded, fused attention computes them.
    """
    backbone = model.backbone
    width, total = backbone.embed_dims, classifier_flops(model)
    total += flops.conv(backbone.patch_embed.projection, tuple(backbone.patch_resolution))
    tokens = 0
    for i, (layer, positions) in enumerate(zip(backbone.layers, positions_of(backbone, kept))):
        heads, hidden, tokens = kept[2 * i], kept[2 * i + 1], 1 + len(positions)
        dims = layer.attn.head_dims  # of a head
        of_unit = 1 if isinstance(layer.attn, DimAttention) else dims
        widths = Counter(unit * of_unit // dims for unit in heads)
        padded = of_unit * max(widths.values()) * len(widths)
        total += 4 * tokens * width * of_unit * len(heads) + 2 * tokens**2 * padded
        total += flops.mlp(tokens, width, len(hidden)) + 2 * flops.norm(tokens, width)
    return total + flops.norm(tokens, width)


def units_of(backbone: Any, permutation: Tensor | None) -> list[Units]:
    """All units with their scores; by share, nobody asks for costs."""
    found = [Units(axis, 1, tuple(scores(m).tolist())) for m, axis in backbone.read_units()]
    if hasattr(backbone, 'token_gate'):
        tokens = presence(backbone.token_gate.detach())
        tokens = tokens if permutation is None else tokens[:, permutation]
        found += [Units('tokens', 1, tuple(of_layer)) for of_layer in tokens.tolist()]
    return found


def choose(
    units: Sequence[Units], cost: Callable[[Sequence[Sequence[int]]], int], budget: float
) -> list[list[int]]:
    """``slim.choice.choose`` by share, with ``fill``, for costs that are no sum over units."""
    order = ranked(units, 'share')

    def kept(taken: Sequence[Unit]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in units]
        for i, unit in taken:
            found[i].append(unit)
        return found

    least = len(units)  # one of each module
    fits = bisect_right(
        range(least, len(order)), budget, key=lambda prefix: cost(kept(order[:prefix]))
    )
    taken = order[: least + fits - 1]
    for unit in order[len(taken) :]:
        if units[unit[0]].kind == 'hidden' and cost(kept([*taken, unit])) <= budget:
            taken.append(unit)
    return kept(taken)


def cut_(model: nn.Module, kept: Sequence[Sequence[int]]) -> None:
    """Becomes the network of some units, in place, whose gates are folded; those of tokens gone."""
    backbone = model.backbone
    if hasattr(backbone, 'token_gate'):
        select_tokens_(backbone, positions_of(backbone, kept))
    modules = [module for module, _ in backbone.read_units()]
    shrunk = list(kept[: len(modules)])
    for i, module in enumerate(modules):
        if isinstance(module, DimAttention):
            module.mask = torch.zeros(module.embed_dims).index_fill_(0, torch.tensor(kept[i]), 1.0)
            shrunk[i] = range(module.embed_dims)
    slim_(backbone, shrunk)


def with_gates(model: nn.Module, kind: str) -> nn.Module:
    """A copy of the whole network with the gates of a variant."""
    model = copy.deepcopy(model)
    for layer in model.backbone.layers if kind == 'dims' else ():
        elasticize_(layer.attn, DimAttention)
    for module, _ in model.backbone.read_units():
        module.add_gates_()
    if kind == 'tokens':
        add_token_gates_(model.backbone)
    return model


def gate_loss(backbone: Any) -> Tensor:
    """The penalty of the search: of ``SlimHook``, and as much for the mean gate of tokens."""
    total = penalty(backbone, WEIGHT, WEIGHT)
    if hasattr(backbone, 'token_gate'):
        total = total + WEIGHT * backbone.token_gate.abs().mean()
    return total


class Training(NamedTuple):
    """How all networks of one data set and seed are trained and validated."""

    cfg: Config
    seed: int

    def loader(self, name: str) -> Any:
        return Runner.build_dataloader(self.cfg[name], seed=self.seed)

    def train_(self, model: nn.Module, epochs: int, search: bool = False) -> None:
        """Trains with half an epoch of warm-up, and then a cosine; a search has a constant rate.

        The order of images and their augmentation are the same for all networks.
        """
        set_random_seed(self.seed)
        loader = self.loader('train_dataloader')
        steps, warm_up = epochs * len(loader), len(loader) // 2

        def rate(step: int) -> float:
            done = max(0, step - warm_up) / (steps - warm_up)
            cosine = 1.0 if search else (1 + math.cos(math.pi * done)) / 2
            return min(1.0, (step + 1) / (warm_up + 1)) * cosine

        wrapper = build_optim_wrapper(model, self.cfg.optim_wrapper)
        scheduler = torch.optim.lr_scheduler.LambdaLR(wrapper.optimizer, rate)
        model.train()
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                inputs = model.data_preprocessor(batch, training=True)
                loss, _ = model.parse_losses(model(**inputs, mode='loss'))
                wrapper.update_params(loss + gate_loss(model.backbone) if search else loss)
                scheduler.step()

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Of the images to validate with, in percent."""
        model.eval()
        right = [
            bool(sample.pred_label == sample.gt_label)
            for batch in self.loader('val_dataloader')
            for sample in model.val_step(batch)
        ]
        return 100 * sum(right) / len(right)


def training_of(data: str, seed: int) -> Training:
    """The config of a comparison without growing; an epoch is all images, and gates step longer."""
    cfg = Config.fromfile(ROOT / 'configs' / 'compare' / f'deit-{data}.py')
    cfg.model.backbone.training_stages = None
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(ROOT / 'data' / data / name)
    cfg.optim_wrapper.paramwise_cfg.custom_keys['gate'] = dict(decay_mult=0.0, lr_mult=10.0)
    return Training(cfg, seed)


def runs_of(data: str, seed: int, variants: Sequence[str], epochs: list[int]) -> Iterator[Run]:
    """Makes the runs of one data set and seed; networks that they share are trained once."""
    training = training_of(data, seed)
    set_random_seed(seed)
    whole = MODELS.build(training.cfg.model)
    whole.init_weights()
    training.train_(whole, epochs[0])
    accuracy, searched = training.accuracy(whole), {}
    for variant in variants:
        kind = variant.removeprefix('random-')
        if kind not in searched:
            model = with_gates(whole, kind)
            training.train_(model, epochs[1], search=True)
            searched[kind] = model, training.accuracy(model)
        model, after_search = copy.deepcopy(searched[kind][0]), searched[kind][1]
        generator = torch.Generator().manual_seed(seed)
        patches = math.prod(model.backbone.patch_resolution)
        permutation = torch.randperm(patches, generator=generator) if kind != variant else None
        units, cost = units_of(model.backbone, permutation), partial(flops_of, model)
        full = cost([range(len(each.scores)) for each in units])
        kept = choose(units, cost, SHARE * full)
        share, counts = cost(kept) / full, [*map(len, kept)]
        cut_(model, kept)
        before = training.accuracy(model)
        training.train_(model, epochs[2])
        after = training.accuracy(model)
        yield Run(variant, data, seed, epochs, share, accuracy, after_search, before, after, counts)


def records() -> list[Run]:
    """The finished runs."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    return [Run(**json.loads(line)) for line in lines]


def table(runs: Sequence[Run]) -> str:
    """Markdown: what each variant reaches, and how much better than ``heads`` it is."""
    head = ['set', 'variant', 'FLOPs', 'whole', 'searched', 'cut', 'retrained', 'minus heads']
    rows = [head]
    for data in dict.fromkeys(run.data for run in runs):
        by_seed = {
            v: {run.seed: run for run in runs if (run.data, run.variant) == (data, v)}
            for v in VARIANTS
        }
        for variant, found in by_seed.items():
            if found:
                columns = ('whole', 'searched', 'before', 'value')
                shares = [run.share for run in found.values()]
                cells = [
                    mean_and_spread([getattr(run, name) for run in found.values()])
                    for name in columns
                ]
                gain = difference(found, by_seed['heads']) if variant != 'heads' else ''
                shown = f'{min(shares):.2%} to {max(shares):.2%}'
                rows.append([data, variant, shown, *cells, gain])
    return markdown(rows)


def main() -> None:
    """Makes the runs that are missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--table', action='store_true', help='print what there is')
    parser.add_argument(
        '--epochs', type=int, nargs=3, default=[10, 3, 12], help='train, search, retrain'
    )
    args = parser.parse_args()
    if args.table:
        print(table(records()))
        return
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    MMLogger.get_current_instance().setLevel('ERROR')
    for data in SETS:
        for seed in SEEDS:
            done = {run.variant for run in records() if (run.data, run.seed) == (data, seed)}
            missing = [variant for variant in VARIANTS if variant not in done]
            for run in runs_of(data, seed, missing, args.epochs) if missing else ():
                with RECORDS.open('a') as file:
                    file.write(json.dumps(run._asdict()) + '\n')
                print(run, flush=True)


if __name__ == '__main__':
    main()
