# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Recipes: how a training stage is trained, as a change of what the config says.

A recipe does not say what the network is, so stages that differ in it alone cost the same. One
more thing that a recipe may change is a row in ``SETTERS``.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mmengine.runner import Runner
from mmpretrain.models.utils.batch_augments import RandomBatchAugment

from .wrapped import unwrapped


class Setter(NamedTuple):
    """One thing that a recipe may change.

    Attributes:
        build: From what a config states to what ``write`` takes; it raises what is wrong with it.
        read: What a run trains with.
        write: Lets it train with something else.
    """

    build: Callable[[Any], Any]
    read: Callable[[Runner], Any]
    write: Callable[[Runner, Any], None]


def _build_augments(value: dict | None) -> RandomBatchAugment | None:
    if value is None or isinstance(value, RandomBatchAugment):
        return value
    if not isinstance(value, dict):
        raise ValueError(
            "give a dict such as dict(augments=[dict(type='Mixup', alpha=0.8)]), or None"
        )
    return RandomBatchAugment(**value)


def _read_augments(runner: Runner) -> RandomBatchAugment | None:
    return unwrapped(runner.model).data_preprocessor.batch_augments


def _write_augments(runner: Runner, augments: RandomBatchAugment | None) -> None:
    preprocessor = unwrapped(runner.model).data_preprocessor
    if augments is not None and not preprocessor.to_onehot:
        raise ValueError(
            'batch_augments of recipes mix labels, which model.data_preprocessor hands on only '
            'with to_onehot=True; give dict(to_onehot=True, num_classes=N)'
        )
    preprocessor.batch_augments = augments


SETTERS: dict[str, Setter] = {
    'batch_augments': Setter(_build_augments, _read_augments, _write_augments),
}


class Recipes:
    """The recipe of each training stage.

    Args:
        given: A dict for each training stage, by the names of ``SETTERS``; what it leaves out is
            as the config says. None if all stages train as the config says.

    Raises:
        ValueError: If it is no such list, or something else is to be changed.
    """

    def __init__(self, given: Sequence[dict[str, Any]] | None = None) -> None:
        self.given = [] if given is None else given
        if isinstance(given, (str, dict)) or not isinstance(self.given, Sequence):
            raise ValueError(
                f'recipes={given!r} of StageSwitchHook must be a list of dicts, one for each '
                'training stage'
            )
        self._built = [self._build(k, recipe) for k, recipe in enumerate(self.given, start=1)]
        self._own: dict[str, Any] = {}

    @staticmethod
    def _build(k: int, recipe: Any) -> dict[str, Any]:
        unknown = sorted(map(str, set(recipe) - set(SETTERS))) if isinstance(recipe, dict) else None
        if unknown is None or unknown:
            raise ValueError(
                f'training stage {k}: recipe {recipe!r} of StageSwitchHook must be a dict of '
                f'{sorted(SETTERS)}'
            )
        built = {}
        for name, value in recipe.items():
            try:
                built[name] = SETTERS[name].build(value)
            except (TypeError, ValueError, KeyError) as error:
                raise ValueError(
                    f'training stage {k}: {name}={value!r} of recipes of StageSwitchHook cannot be '
                    f'built ({type(error).__name__}: {error})'
                ) from None
        return built

    def of_stages(self, count: int) -> Sequence[dict[str, Any]]:
        """What is given for each of ``count`` training stages; empty if all train alike.

        Raises:
            ValueError: If there are recipes for another number of stages.
        """
        if self.given and len(self.given) != count:
            raise ValueError(
                f'recipes of StageSwitchHook are {len(self.given)}, but there are {count} '
                'training stages; give one for each, {} where it is as the config says'
            )
        return self.given

    def read(self, runner: Runner) -> None:
        """Takes note of what the config says, and tries all that recipes change.

        Raises:
            ValueError: If a run cannot be trained otherwise.
        """
        names = dict.fromkeys(name for recipe in self._built for name in recipe)
        for name in names:
            try:
                self._own[name] = SETTERS[name].read(runner)
            except AttributeError as error:
                raise ValueError(
                    f'recipes of StageSwitchHook change {name}, which this run does not have '
                    f'({error}); leave it out'
                ) from None
        for stage in range(len(self._built)):
            self.apply(runner, stage)
        for name, value in self._own.items():
            SETTERS[name].write(runner, value)

    def apply(self, runner: Runner, stage: int) -> None:
        """Lets the run train with the recipe of a training stage (0-based)."""
        recipe = self._built[stage] if self._built else {}
        for name, value in {**self._own, **recipe}.items():
            SETTERS[name].write(runner, value)

    def changed(self, old: int, new: int) -> list[str]:
        """The names of what is trained otherwise in training stage ``new`` than in ``old``."""
        if not self.given:
            return []
        before, now = self.given[old], self.given[new]
        lacks = object()
        return [name for name in self._own if before.get(name, lacks) != now.get(name, lacks)]
