# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Hooks that a budgeted run asks before it plans and before it begins."""

from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from .plan import Charge
from .recipes import Recipes

if TYPE_CHECKING:
    from .loop import BudgetedTrainLoop


class RunHook(Hook):
    """A hook with costs, recipes or checks of its own; each answer has a default.

    Attributes:
        recipes: How each training stage is trained; those of one hook at most count.
    """

    recipes: Recipes | None = None

    def charges(self) -> list[Charge]:
        """What the hook costs besides training."""
        return []

    def check_run(self, loop: 'BudgetedTrainLoop', model: nn.Module) -> None:
        """Raises ValueError if the hook cannot serve a run; the data is built by then."""


def recipes_of(hook: Hook) -> list[dict[str, Any]]:
    """The recipes that a hook gives, one for each training stage; empty if it gives none."""
    given = hook.recipes if isinstance(hook, RunHook) else None
    return [] if given is None else list(given.given)


def recipes_in(runner: Runner) -> Recipes:
    """How each training stage of a run is trained; as the config says, if no hook has recipes."""
    found = [hook.recipes for hook in runner.hooks if isinstance(hook, RunHook) and hook.recipes]
    return found[0] if found else Recipes()
