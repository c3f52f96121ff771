# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The section of the results on redundancy: the curves of a run, beside Fig. 2 to 4."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bvit_mm.analysis.figures import draw_lines
from bvit_mm.compare.tables import markdown

INTRODUCTION = """## Redundancy over training

One run of the whole network on the digits, seed 0, 32 epochs, measured on 256 of the images to
validate with:

```bash
python tools/train.py configs/compare/deit-digits_whole.py
python tools/analyze.py work_dirs/deit-digits_whole/epoch_{1,2,3,4,6,8,10,12,16,20,24,28,32}.pth \\
    --what cka pca attention --out work_dirs/redundancy --format png
```

The paper, of DeiT-S on ImageNet: CKA between heads falls in shallow blocks, in some after a rise,
and is near zero in deep ones (Fig. 2); the components of hidden units rise, most in shallow blocks
(Fig. 3); the class token attends to few patches first, and to more of the object later (Fig. 4)."""


def redundancy_section(records: Sequence[dict], figures: Path) -> list[str]:
    """Its paragraphs; two figures are written.

    Args:
        records: Of ``redundancy.json``, as ``tools/analyze.py`` writes it.
        figures: A folder for ``results_cka.png`` and ``results_components.png``.
    """
    cka, components = figures / 'results_cka.png', figures / 'results_components.png'
    draw_lines(records, 'cka', dict(mean=('mean CKA of pairs of heads', 1)), cka)
    label = 'components for 99 %\nof variance, % of units'
    draw_lines(records, 'pca', dict(share=(label, 100)), components)
    epochs = [record['epoch'] for record in records]
    first, last = epochs[0], epochs[-1]
    rows = [
        [
            'block',
            f'CKA, epoch {first}',
            'highest (epoch)',
            f'epoch {last}',
            f'components, epoch {first}',
            f'epoch {last}',
        ]
    ]
    falls = rises = 0
    for block in records[0]['cka']:
        values = [record['cka'][block]['mean'] for record in records]
        shares = [100 * record['pca'][block]['share'] for record in records]
        top = int(np.argmax(values))
        falls += values[-1] < values[0]
        rises += shares[-1] > shares[0]
        high = f'{values[top]:.2f} ({epochs[top]})'
        ends = [f'{shares[0]:.1f} %', f'{shares[-1]:.1f} %']
        rows.append([block, f'{values[0]:.2f}', high, f'{values[-1]:.2f}', *ends])
    blocks = len(rows) - 1
    seen = [attended(record['attention']['maps']) for record in records]
    low, high = min(seen), max(seen)
    block = records[0]['attention']['block']
    return [
        INTRODUCTION,
        markdown(rows),
        f'CKA ends below where it began in {falls} of {blocks} blocks, components above in {rises} '
        f'of {blocks}. The class token of block {block} attends to {seen[0]:.1f} of '
        f'{np.size(records[0]["attention"]["maps"][0])} patches after epoch {first} and to '
        f'{seen[-1]:.1f} after epoch {last} (the exponential of the entropy of its attention; '
        f'between {low:.1f} and {high:.1f} on the way).',
        f'![CKA between heads over epochs]({cka.name})',
        f'![Components of hidden units over epochs]({components.name})',
        '![Attention of the class token over epochs](results_attention.png)',
    ]


def attended(maps: Sequence) -> float:
    """How many patches attention is spread over: the exponential of its entropy, mean of images."""
    shares = np.reshape(maps, (len(maps), -1))
    shares = shares / shares.sum(1, keepdims=True)
    logs = np.log(np.maximum(shares, 1e-12))  # of a share of 0 it does not matter
    return float(np.exp(-(shares * logs).sum(1)).mean())
