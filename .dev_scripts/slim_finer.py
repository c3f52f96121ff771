# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Measures whether finer gates than those of whole heads pay, on two small data sets.

    python .dev_scripts/slim_finer.py            # the runs that results/slim_finer.jsonl lacks
    python .dev_scripts/slim_finer.py --table    # what they say

It is an experiment: gates of tokens are no part of the package. All variants end with half of the
FLOPs, and train as long on the same batches. Those of a seed begin with one whole network, trained
once, two thirds of the time on small images, as that trains it well in a short time. Then each
searches with gates, is cut, and retrains:

- ``heads``: gates of heads and hidden units, as ``SlimHook`` and ``tools/slim.py`` have them.
- ``dims``: with ``gates='dims'``, a gate for each dimension of each head instead (ViT-Slim's unit).
- ``tokens``: as ``heads``, and a gate for each position in each layer. Fewer units go, for tokens
  go as well.
- ``random-tokens``: the network of ``tokens``, searched by the same gates, with its positions
  permuted: as many stay in each layer, but drawn ones.
"""

import argparse
import copy
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from finer_gates import choose, cut_, flops_of, gate_loss, units_of, with_gates
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from bvit_mm.compare.tables import difference, markdown, mean_and_spread

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / 'results' / 'slim_finer.jsonl'
SETS, SEEDS = ('digits', 'photographs'), range(6)
VARIANTS = ('heads', 'dims', 'tokens', 'random-tokens')
SHARE = 0.5  # of the FLOPs, classifier included, that the cut network may take
# Accuracies of ``Run``, with their headings.
COLUMNS = dict(whole='whole', searched='searched', before='cut', value='retrained')


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


def config_of(data: str, seed: int) -> Config:
    """The config of a comparison, whose stages are the whole network on small and on all tokens.

    An epoch is all images, and gates take longer steps.
    """
    cfg = Config.fromfile(ROOT / 'configs' / 'compare' / f'deit-{data}.py')
    cfg.randomness.seed = seed
    stage = cfg.model.backbone.training_stages[-1]
    small = dict(stage, grid=math.ceil(stage.grid / 2), view='scale')
    cfg.model.backbone.training_stages = [small, stage]
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(ROOT / 'data' / data / name)
    cfg.optim_wrapper.paramwise_cfg.custom_keys['gate'] = dict(decay_mult=0.0, lr_mult=10.0)
    return cfg


def train_(
    model: nn.Module, cfg: Config, epochs: int, small: int = 0, search: bool = False
) -> nn.Module:
    """Trains with half an epoch of warm-up, and then a cosine; a search has a constant rate.

    The order of images and their augmentation are the same for all networks of a seed.

    Args:
        model: The network, whole or cut.
        cfg: Of the data and the optimizer.
        epochs: How long.
        small: The first so many are on small images.
        search: Whether gates have a penalty.
    """
    set_random_seed(cfg.randomness.seed)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=cfg.randomness.seed)
    steps, warm_up = epochs * len(loader), len(loader) // 2

    def rate(step: int) -> float:
        done = max(0, step - warm_up) / (steps - warm_up)
        cosine = 1.0 if search else (1 + math.cos(math.pi * done)) / 2
        return min(1.0, (step + 1) / (warm_up + 1)) * cosine

    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    scheduler = torch.optim.lr_scheduler.LambdaLR(wrapper.optimizer, rate)
    model.train()
    for epoch in range(epochs):
        if epoch in (0, small) and model.backbone.num_training_stages > 1:  # not of a cut network
            model.backbone.set_training_stage(int(epoch >= small))
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            inputs = model.data_preprocessor(batch, training=True)
            loss, _ = model.parse_losses(model(**inputs, mode='loss'))
            wrapper.update_params(loss + gate_loss(model.backbone) if search else loss)
            scheduler.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, cfg: Config) -> float:
    """Of the images to validate with, in percent."""
    model.eval()
    right = [
        bool(sample.pred_label == sample.gt_label)
        for batch in Runner.build_dataloader(cfg.val_dataloader)
        for sample in model.val_step(batch)
    ]
    return 100 * sum(right) / len(right)


def runs_of(data: str, seed: int, variants: Sequence[str], epochs: list[int]) -> Iterator[Run]:
    """Makes the runs of one data set and seed; networks that they share are trained once."""
    cfg = config_of(data, seed)
    set_random_seed(seed)
    whole = MODELS.build(cfg.model)
    whole.init_weights()
    train_(whole, cfg, epochs[0], small=2 * epochs[0] // 3)
    of_whole, searched = accuracy(whole, cfg), {}
    for variant in variants:
        kind = variant.removeprefix('random-')
        if kind not in searched:
            searched[kind] = train_(with_gates(whole, kind), cfg, epochs[1], search=True)
        model = copy.deepcopy(searched[kind])
        of_searched = accuracy(model, cfg)
        generator = torch.Generator().manual_seed(seed)
        patches = math.prod(model.backbone.patch_resolution)
        permutation = torch.randperm(patches, generator=generator) if kind != variant else None
        units, cost = units_of(model.backbone, permutation), partial(flops_of, model)
        full = cost([range(len(each.scores)) for each in units])
        kept = choose(units, cost, SHARE * full)
        share, counts = cost(kept) / full, [*map(len, kept)]
        cut_(model, kept)
        before = accuracy(model, cfg)
        after = accuracy(train_(model, cfg, epochs[2]), cfg)
        yield Run(variant, data, seed, epochs, share, of_whole, of_searched, before, after, counts)


def records() -> list[Run]:
    """The finished runs."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    return [Run(**json.loads(line)) for line in lines]


def table(runs: Sequence[Run]) -> str:
    """Markdown: what each variant reaches, and how much better than ``heads`` it is."""
    rows = [['set', 'gates', 'FLOPs', *COLUMNS.values(), 'minus heads']]
    for data, variant in dict.fromkeys((run.data, run.variant) for run in runs):
        ours, heads = (
            {run.seed: run for run in runs if (run.data, run.variant) == (data, name)}
            for name in (variant, 'heads')
        )
        shares = [run.share for run in ours.values()]
        cells = [mean_and_spread([getattr(r, name) for r in ours.values()]) for name in COLUMNS]
        gain = difference(ours, heads) if variant != 'heads' else ''
        rows.append([data, variant, f'{min(shares):.2%} to {max(shares):.2%}', *cells, gain])
    return markdown(rows)


def main() -> None:
    """Makes the runs that are missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--table', action='store_true', help='print what there is')
    parser.add_argument(
        '--epochs', type=int, nargs=3, default=[18, 3, 12], help='train, search, retrain'
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
