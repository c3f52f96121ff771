# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Writes the page of what was measured on a GPU, from the record of ``make gpu``.

    python .dev_scripts/gpu_page.py docs/gpu.md

Without a record the page says that there are no figures yet, so links to it always lead somewhere.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bvit_mm.compare.tables import markdown

ROOT = Path(__file__).parent.parent
RECORD = ROOT / 'results' / 'gpu.json'
INTRODUCTION = """# On a GPU

Written by `python .dev_scripts/gpu_page.py docs/gpu.md` from `results/gpu.json`, which `make gpu`
writes; a test compares. `make gpu` takes at most nine minutes on one GPU and downloads nothing
besides the environment.
"""
NO_FIGURES = """
**No figures have been taken yet.** There is no `results/gpu.json`. Where there is a GPU, `make gpu`
writes that file and this page. Where there is none it says so, and changes nothing.
"""
NOTES = {
    'laws': 'Each network of the table of laws (laws.md) in float32 and float64: whole = plain '
    'class, stage = independent small network, no gradients of inactive units, `half` growth.',
    'memory': 'DeiT-S in bfloat16. The process may have 0.7 of the memory that the run takes.',
    'nccl': 'A small network, deterministic algorithms, `launcher="pytorch"`, one process.',
    'resume': 'Law 8 with `randomness.deterministic=True`, and `CUBLAS_WORKSPACE_CONFIG=:4096:8`, '
    'without which torch refuses products of matrices then. Small networks with EMA.',
    'steps': 'Forward, backward, AdamW, bfloat16, random images. Ratios are medians over paired '
    'rounds in random order. The last column is time share over FLOPs share.',
    'files': "JPEGs of ImageNet's sizes through the configs' own pipelines; files in memory.",
    'compile': 'A ViT of four blocks with the widths of DeiT-S, without mixing.',
    'resume_as_ever': 'The same without deterministic algorithms, where nothing is promised.',
}
# Of each part: headings, and what stands below them, by row.
Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def of(key: str, pattern: str = '{}') -> Callable[[Mapping[str, Any]], str]:
    """A cell with a value of a row; empty if it has none."""
    return lambda row: '' if row.get(key) is None else pattern.format(row[key])


def mark(key: str) -> Callable[[Mapping[str, Any]], str]:
    """A cell with a yes or no."""
    return lambda row: 'yes' if row[key] else '**no**'


STOPS: list[Column] = [
    ('family', of('family')),
    ('view', of('view')),
    ('stopped after', of('after')),
    ('differences', of('differences')),
    ('error', of('error')),
]
COLUMNS: dict[str, list[Column]] = {
    'laws': [
        ('network', of('case')),
        ('holds', mark('ok')),
        ('broken', lambda row: '; '.join(f'{law}: {text}' for law, text in row['broken'].items())),
    ],
    'memory': [
        ('run', of('run')),
        ('batch', of('batch')),
        ('GB', of('gigabytes', '{:.1f}')),
        ('parts', of('parts')),
        ('message', of('message')),
    ],
    'nccl': [
        ('backend', of('backend')),
        ('model', of('model')),
        ('stopped after', of('after')),
        ('differences', of('differences')),
        ('error', of('error')),
    ],
    'resume': [*STOPS, ('same bits', mark('ok'))],
    'steps': [
        ('network', of('family')),
        ('what', lambda row: row.get('plain') or f'stage {row["stage"]}, {row["view"]}'),
        ('batch', of('batch')),
        ('ms', of('milliseconds', '{:.1f}')),
        ('ours / this', of('ours', '{:.3f}')),
        ('time share', of('time_share', '{:.3f}')),
        ('FLOPs share', of('flops_share', '{:.3f}')),
        ('over', of('excess', '{:.2f}')),
    ],
    'files': [
        ('network', of('family')),
        ('view', of('view')),
        ('stage', of('stage')),
        ('batch', of('batch')),
        ('workers', of('workers')),
        ('images/s', of('images_per_second', '{:.0f}')),
        ('waiting for data', of('waiting', '{:.0%}')),
    ],
    'compile': [
        ('stage', of('stage')),
        ('batch', of('batch')),
        ('graphs', of('graphs')),
        ('later', of('graphs_later')),
        ('s to compile', of('compiling_seconds', '{:.0f}')),
        ('ms', of('milliseconds', '{:.1f}')),
        ('of eager', of('of_eager', '{:.2f}')),
    ],
    'resume_as_ever': [*STOPS, ('same bits', mark('same'))],
}


def page(record: Mapping[str, Any] | None) -> str:
    """The page of a record, or of none."""
    if record is None:
        return f'{INTRODUCTION}{NO_FIGURES}'
    machine = record['machine']
    texts = [
        INTRODUCTION.rstrip(),
        f'{record["date"]}: {machine["gpu"]} ({machine["gigabytes"]:.0f} GB), '
        f'driver {machine["driver"]}, CUDA {machine["cuda"]}, torch {machine["torch"]}, '
        f'{machine["cores"]} CPU cores; {record["seconds"]:.0f} s in all.',
    ]
    for name, part in record['parts'].items():
        texts.append(f'## {part["what"][0].upper()}{part["what"][1:]}')
        outcome = 'It holds.' if part['ok'] else '**It failed.**'
        texts.append(f'{NOTES[name]} {outcome} {part["seconds"]:.0f} s.')
        if part['rows']:
            texts.append(table(COLUMNS[name], part['rows']))
        if part['error']:
            texts.append(f'```text\n{part["error"].strip()}\n```')
    if absent := [name for name in NOTES if name not in record['parts']]:
        texts.append(f'Not in this record: {", ".join(absent)}.')
    return '\n\n'.join(texts) + '\n'


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table, with the columns in which any of them has something."""
    cells = [[in_a_line(cell(row)) for row in rows] for _, cell in columns]
    kept = [[heading, *column] for (heading, _), column in zip(columns, cells) if any(column)]
    return markdown([list(row) for row in zip(*kept)])


def in_a_line(text: str) -> str:
    """A text as a cell can hold it."""
    return ' '.join(text.replace('|', '/').split())


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('page', type=Path, help='a Markdown file')
    parser.add_argument('--record', type=Path, default=RECORD)
    args = parser.parse_args()
    record = json.loads(args.record.read_text()) if args.record.exists() else None
    args.page.write_text(page(record))


if __name__ == '__main__':
    main()
