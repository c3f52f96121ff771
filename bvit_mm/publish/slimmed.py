# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""From the checkpoint of a search to slimmed networks: several sizes, no data read."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cost import classifier_flops, present_gflops
from ..elastic import find_backbone
from ..elastic_modules import ElasticModule
from ..report import aligned
from ..slim.choice import Units, read_flops
from ..slim.cutting import chosen, flops_of, pad_, scores, slim_, units_of
from .network import (
    Published,
    Trained,
    enter_stage_,
    make_place,
    packed,
    read_training,
    trained_network,
    write_published,
)


class Search(NamedTuple):
    """A network whose gates say which of its units it needs.

    Attributes:
        trained: The whole network.
        units: Of each of its modules, with what they cost and their scores.
        classifier: Multiply-adds of one image in its classifier.
    """

    trained: Trained
    units: list[Units]
    classifier: int

    @property
    def flops(self) -> int:
        """Multiply-adds of one image."""
        backbone = self.trained.backbone
        return flops_of(backbone, backbone.totals()) + self.classifier


class Slimmed(NamedTuple):
    """One size of a network.

    Attributes:
        asked: The budget, as it was given.
        share: The budget as a share of what the whole network costs.
        kept: The units of each module that stay, best first.
        gflops: What an image costs, classifier included.
        parameters: How many.
        published: What is handed on.
    """

    asked: str
    share: float
    kept: list[tuple[int, ...]]
    gflops: float
    parameters: int
    published: Published

    def place(self, out: Path) -> Path:
        """``OUT-<share>``."""
        return out.with_name(f'{out.name}-{self.share:.4g}')


def read_search(file: str, weights: str | None = None) -> Search:
    """Reads a checkpoint whose gates were trained, of any run of mmengine.

    Args:
        file: The checkpoint.
        weights: As of ``publish``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint, or not of the whole network.
    """
    advice = (
        "give a checkpoint of a search: of a run whose backbone has gates=True or gates='dims', "
        'with bvit_mm.SlimHook (docs/slimming.md)'
    )
    checkpoint = read_training(file, 'training checkpoint', advice, ('cfg',))
    if not any(key.endswith('.gate') for key in checkpoint['state_dict']):
        raise ValueError(
            f'{file} has no gates: its network was not searched, or is slimmed already; {advice}'
        )
    trained = trained_network(checkpoint, file, weights)
    backbone = trained.backbone
    if 'bvit_mm' in trained.meta:
        enter_stage_(trained)
    if not backbone.is_whole:
        raise ValueError(
            f'{file} is of training stage {backbone.training_stage + 1} of '
            f'{backbone.num_training_stages}, which is not the whole network; {advice}, at the '
            'end of that'
        )
    modules = [module for module, _ in backbone.read_units()]
    gates = [module.gate for module in modules if module.gates_learn]
    if all(gate is None or (gate == 1).all() for gate in gates):
        raise ValueError(
            f'{file} has gates that are all 1, so they were never trained and tell nothing; '
            f'{advice}'
        )
    units = units_of(backbone, [scores(module).tolist() for module in modules])
    return Search(trained, units, classifier_flops(trained.model))


def slimmed(
    search: Search, flops: Sequence[float | str], padded: bool = False, **options: Any
) -> list[Slimmed]:
    """Makes a network for each budget; nothing is made if one is not possible.

    Args:
        search: The whole network.
        flops: What each may cost (``read_flops``).
        padded: Keeps the shapes of the whole network, with weights of 0 for what goes.
        **options: Of ``slim.choice.choose``.

    Raises:
        ValueError: If there is no such network.
    """
    budgets = [read_flops(each, search.flops) for each in flops]
    choices = [
        chosen(search.trained.backbone, search.units, search.classifier, budget, **options)
        for budget in budgets
    ]
    about = dict(options, padded=padded)
    return [
        _slimmed(search, str(asked), budget, kept, about)
        for asked, budget, kept in zip(flops, budgets, choices)
    ]


def _slimmed(
    search: Search, asked: str, budget: int, kept: list[tuple[int, ...]], about: dict[str, Any]
) -> Slimmed:
    model = copy.deepcopy(search.trained.model)
    backbone = find_backbone(model)
    if about['padded']:
        pad_(backbone, kept)
    else:
        slim_(backbone, kept)
    gflops = present_gflops(model)
    told = dict(flops=asked, **about, gflops=gflops, gflops_before=search.flops / 1e9)
    published = packed(search.trained._replace(model=model, backbone=backbone), told)
    parameters = sum(param.numel() for param in model.parameters())
    return Slimmed(asked, budget / search.flops, kept, gflops, parameters, published)


def write_slimmed(sizes: Sequence[Slimmed], out: Path) -> list[tuple[Path, Path]]:
    """Writes ``OUT-<share>-<hash>.pth`` and ``.py`` for each size (``write_published``).

    Returns:
        The two files of each.

    Raises:
        ValueError: If ``out`` is a folder.
    """
    make_place(out)
    return [write_published(size.published, size.place(out)) for size in sizes]


def sizes_table(search: Search, sizes: Sequence[Slimmed]) -> str:
    """What each size was to cost and does cost, beside the whole network."""
    whole = sum(
        param.numel()
        for name, param in search.trained.model.named_parameters()
        if not name.endswith('.gate')
    )
    rows: list[Sequence[object]] = [('asked', 'GFLOPs', 'share', 'parameters')]
    rows.append(('whole', f'{search.flops / 1e9:.4g}', '100.0%', f'{whole:,}'))
    for size in sizes:
        share = f'{size.gflops * 1e9 / search.flops:.1%}'
        rows.append((size.asked, f'{size.gflops:.4g}', share, f'{size.parameters:,}'))
    return '\n'.join(aligned(rows))


def units_table(search: Search, sizes: Sequence[Slimmed]) -> str:
    """How many units each size keeps: a line for each block."""
    backbone = search.trained.backbone
    names: dict[ElasticModule, str] = {
        module: name
        for name, module in backbone.named_modules()
        if isinstance(module, ElasticModule)
    }
    blocks: dict[str, list[int]] = {}
    for i, (module, _) in enumerate(backbone.read_units()):
        found = re.match(r'(?:.*\.)?\d+(?=\.|$)', names[module])
        blocks.setdefault(found[0] if found else names[module], []).append(i)
    networks = [
        [len(units.scores) for units in search.units],
        *([len(units) for units in size.kept] for size in sizes),
    ]
    rows: list[Sequence[object]] = [
        (' + '.join(backbone.totals()), 'whole', *(size.asked for size in sizes))
    ]
    for block, places in blocks.items():
        cells = (' + '.join(str(counts[i]) for i in places) for counts in networks)
        rows.append((block, *cells))
    return '\n'.join(aligned(rows))
