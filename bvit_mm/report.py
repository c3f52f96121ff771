# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Plans as text, for logs and ``tools/plan.py``."""

from collections.abc import Sequence

from .plan import Plan
from .training_stages import TrainingStage


def plan_table(plan: Plan, stages: Sequence[TrainingStage]) -> str:
    """The training stages, what each costs, and what is spent of what."""
    rows = [('stage', 'heads', 'hidden', 'tokens', 'GFLOPs', 'epochs', 'cost', 'share')]
    for k, (stage, gflops, epochs, cost) in enumerate(
        zip(stages, plan.gflops, plan.epochs, plan.costs), start=1
    ):
        tokens = stage.grid[0] * stage.grid[1]
        share = f'{cost / plan.cost:.1%}'
        rows.append(
            (k, stage.heads, stage.hidden, tokens, f'{gflops:.4g}', epochs, f'{cost:.4g}', share)
        )
    rows.append(('total', '', '', '', '', plan.total_epochs, f'{plan.cost:.4g}', '100.0%'))
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['  '.join(cell.rjust(w) for cell, w in zip(row, widths)) for row in cells]
    return '\n'.join([*lines, summary(plan)])


def summary(plan: Plan) -> str:
    """What is spent of what, in one line."""
    line = (
        f'costs {plan.cost:.6g} GFLOPs x epochs, {plan.cost / plan.full_cost:.2%} of the full '
        f'cost of {plan.full_cost:.6g}'
    )
    if plan.budget is None:
        return line
    return f'{line}; the budget is {plan.budget:.6g} ({plan.budget / plan.full_cost:.2%})'
