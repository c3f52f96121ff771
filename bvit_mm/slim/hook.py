# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""A penalty on gates, so that training shows which units a network needs."""

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..cost import classifier_flops
from ..elastic import ElasticBackbone, find_backbone
from ..mmengine_gaps import has_train_loop
from ..options import is_whole_number
from ..registry import HOOKS
from ..run_hook import RunHook
from ..widths import count
from ..wrapped import optimizers, unwrapped
from .choice import Units, read_flops
from .cutting import chosen, flops_of, scores, units_of, widths_of
from .phases import PENALTY

if TYPE_CHECKING:
    from ..loop import BudgetedTrainLoop

LOW = 0.5  # gates below it count as low in logs
SHARES = (0.5, 0.7, 0.9)  # of the FLOPs, to which logs cut


@HOOKS.register_module()
class SlimHook(RunHook):
    """Adds a penalty on the gates to the losses: the search of ViT-Slim (CVPR 2022).

    ``loss_slim`` is ``heads`` times the mean of the absolute gates of all heads, plus ``hidden``
    times that of all hidden units. ViT-Slim has sums, over the number of processes. Of means it
    does not matter over how many processes, iterations or parts a batch is divided. The defaults
    are the penalties at the start of its search of DeiT-S with 4 GPUs (4608 x 2e-4 / 4, and
    18432 x 5e-5 / 4).

    It serves any model with an elastic backbone that has gates, and any train loop. Only gates
    that learn count (``gates_learn``); while none does, there is no such loss. After epochs the
    log says how many gates are low, and what a cut of the network would keep.

    Args:
        heads: How much the gates of heads, or of their dimensions, weigh; 0 leaves them to the
            other losses.
        hidden: How much the gates of hidden units weigh.
        interval: Epochs between logs; there is always one after the last epoch.

    Raises:
        ValueError: If an option is no such number; before training, if the backbone has no gates.
    """

    def __init__(self, heads: float = 0.23, hidden: float = 0.23, interval: int = 1) -> None:
        for name, value in (('heads', heads), ('hidden', hidden)):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 <= value < math.inf:
                raise ValueError(
                    f'{name}={value!r} of SlimHook must be a number, at least 0: how much the '
                    f'mean of the gates of {name} weighs in the loss'
                )
        if not is_whole_number(interval) or interval < 1:
            raise ValueError(f'interval={interval!r} of SlimHook must be a whole number from 1')
        self.heads, self.hidden, self.interval = heads, hidden, interval
        self._handle: RemovableHandle | None = None

    def is_active(self, runner: Runner) -> bool:
        """Whether there is a penalty now."""
        return bool(learning_gates(find_backbone(runner.model)))

    def check_run(self, loop: 'BudgetedTrainLoop', model: nn.Module) -> None:
        """Raises ValueError if the backbone has no gates."""
        _check_gates(find_backbone(model))

    def before_run(self, runner: Runner) -> None:
        # Not before_train: a trial comes before that, which is to take the time and memory of this.
        if not has_train_loop(runner):
            return
        model = unwrapped(runner.model)
        backbone = find_backbone(model)
        _check_gates(backbone)
        _warn_of_decay(runner, backbone)
        self.after_run(runner)  # of a run that failed
        self._handle = add_penalty_(model, self.heads, self.hidden)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any | None = None,
        outputs: dict | None = None,
    ) -> None:
        # mmengine logs the last value of a loss for as long as it knows of one.
        if batch_idx == 0 and not self.is_active(runner):
            runner.message_hub.log_scalars.pop(f'train/{PENALTY}', None)

    def after_train_epoch(self, runner: Runner) -> None:
        due = self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        if due and is_main_process() and self.is_active(runner):
            runner.logger.info(gates_text(unwrapped(runner.model)))

    def after_run(self, runner: Runner) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def learning_gates(backbone: ElasticBackbone) -> dict[str, list[Tensor]]:
    """The gates that learn now, by kind of unit."""
    found: dict[str, list[Tensor]] = {}
    for module, axis in backbone.read_units():
        if module.gate is not None and module.gates_learn:
            found.setdefault(axis, []).append(module.gate)
    return found


def penalty(backbone: ElasticBackbone, heads: float, hidden: float) -> Tensor:
    """What the gates that learn add to the loss; some must.

    Args:
        backbone: Of the gates.
        heads: The weight of the mean of their absolute values, over all heads, or over all
            dimensions of heads where those have gates.
        hidden: The same of all hidden units.
    """
    weights = dict(heads=heads, dims=heads, hidden=hidden)
    kinds = learning_gates(backbone).items()
    return torch.stack(
        [weights[axis] * torch.cat(gates).abs().mean() for axis, gates in kinds]
    ).sum()


def add_penalty_(model: nn.Module, heads: float, hidden: float) -> RemovableHandle:
    """Lets a model of mmengine return the penalty among its losses, until that is removed.

    Args:
        model: Not wrapped, with an elastic backbone.
        heads: As of ``penalty``.
        hidden: As of ``penalty``.
    """
    # Copies of the model get the hook with copies of what it holds, so their own gates.
    hook = partial(_with_penalty, backbone=find_backbone(model), heads=heads, hidden=hidden)
    return model.register_forward_hook(hook, with_kwargs=True)


def _with_penalty(
    _model: nn.Module,
    _args: Any,
    kwargs: dict[str, Any],
    outputs: Any,
    *,
    backbone: ElasticBackbone,
    heads: float,
    hidden: float,
) -> Any:
    """What a forward returns, with the penalty if it is losses: a hook of torch.

    mmengine says by ``mode`` what it asks for, adds up all losses by name, and then scales and
    divides them as one. The head's own ``loss`` stays in the log as it is.
    """
    if kwargs.get('mode') != 'loss' or not learning_gates(backbone):
        return outputs
    return {**outputs, PENALTY: penalty(backbone, heads, hidden)}


def _check_gates(backbone: ElasticBackbone) -> None:
    if all(module.gate is None for module, _ in backbone.read_units()):
        raise ValueError(
            f'SlimHook has a penalty on gates, but {type(backbone).__name__} has none; give '
            "gates=True or gates='dims' to model.backbone, or drop the hook"
        )


def _warn_of_decay(runner: Runner, backbone: ElasticBackbone) -> None:
    gates = {module.gate for module, _ in backbone.read_units()}
    groups = [group for each in optimizers(runner) for group in each.param_groups]
    decays = [
        group['weight_decay']
        for group in groups
        if group.get('weight_decay') and not gates.isdisjoint(group['params'])
    ]
    if decays:
        runner.logger.warning(
            f'weight decay ({max(decays):g}) pulls gates to 0 as the penalty of SlimHook does, but '
            'large gates more than small ones; give optim_wrapper.paramwise_cfg='
            "dict(custom_keys={'gate': dict(decay_mult=0)})"
        )


@torch.no_grad()
def gates_text(model: nn.Module) -> str:
    """How many gates are low, and what a cut of the network by them would keep.

    Args:
        model: With an elastic backbone whose gates learn.
    """
    backbone, classifier = find_backbone(model), classifier_flops(model)
    low = []
    for axis, of_kind in learning_gates(backbone).items():
        gates = torch.cat(of_kind).abs()
        low.append(f'{(gates < LOW).double().mean().item():.1%} of {len(gates)} {axis}')
    units = units_of(backbone, [scores(module).tolist() for module, _ in backbone.read_units()])
    cuts = [f'{share:.0%}: {_cut_text(backbone, units, classifier, share)}' for share in SHARES]
    return (
        f'gates below {LOW}: {", ".join(low)}. What modules would keep on average, cut to a '
        f'share of the FLOPs: {"; ".join(cuts)}'
    )


def _cut_text(
    backbone: ElasticBackbone, units: Sequence[Units], classifier: int, share: float
) -> str:
    totals = backbone.totals()
    budget = read_flops(share, flops_of(backbone, totals) + classifier)
    try:
        kept = chosen(backbone, units, classifier, budget)
    except ValueError as error:  # a network of mostly other parts, or gates that are no numbers
        return f'not possible ({error})'
    # By share the mean hardly depends on the gates. What modules differ by does.
    return ', '.join(
        f'{fmean(numbers):.1f} ({min(numbers)} to {max(numbers)}) of '
        f'{fmean(map(count, totals[axis])):g} {axis}'
        for axis, widths in widths_of(backbone, kept).items()
        if (numbers := [count(width) for width in widths])
    )
