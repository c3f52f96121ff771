# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""After epochs, writes down how much heads and hidden units repeat each other."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from ..files import write_whole
from ..options import is_whole_number
from ..registry import HOOKS
from ..running.processes import shared_seed
from ..running.randomness import kept_random_state
from .measure import image_loader, measure_redundancy, observable_copy

LOG = 'redundancy.jsonl'


@HOOKS.register_module()
class RedundancyHook(Hook):
    """Measures CKA between heads and components of hidden units during training (Fig. 2 and 3).

    On images of the validation set, the same ones each time, in the network that trains: not
    its averaged weights. ``redundancy.jsonl`` in ``work_dir`` gets what ``measure_redundancy``
    returns, one line an epoch, with its ``epoch`` and ``training_stage`` (1-based); the message
    hub and the visualizer get ``cka_block<name>`` and ``components_block<name>``. Blocks of a
    single head have no CKA. Training goes on bit for bit as without the hook; its time counts in
    a budget of hours. Serves any train loop with epochs. ``tools/analyze.py --log`` draws the file.

    Args:
        interval: Epochs between measurements; there is always one after the last epoch.
        num_images: How many images, spread evenly over the validation set.

    Raises:
        ValueError: If an argument is no whole number from 1 on; before training, if there is no
            validation set, the model cannot be looked into, or ``redundancy.jsonl`` is damaged.
    """

    priority = 'BELOW_NORMAL'  # before checkpoints, which keep what the message hub has

    def __init__(self, interval: int = 1, num_images: int = 64) -> None:
        for name, value in (('interval', interval), ('num_images', num_images)):
            if not is_whole_number(value) or value < 1:
                raise ValueError(
                    f'{name}={value!r} of RedundancyHook must be a whole number from 1'
                )
        self.interval = interval
        self.num_images = num_images

    def before_run(self, runner: Runner) -> None:
        if runner.val_loop is None:
            raise ValueError(
                'RedundancyHook measures on images for validation, but the config has none; give '
                'val_dataloader, val_evaluator and val_cfg, or drop the hook'
            )

        observable_copy(runner.model)
        if is_main_process():
            read_records(Path(runner.work_dir) / LOG)

    def before_train(self, runner: Runner) -> None:
        if is_main_process():
            # Seeded, so that a pipeline that draws numbers gives a resumed run the same images.
            with kept_random_state():
                set_random_seed(shared_seed(runner))
                self._images = list(image_loader(runner.val_dataloader.dataset, self.num_images))

    def after_train_epoch(self, runner: Runner) -> None:
        due = self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        if not due or not is_main_process():
            return
        with kept_random_state():
            measured = measure_redundancy(runner.model, self._images)
        epoch = runner.epoch + 1
        write_record(Path(runner.work_dir) / LOG, dict(epoch=epoch, **measured))
        scalars = {
            f'{name}_block{block}': values[key]
            for part, name, key in (('cka', 'cka', 'mean'), ('pca', 'components', 'share'))
            for block, values in measured[part].items()
            if values[key] is not None
        }
        for name, value in scalars.items():
            runner.message_hub.update_scalar(name, value)
        runner.visualizer.add_scalars(scalars, step=epoch)


def read_records(file: Path) -> list[dict[str, Any]]:
    """What ``RedundancyHook`` has written, one dict an epoch; none if there is no such file.

    Raises:
        ValueError: If a line is not what it writes.
    """
    lines = file.read_text(errors='replace').splitlines() if file.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not _is_record(record):
            raise ValueError(
                f'line {number} of {file} is no record of RedundancyHook; remove it, or the file'
            )
        records.append(record)
    return records


def _is_record(value: Any) -> bool:
    """Whether it is what ``measure_redundancy`` returns, with its epoch."""
    if not isinstance(value, dict) or not {'epoch', 'training_stage'} <= value.keys():
        return False
    return all(isinstance(value.get(part), dict) for part in ('cka', 'pca'))


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Adds the record of an epoch.

    What the file has of that epoch and later ones is of a run that was broken off, and goes.
    """
    kept = [each for each in read_records(file) if each['epoch'] < record['epoch']]
    write_whole(file, ''.join(f'{json.dumps(each)}\n' for each in (*kept, record)))
