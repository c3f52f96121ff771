# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Waiting for data: how much of the time it takes, and what would help on this machine."""

from dataclasses import dataclass

from .hours import duration

# Share of the time that may pass with waiting for data before that is what binds. Without workers,
# loading and computing take turns, and the longer of the two does.
WAITING, WAITING_ALONE = 0.1, 0.5


@dataclass(frozen=True)
class Loading:
    """How a process gets its training data.

    Attributes:
        workers: Of its data loader.
        cores: CPUs of this machine that are its own, as many as each other process has.
        reads_large_files: Whether images are decoded each time from files that were not resized.
        makes_whole_size: Whether images are cut out at the size of the whole network, by a
            transform that has one of ours to replace it.
    """

    workers: int
    cores: int
    reads_large_files: bool = False
    makes_whole_size: bool = False


def binds(waiting: float, seconds: float, workers: int) -> bool:
    """Whether loading, not computing, says how long training takes.

    Args:
        waiting: Seconds that passed with waiting for data.
        seconds: Seconds of training, these included.
        workers: Of the data loader.
    """
    return waiting > (WAITING if workers else WAITING_ALONE) * seconds


def advice(loading: Loading) -> list[str]:
    """What would shorten waiting for data, the least work first."""
    found = []
    if loading.workers < loading.cores:
        found.append(
            f'more workers (train_dataloader.num_workers={loading.cores}, not {loading.workers})'
        )
    if loading.makes_whole_size:
        found.append("images made at the stage's size (bvit_mm.RandomResizedCrop)")
    if loading.reads_large_files:
        found.append('files resized once (tools/resize_dataset.py)')
    return found or ['more cores, or a simpler train_pipeline']


def waiting_text(what: str, waiting: float, seconds: float, loading: Loading) -> str:
    """How much of the time was waiting for data; and what would help here, if that binds.

    Args:
        what: What took the time, such as ``'training stage 1'``.
        waiting: Seconds that passed with waiting for data.
        seconds: Seconds of training, these included.
        loading: How the data came.
    """
    share = waiting / seconds if seconds else 0.0
    text = f'waiting for data: {share:.0%} of the {duration(seconds)} of {what}'
    if not binds(waiting, seconds, loading.workers):
        return text
    return f'{text}. This would help here: {"; ".join(advice(loading))}'
