# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Data and heads must mean the same classes: as many at most, and with the same names."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from torch import nn

from ..loading.resized_files import check_complete, folders_of
from ..mmengine_gaps import has_train_loop, is_to_resume
from ..registry import HOOKS
from ..wrapped import unwrapped

# Where mmpretrain, mmdet and mmseg have heads that classify; a region proposal head does not.
HEADS = (
    'head',
    'bbox_head',
    'roi_head.bbox_head',
    'roi_head.mask_head',
    'decode_head',
    'auxiliary_head',
)
SHOWN = 10  # names of a list
FOLDERS = 'class_folders'  # in the meta information of a checkpoint, by label
SAME_FOLDERS = 'give both a folder for each class, which may be empty'


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Raises ValueError if a dataset has more classes than a head of the model has outputs for."""
    model = unwrapped(model)
    classes = class_names(dataset)
    for place, outputs in _class_counts(model):
        if len(classes) > outputs:
            empty = _empty_folders(dataset, classes)
            advice = (
                f'give model.{place}.num_classes={len(classes)} (of a classifier that mixes '
                'images, also data_preprocessor.num_classes)'
            )
            if empty:
                advice = f'{_remove(empty)}, or {advice}'
            raise ValueError(
                f'the training data has {len(classes)} classes ({", ".join(classes[:3])}, ...), '
                f'but model.{place} has num_classes={outputs}; {advice}'
            )


def check_same_classes(
    dataset: Any,
    what: str,
    other: Any,
    reference: str,
    names: Sequence[str] | None = None,
    folders: Sequence[str] = (),
) -> None:
    """Raises ValueError if a dataset has other classes than a model was trained with.

    Labels are numbers, so with other names, or in another order, they count for other classes.
    A dataset that names no classes is not looked at. Where both have folders, these are
    compared: names may be stated, and say nothing of the folders.

    Args:
        dataset: Whose classes are looked at: by name and, of image folders, by folder.
        what: It is, for the message.
        other: The data that was trained on; None if only its ``names`` are known. Of image
            folders, all must have the same classes.
        reference: It is, for the message.
        names: Its classes, where ``other`` is not given.
        folders: Its folders by label, where ``other`` is not given and they are known.
    """
    mine, trained = _folders(dataset), _folders(other) or [tuple(folders)] * bool(folders)
    for part in trained[1:]:
        pair = (part, f'a part of {reference}'), (trained[0], 'its first part')
        _check_same(*pair, (other, other), SAME_FOLDERS)
    if mine and trained:
        for each in mine:
            _check_same((each, what), (trained[0], reference), (dataset, other), SAME_FOLDERS)
        return
    theirs, ours = class_names(dataset), class_names(other) if names is None else tuple(names)
    advice = 'give both the same, with dataset.metainfo=dict(classes=[...])'
    if mine and len(theirs) == len(ours):
        advice = (
            f'if its folders {_listed(mine[0])} are those of {reference}, in this order, give '
            f'dataset.metainfo=dict(classes=[{_listed([*map(repr, ours)])}])'
        )
    elif mine:
        advice = SAME_FOLDERS
    _check_same((theirs, what), (ours, reference), (dataset, other), advice)


def check_evaluated(
    loop: Any,
    what: str,
    other: Any,
    names: Sequence[str] | None = None,
    folders: Sequence[str] = (),
) -> None:
    """``check_same_classes`` for what a loop evaluates on, if there is a loop with data.

    A copy of a data set that is not complete is refused as well.
    """
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    check_complete(folders_of(dataset))
    reference = 'the training data' if names is None else 'the checkpoint'
    check_same_classes(dataset, what, other, reference, names, folders)


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names of the classes of a dataset, wrapped or not; none if it does not name them."""
    return trained_classes(getattr(dataset, 'metainfo', None))


def trained_classes(metainfo: Any) -> tuple[str, ...]:
    """The names of the classes in the meta information of a dataset, or of a checkpoint."""
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def _check_same(
    mine: tuple[Sequence[str], str],
    theirs: tuple[Sequence[str], str],
    data: tuple[Any, Any],
    advice: str,
) -> None:
    """Of names, or folders, and what they are of; ``advice`` is for those that hold images."""
    (names, what), (trained, reference) = mine, theirs
    if not names or not trained or names == trained:
        return
    missing = [name for name in trained if name not in names]
    surplus = [name for name in names if name not in trained]
    parts = [f'it lacks {_listed(missing)}'] * bool(missing)
    parts += [f'only it has {_listed(surplus)}'] * bool(surplus)
    empty = [*_empty_folders(data[0], surplus), *_empty_folders(data[1], missing)]
    raise ValueError(
        f'{what} has other classes than {reference}: '
        f'{" and ".join(parts) or "they are in another order"}. So its labels would count for '
        f'other classes. {reference} has {len(trained)} ({_listed(trained)}), and {what} '
        f'{len(names)} ({_listed(names)}); {_remove(empty) if empty else advice}'
    )


def _class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    modules = dict(model.named_modules())
    for place in HEADS:
        outputs = getattr(modules.get(place), 'num_classes', None)
        if isinstance(outputs, int):
            yield place, outputs


def _image_folders(dataset: Any) -> Iterator[CustomDataset]:
    """The datasets within one whose folders are the classes."""
    for each in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if each is not None:
            yield from _image_folders(each)
    if isinstance(dataset, CustomDataset) and getattr(dataset, 'folder_to_idx', None):
        yield dataset


def _folders(dataset: Any) -> list[tuple[str, ...]]:
    """The folders of each, by label; their names of classes may be stated, and say nothing."""
    return [
        tuple(sorted(each.folder_to_idx, key=each.folder_to_idx.get))
        for each in _image_folders(dataset)
    ]


def _empty_folders(dataset: Any, names: Sequence[str]) -> list[str]:
    """Of the folders that are classes and named so, those without an image."""
    return [
        f'{each.img_prefix.rstrip("/")}/{name}'
        for each in _image_folders(dataset)
        for labels in [set(each.get_gt_labels().tolist())]
        for name in names
        if name in each.folder_to_idx and each.folder_to_idx[name] not in labels
    ]


def _remove(folders: Sequence[str]) -> str:
    if len(folders) == 1:
        return f'the folder {folders[0]} holds no image: remove it'
    return f'the folders {_listed(folders)} hold no image: remove them'


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + ', ...' * (len(names) > SHOWN)


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Checks that data and heads mean the same classes, in any train loop.

    Before the first iteration heads must have enough classes, and validation data those of the
    training data; before a test, test data must have those of the checkpoint. So checkpoints keep
    the folders of the training data, in ``meta['class_folders']``.

    ``BudgetedTrainLoop`` and ``StageSwitchHook`` do so by themselves. Elsewhere the first label
    that is too large raises an error that names neither, and other names are not noticed.
    """

    def __init__(self) -> None:
        self._trained: tuple[str, ...] = ()  # of a checkpoint
        self._folders: tuple[str, ...] = ()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._folders:  # mmengine keeps the names, which may be stated
            checkpoint['meta'][FOLDERS] = list(self._folders)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta') or {}
        self._trained = trained_classes(meta.get('dataset_meta'))
        self._folders = tuple(meta.get(FOLDERS, ()))

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        check_classes(runner.model, dataset)
        check_evaluated(runner.val_loop, 'the validation data', dataset)
        if is_to_resume(runner) and self._trained:
            check_same_classes(
                dataset, 'the training data', None, 'the checkpoint', self._trained, self._folders
            )
        self._trained = class_names(dataset)
        self._folders = next(iter(_folders(dataset)), ())

    def before_val(self, runner: Runner) -> None:
        if self._trained and not has_train_loop(runner):  # else it is training's
            self._check(runner.val_loop, 'the validation data')

    def before_test(self, runner: Runner) -> None:
        if self._trained:
            self._check(runner.test_loop, 'the test data')

    def _check(self, loop: Any, what: str) -> None:
        check_evaluated(loop, what, None, self._trained, self._folders)
