# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""What is said of a run that never validates, or ends before its plan."""

from mmengine.runner import Runner, find_latest_checkpoint

from ..elastic import find_backbone


def early_end(runner: Runner) -> str | None:
    """Where a run ended that did not train its plan, and what can be done; None if it did."""
    loop, backbone = runner.train_loop, find_backbone(runner.model)
    plan, epoch = loop.plan, runner.epoch
    k, count = backbone.training_stage + 1, backbone.num_training_stages
    where = (
        f'training ended in training stage {k} of {count}, after {epoch} of the '
        f'{plan.total_epochs} planned epochs'
    )
    if epoch < plan.total_epochs:
        if k == count:
            return f'{where}. The network is whole, but not trained to the end; --resume goes on'
        last = find_latest_checkpoint(runner.work_dir)
        return (
            f'{where}, so the network is not whole. --resume goes on; tools/publish.py '
            f'{last} OUT --stage {k} makes a smaller network of it'
        )
    if k < count:
        return (
            f'{where}, but the network is not whole: something else than StageSwitchHook has set '
            'its training stage'
        )
    trained = loop.ledger.epochs[-1]
    if loop.budget.follows_pace and trained < 1:
        return (
            f'training stage {k} of {count}, the whole network, was trained for '
            f'{trained:.2g} epochs only, because the hours were over; give more hours'
        )
    return None


def never_validated(runner: Runner, val_begin: int, epochs: int) -> str | None:
    """What is said of a run of ``epochs`` that begins to validate after them; None if not."""
    if runner.val_loop is None or val_begin <= epochs:
        return None
    return (
        f'val_begin={val_begin} of train_cfg is beyond the {epochs} epochs '
        'of the plan, so it is never validated; give a smaller one'
    )


def warn(runner: Runner, warning: str | None) -> None:
    """Logs a warning, if there is one."""
    if warning:
        runner.logger.warning(warning)
