# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Recipes: how a training stage is trained, as a change of what the config says.

A recipe does not say what the network is, so stages that differ in it alone cost the same. What a
recipe may change are the rows of ``recipe_setters.SETTERS``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

from mmengine.runner import Runner

from .elastic import find_backbone
from .recipe_setters import SETTERS, Write
from .stage_images import load_views
from .training_stages import AXES

# What users may look for in a recipe, and where it is said.
ELSEWHERE = {
    **dict.fromkeys(AXES, 'training_stages of the backbone'),
    **dict.fromkeys(['num_classes', 'head'], 'model.head, which all training stages share'),
    **dict.fromkeys(
        ['metric', 'evaluator', 'val_evaluator', 'test_evaluator'],
        'val_evaluator of the config: all training stages are validated alike',
    ),
}


class Recipes:
    """The recipe of each training stage.

    Args:
        given: A dict for each training stage, by the names of ``SETTERS``; what it leaves out is
            as the config says, or as its own ``train_pipeline`` does. None if all stages train as
            the config says.

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
        self._own: dict[Write, Any] = {}  # what a run trains with where no recipe changes it
        self._stages: list[dict[Write, Any]] = []  # and in each training stage
        self._active: int | None = None

    @staticmethod
    def _build(k: int, recipe: Any) -> dict[str, Any]:
        unknown = sorted(map(str, set(recipe) - set(SETTERS))) if isinstance(recipe, dict) else None
        if unknown is None or unknown:
            places = [
                f'{name} belongs to {ELSEWHERE[name]}'
                for name in unknown or ()
                if name in ELSEWHERE
            ]
            raise ValueError(
                f'training stage {k}: recipe {_short(recipe)} of StageSwitchHook must be a dict of '
                f'{sorted(SETTERS)}' + ''.join(f'; {place}' for place in places)
            )
        built = {}
        for name, value in recipe.items():
            try:
                built[name] = SETTERS[name].build(value)
            except Exception as error:  # whatever the class of a transform or a loss raises
                raise ValueError(
                    f'training stage {k}: {name}={_short(value)} of recipes of StageSwitchHook '
                    f'cannot be built ({type(error).__name__}: {error})'
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
        self.apply(runner, None)  # a runner may train again
        self._own, self._stages = {}, []
        stages = [self._read_stage(runner, k, each) for k, each in enumerate(self._built, start=1)]
        count = find_backbone(runner.model).num_training_stages
        stages = stages or [{}]
        # What slims trains as the last one does; each has its own, for views are entered in them.
        stages += [dict(stages[-1]) for _ in range(count - len(stages))]
        self._own.update(load_views(runner, stages, self._own))
        for write, value in self._own.items():
            write(runner, value)
        self._stages = [{**self._own, **changes} for changes in stages]

    def _read_stage(self, runner: Runner, k: int, recipe: dict[str, Any]) -> dict[Write, Any]:
        changes: dict[Write, Any] = {}
        for name in (name for name in SETTERS if name in recipe):
            setter = SETTERS[name]
            try:
                own = self._own.setdefault(setter.write, setter.read(runner))
                value = setter.change(changes.get(setter.write, own), recipe[name])
                setter.write(runner, value)
            except AttributeError as error:
                raise ValueError(
                    f'recipes of StageSwitchHook change {name}, which this run does not have '
                    f'({error}); leave it out'
                ) from None
            except ValueError as error:
                raise ValueError(
                    f'training stage {k}: {name} of recipes of StageSwitchHook {error}'
                ) from None
            changes[setter.write] = value
        return changes

    def apply(self, runner: Runner, stage: int | None) -> bool:
        """Lets the run train with the recipe of a training stage (0-based).

        Args:
            runner: The runner, after ``read``.
            stage: None for what the config says.

        Returns:
            Whether anything is other than before.
        """
        before, now = self._values(self._active), self._values(stage)
        others = [write for write in now if now[write] is not before[write]]
        for write in others:
            write(runner, now[write])
        self._active = stage
        return bool(others)

    def _values(self, stage: int | None) -> dict[Write, Any]:
        return self._own if stage is None or not self._stages else self._stages[stage]

    @contextmanager
    def during(self, runner: Runner, stage: int) -> Iterator[None]:
        """What is tried within is trained with the recipe of a stage; afterwards all is as before.

        Data loaders must be asked for their batches within: workers copy the pipeline.
        """
        before = self._active
        self.apply(runner, stage)
        try:
            yield
        finally:
            self.apply(runner, before)

    def changed(self, old: int, new: int) -> list[str]:
        """The names of what is trained otherwise in training stage ``new`` than in ``old``."""
        if not self.given:
            return []
        before, now = (self.given[min(k, len(self.given) - 1)] for k in (old, new))
        lacks = object()
        return [name for name in SETTERS if before.get(name, lacks) != now.get(name, lacks)]


def _short(value: Any) -> str:
    """A value as a message shows it: of pipelines, the beginning."""
    return shorten(repr(value), 100)
