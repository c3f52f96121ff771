# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Training from JPEGs: images a second, and how much of the time is waiting for them."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.loader import draw_images

from .runs import short_run
from .sizes import VIEWS, Size


def training_from_files(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """A row for each stage of each family in each view, as the ledger of a run has it.

    The pipelines are the configs' own. The files are in the memory of the system after the first
    epoch, as they would not be of a data set that is larger than it.
    """
    with TemporaryDirectory() as folder:
        files = Path(folder, 'files')
        kilobytes = draw_images(files, size.files)
        for file in sorted(files.glob('class/*')):
            for i in range(1, size.names):
                os.link(file, file.with_stem(f'{file.stem}_{i}'))
        for name in size.loaded:
            for view in VIEWS:
                work_dir = Path(folder, f'{name}_{view}')
                for row in _stages(device, size, name, view, files, work_dir):
                    yield dict(family=name, view=view, kilobytes=kilobytes, **row)


def _stages(
    device: str, size: Size, name: str, view: str, files: Path, work_dir: Path
) -> Iterator[dict[str, Any]]:
    workers = min(size.workers, len(os.sched_getaffinity(0)))
    length = max(1, size.files * size.names // size.batch)
    family = size.families[name]
    pipeline = family.read().train_dataloader.dataset.pipeline
    loader = dict(
        batch_size=size.batch,
        num_workers=workers,
        persistent_workers=True,
        sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
        dataset=dict(_delete_=True, type='CustomDataset', data_root=str(files), pipeline=pipeline),
    )
    epochs = max(1, size.iterations // length)
    runner = short_run(device, family, work_dir, loader, view, epochs)
    runner.train()
    ledger = runner.train_loop.ledger
    for k, seconds in enumerate(ledger.seconds):
        yield dict(
            stage=k + 1,
            batch=size.batch,
            workers=workers,
            images_per_second=ledger.samples[k] / seconds,
            waiting=ledger.waiting[k] / seconds,
        )
