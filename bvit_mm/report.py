# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Plans as text, for logs and ``tools/plan.py``."""

from collections.abc import Sequence

from .plan import Plan
from .training_stages import TrainingStage


def plan_table(plan: Plan, stages: Sequence[TrainingStage]) -> str:
    """The training stages, what each costs, and what is spent of what.

    Heads and hidden units of a pyramid are listed by level; its tokens are the first level's.
    """
    names = ['tokens' if key == 'grid' else key for key in stages[0].keys]
    rows = [('stage', *names, 'GFLOPs', 'epochs', 'cost', 'share')]
    for k, (stage, gflops, epochs, cost) in enumerate(
        zip(stages, plan.gflops, plan.epochs, plan.costs), start=1
    ):
        share = f'{cost / plan.cost:.1%}'
        rows.append((k, *_sizes(stage), f'{gflops:.4g}', epochs, f'{cost:.4g}', share))
    blank = [''] * (len(names) + 1)
    rows.append(('total', *blank, plan.total_epochs, f'{plan.cost:.4g}', '100.0%'))
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['  '.join(cell.rjust(w) for cell, w in zip(row, widths)) for row in cells]
    return '\n'.join([*lines, summary(plan)])


def _sizes(stage: TrainingStage) -> list[str]:
    """Heads, hidden units, tokens and, if there is one, the window of a training stage."""
    rows, columns = stage.grid
    sizes = stage._replace(grid=rows * columns)._asdict()
    return [
        ','.join(map(str, sizes[key])) if isinstance(sizes[key], tuple) else str(sizes[key])
        for key in stage.keys
    ]


def summary(plan: Plan) -> str:
    """What is spent of what, in one line."""
    line = (
        f'costs {plan.cost:.6g} GFLOPs x epochs, {plan.cost / plan.full_cost:.2%} of the full '
        f'cost of {plan.full_cost:.6g}'
    )
    if plan.budget is None:
        return line
    return f'{line}; the budget is {plan.budget:.6g} ({plan.budget / plan.full_cost:.2%})'
