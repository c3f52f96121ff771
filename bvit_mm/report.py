# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Plans, and what was spent, as text for logs and ``tools/plan.py``."""

from collections.abc import Iterable, Sequence

from .budget import Budget, MeteredBudget
from .hours import Measurement
from .ledger import Ledger
from .plan import Plan
from .training_stages import AXES, TrainingStage
from .waiting import Loading, waiting_text
from .widths import count

TIMES = ('seconds', 'waiting', 'images/s')  # columns of a ledger


def plan_table(plan: Plan, stages: Sequence[TrainingStage]) -> str:
    """The training stages, what each costs, and what is spent of what.

    What a pyramid has at each level is listed by level; its tokens are the first level's.
    """
    keys = [key for key in stages[0].keys if _is_told(key, stages)]
    names = [AXES[key].label for key in keys]
    rows: list[Sequence[object]] = [('stage', *names, 'GFLOPs', 'epochs', 'cost', 'share')]
    for k, (stage, gflops, epochs, cost) in enumerate(
        zip(stages, plan.gflops, plan.epochs, plan.costs), start=1
    ):
        share = f'{cost / plan.cost:.1%}'
        name = f'{k}{_phase(k, stages)}'
        rows.append((name, *_sizes(stage, keys), f'{gflops:.4g}', epochs, f'{cost:.4g}', share))
    blank = [''] * (len(names) + 1)
    for name, cost in plan.charged.items():
        if cost:
            rows.append((name, *blank, '', f'{cost:.4g}', f'{cost / plan.cost:.1%}'))
    rows.append(('total', *blank, plan.total_epochs, f'{plan.cost:.4g}', '100.0%'))
    lines = [*aligned(rows), summary(plan)]
    if plan.epoch_share < 1:
        lines.append(f'an epoch reads {plan.epoch_share:.4g} of the data')
    return '\n'.join(lines)


def ledger_table(plan: Plan, ledger: Ledger, budget: Budget) -> str:
    """What each training stage was to cost and did cost, and where the time went.

    Seconds are on the clock, of all sessions of the run together.
    """
    rows: list[Sequence[object]] = [
        ('stage', 'epochs', 'planned', 'cost', 'planned', 'samples', *TIMES)
    ]
    for k, (epochs, planned, cost, price) in enumerate(
        zip(ledger.epochs, plan.epochs, ledger.costs, plan.costs)
    ):
        samples, seconds = ledger.samples[k], ledger.seconds[k]
        numbers = f'{epochs:.4g}', planned, f'{cost:.4g}', f'{price:.4g}', samples
        speed = f'{samples / seconds:.4g}' if seconds else '-'
        times = f'{seconds:.1f}', _share(ledger.waiting[k], seconds), speed
        rows.append((k + 1, *numbers, *times))
    blank = [''] * len(TIMES)
    for name in dict.fromkeys([*ledger.charges, *plan.charged]):
        spent, price = ledger.charges.get(name, 0.0), plan.charged.get(name, 0.0)
        if spent or price:
            rows.append((name, '', '', f'{spent:.4g}', f'{price:.4g}', '', *blank))
    total = f'{sum(ledger.epochs):.4g}', plan.total_epochs, f'{ledger.cost:.4g}', f'{plan.cost:.4g}'
    seconds = sum(ledger.seconds)
    times = f'{seconds:.1f}', _share(sum(ledger.waiting), seconds), ''
    rows.append(('total', *total, sum(ledger.samples), *times))
    other = ', '.join(f'{name} {seconds:.1f} s' for name, seconds in ledger.other.items())
    line = f'and {other}; in all {ledger.elapsed:.1f} s{budget.used_text(ledger)}'
    return '\n'.join([*aligned(rows), line])


def measurement_table(
    plan: Plan, budget: MeteredBudget, measurements: Sequence[Measurement], length: int
) -> str:
    """What each training stage takes on this machine, with the epochs that a budget buys.

    Args:
        plan: What the budget buys.
        budget: In hours.
        measurements: Of each training stage.
        length: Iterations of an epoch.
    """
    rows: list[Sequence[object]] = [
        ('stage', 'epochs', 'hours', 'images/s', 'waiting', 'bound by', 'peak memory')
    ]
    total = sum(n * length * m.amount for n, m in zip(plan.epochs, measurements))
    for k, (epochs, m) in enumerate(zip(plan.epochs, measurements), start=1):
        hours = epochs * length * m.seconds / 3600
        rows.append(
            (
                k,
                epochs,
                f'{hours:.4g}',
                f'{m.samples / m.seconds:.4g}',
                _share(m.waiting, m.seconds),
                'data' if m.data_bound else 'compute',
                f'{m.memory / 2**30:.2f} GiB',
            )
        )
    line = (
        f'training takes {budget.meter.text(total)} of {budget.meter.text(budget.amount)}; the '
        'rest is for validation, saving and timing the stages'
    )
    return '\n'.join([*aligned(rows), line])


def waiting_line(
    plan: Plan, measurements: Sequence[Measurement], length: int, loading: Loading
) -> str:
    """How much of the training that is planned will be waiting for data (``waiting_text``).

    Args:
        plan: What the budget buys.
        measurements: Of each training stage.
        length: Iterations of an epoch.
        loading: How the data came.
    """
    waiting, seconds = (
        sum(n * length * amount for n, amount in zip(plan.epochs, amounts))
        for amounts in zip(*((m.waiting, m.seconds) for m in measurements))
    )
    return waiting_text('training', waiting, seconds, loading)


def aligned(rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table, its columns aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ['  '.join(cell.rjust(w) for cell, w in zip(row, widths)) for row in cells]


def _is_told(key: str, stages: Sequence[TrainingStage]) -> bool:
    """Whether any stage has something to tell along an axis; widths are told by heads and units."""
    return key != 'widths' and any(
        AXES[key].text(getattr(stage, key)) is not None for stage in stages
    )


def _phase(k: int, stages: Sequence[TrainingStage]) -> str:
    """What a training stage (1-based) is for, where that is not to grow."""
    last = stages[-1]
    if 'widths' not in last.keys or len(stages) == 1 or k < len(stages) - 1:
        return ''
    return ' retrain' if k == len(stages) else ' search'


def _share(part: float, whole: float) -> str:
    return f'{part / whole:.0%}' if whole else '-'


def _sizes(stage: TrainingStage, keys: Sequence[str]) -> list[str]:
    """What a training stage sets, such as heads, hidden units and tokens.

    Of a slimmed network the sum of what its modules have, which are not alike.
    """
    widths = getattr(stage, 'widths', ())
    units = {axis: sum(map(count, each)) for axis, each in widths}
    slimmed = {axis: f'{n} in all' for axis, n in units.items()}
    if 'dims' in units:
        slimmed['heads'] = f'{units["dims"]} dims in all'
    cells = (slimmed.get(name) or AXES[name].cell(getattr(stage, name)) for name in keys)
    return [','.join(map(str, cell)) if isinstance(cell, tuple) else str(cell) for cell in cells]


def summary(plan: Plan) -> str:
    """What is spent of what, in one line."""
    line = (
        f'costs {plan.cost:.6g} GFLOPs x epochs, {plan.cost / plan.full_cost:.2%} of the full '
        f'cost of {plan.full_cost:.6g}'
    )
    if plan.budget is None:
        return line
    return f'{line}; the budget is {plan.budget:.6g} ({plan.budget / plan.full_cost:.2%})'
