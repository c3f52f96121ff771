# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Learning rates of the budgeted baselines, as closed forms of the share of training done."""

from typing import Any

from mmengine.optim.scheduler import PolyParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin

from .registry import PARAM_SCHEDULERS


class _DecayParamScheduler(PolyParamScheduler):
    """A value that falls from its start to ``eta_min`` as ``factor(z)`` falls from 1 to 0.

    z = t / T, with t the step and T the number of steps from ``begin`` to ``end``. mmengine's
    own schedulers reach their end *on* the last step, which then trains at that value; these
    would reach it one step later, as the paper's formulas do (Eq. 9).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if 'power' in kwargs:
            raise ValueError(f'{type(self).__name__} has no power={kwargs["power"]}; drop it')
        super().__init__(*args, **kwargs)

    def factor(self, z: float) -> float:
        raise NotImplementedError

    def _get_value(self) -> list[float]:
        factor = self.factor(self.last_step / (self.end - self.begin))
        return [self.eta_min + (base - self.eta_min) * factor for base in self.base_values]


@PARAM_SCHEDULERS.register_module()
class LinearDecayLR(LRSchedulerMixin, _DecayParamScheduler):
    """lr = eta_min + (lr0 - eta_min) (1 - t/T) (Eq. 9; Li et al., Budgeted Training, 2020).

    Args:
        eta_min: The learning rate that would follow the last step. Defaults to 0.
        **kwargs: ``begin``, ``end``, ``by_epoch``, ``convert_to_iter_based`` and so on, as
            mmengine's ``PolyLR`` takes them.
    """

    def factor(self, z: float) -> float:
        return 1 - z


@PARAM_SCHEDULERS.register_module()
class REXLR(LRSchedulerMixin, _DecayParamScheduler):
    """lr = eta_min + (lr0 - eta_min) z / (0.5 + 0.5 z), z = 1 - t/T (Eq. 9; Chen et al., 2022).

    Args:
        eta_min: The learning rate that would follow the last step. Defaults to 0.
        **kwargs: ``begin``, ``end``, ``by_epoch``, ``convert_to_iter_based`` and so on, as
            mmengine's ``PolyLR`` takes them.
    """

    def factor(self, z: float) -> float:
        return (1 - z) / (0.5 + 0.5 * (1 - z))
