# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Figures 2 to 4 of the paper, from what ``bvit_mm.analysis.measure`` measures.

Colors are those of viridis, which keep their order for the color-blind and in gray.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise, product
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

Record = Mapping[str, Any]  # of one epoch, as tools/analyze.py and RedundancyHook write it

MOST = 6  # epochs side by side
FEW = 40  # epochs that are marked one by one
# Letters of a PDF stay letters, as journals want them.
STYLE = {'pdf.fonttype': 42}


def draw_lines(
    records: Sequence[Record], part: str, numbers: dict[str, tuple[str, float]], file: Path
) -> None:
    """Numbers of each block over epochs; dotted lines are where a training stage ends.

    Lines end there too: on its two sides are networks of different sizes.

    Args:
        records: What was measured.
        part: ``'cka'`` or ``'pca'``.
        numbers: Of that part, each a panel: its label, and what it is multiplied by.
        file: The picture.
    """
    blocks = _blocks(records, part)
    figure = Figure(figsize=(6, 0.6 + 2.6 * len(numbers)), layout='constrained')
    axes = figure.subplots(len(numbers), 1, sharex=True, squeeze=False)
    colors = mpl.colormaps['viridis'](np.linspace(0, 0.93, len(blocks)))
    stages = [list(each) for _, each in groupby(records, key=itemgetter('training_stage'))]
    for axis, (number, (label, scale)) in zip(axes[:, 0], numbers.items()):
        for (i, block), stage in product(enumerate(blocks), stages):
            values = [record[part].get(block, {}).get(number) for record in stage]
            axis.plot(
                [record['epoch'] for record in stage],
                [np.nan if value is None else scale * value for value in values],
                color=colors[i],
                ls=('-', '--')[i % 2],  # so that neighbors can be told apart
                marker='.' if len(records) <= FEW else None,
                ms=4,
                lw=1.3,
                label=block if stage is stages[0] else None,
            )
        for before, after in pairwise(stages):
            end = (before[-1]['epoch'] + after[0]['epoch']) / 2
            axis.axvline(end, color='0.4', lw=0.8, ls=(0, (2, 4)))
        axis.set(ylabel=label, xlim=(records[0]['epoch'] - 0.5, records[-1]['epoch'] + 0.5))
        axis.set_ylim(0, None)
        axis.grid(alpha=0.3)
    axis.set_xlabel('epoch')
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        *axis.get_legend_handles_labels(),
        title='block',
        loc='outside right upper',
        frameon=False,
        ncol=-(-len(blocks) // (14 * len(numbers))),
        fontsize=8,
    )
    _save(figure, file)


def draw_matrices(records: Sequence[Record], file: Path) -> None:
    """CKA of all pairs of heads: a row a block, a column an epoch; gray is 0/0.

    Args:
        records: What was measured, with ``cka``.
        file: The picture.
    """
    blocks = _blocks(records, 'cka')
    records = _spread([record for record in records if record['cka']])
    figure, axes = _panels(len(blocks), len(records), 1.0)
    colors = mpl.colormaps['viridis'].with_extremes(bad='0.8')
    for row, block in zip(axes, blocks):
        for axis, record in zip(row, records):
            axis.axis('off')
            if block in record['cka']:
                matrix = np.array(record['cka'][block]['matrix'], dtype=float)
                picture = axis.imshow(matrix, cmap=colors, vmin=0, vmax=1)
        _name_row(row[0], f'block {block}')
    _name_columns(axes[0], records)
    figure.colorbar(picture, ax=axes, label='CKA', shrink=min(1.0, 2.5 / len(blocks)), aspect=12)
    _save(figure, file)


def draw_attention(images: Sequence[Tensor], records: Sequence[Record], file: Path) -> None:
    """Class-token attention on images: a row an image, a column an epoch.

    Where a training stage crops the grid, its map lies on the center of the image.

    Args:
        images: Each (3, height, width), blue first as mmcv reads them.
        records: What was measured, with ``attention``.
        file: The picture.
    """
    records = _spread(records)
    figure, axes = _panels(len(images), len(records) + 1, 1.15)
    maps = [np.array(record['attention']['maps']) for record in records]
    maps = [each / each.mean((1, 2), keepdims=True) for each in maps]
    highest = max(np.quantile(each, 0.99) for each in maps)
    for i, (row, image) in enumerate(zip(axes, images)):
        shown = image.flip(0).permute(1, 2, 0).double().numpy()
        shown = (shown - shown.min()) / max(np.ptp(shown), 1e-12)
        height, width = shown.shape[:2]
        for axis in row:
            axis.axis('off')
        row[0].imshow(shown)
        for axis, record, values in zip(row[1:], records, maps):
            axis.imshow(shown.mean(2), cmap='gray', vmin=0, vmax=1)
            rows, columns = record['attention']['grid']
            top, left = ((n - m) // 2 for n, m in zip((rows, columns), values.shape[1:]))
            bottom, right = top + values.shape[1], left + values.shape[2]
            x, y = width / columns, height / rows
            picture = axis.imshow(
                values[i],
                cmap='viridis',
                vmin=0,
                vmax=highest,
                alpha=0.8,
                extent=(left * x - 0.5, right * x - 0.5, bottom * y - 0.5, top * y - 0.5),
            )
            axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    row = axes[0]
    row[0].set_title('image', fontsize=8)
    _name_columns(row[1:], records)
    figure.colorbar(
        picture,
        ax=axes,
        label=f'attention in block {records[0]["attention"]["block"]} / mean',
        shrink=min(1.0, 2.5 / len(images)),
        aspect=12,
    )
    _save(figure, file)


def _blocks(records: Sequence[Record], part: str) -> list[str]:
    """The blocks that any record has, in order of their depth: the last network has all."""
    return max((list(record[part]) for record in records), key=len)


def _spread(records: Sequence[Record]) -> list[Record]:
    """A few of them, the first and the last included."""
    places = np.linspace(0, len(records) - 1, min(MOST, len(records)))
    return [records[int(place)] for place in places.round()]


def _panels(rows: int, columns: int, side: float) -> tuple[Figure, np.ndarray]:
    size = side * columns + 1.5, side * rows + 0.5
    figure = Figure(figsize=size, layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def _name_columns(axes: Sequence[Axes], records: Sequence[Record]) -> None:
    for axis, record in zip(axes, records):
        stage = record['training_stage']
        title = f'epoch {record["epoch"]}' + (f'\nstage {stage}' if stage else '')
        axis.set_title(title, fontsize=8)


def _name_row(axis: Axes, name: str) -> None:
    axis.text(-0.1, 0.5, name, transform=axis.transAxes, ha='right', va='center', fontsize=8)


def _save(figure: Figure, file: Path) -> None:
    with mpl.rc_context(STYLE):
        figure.savefig(file, dpi=200)
