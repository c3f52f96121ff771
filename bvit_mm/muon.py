# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Muon for the matrices of a backbone, AdamW for the rest, as one optimizer that growth can serve.

torch's own Muon takes nothing but matrices, knows no packed ones, and scales its steps by the whole
shape, of which early training stages train a part only.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from .options import is_whole_number
from .registry import OPTIMIZERS

# Keller Jordan's quintic, whose slope at zero is as steep as possible, and how often it is applied.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
LEAST_NORM = 1e-7
# Root mean square of AdamW's steps as shares of its learning rate (Liu et al., Section 2.2).
RMS_OF_ADAMW = 0.2


@OPTIMIZERS.register_module()
class MuonAdamW(torch.optim.Optimizer):
    """Muon [1] for the weights of a backbone's linear layers, AdamW for everything else.

    A step of a matrix is lr * 0.2 * sqrt(max(rows, columns)) * O. O is its momentum with all
    singular values near 1. As long as AdamW's, it needs AdamW's learning rate [2]
    (``adjust_lr_fn='match_rms_adamw'`` of ``torch.optim.Muon``). Rows and columns are those whose
    momentum is not zero: inactive units do not change the step of active ones, and never move but
    by weight decay. Packed q, k and v are a matrix each.

    An elastic backbone says which of its weights are matrices, and how many lie in one
    (``ElasticBackbone.init_training_stages``). The option ``matrices`` of a parameter group says
    otherwise: 0 for AdamW, or how many matrices lie on top of each other in each weight.

    Args:
        params: Parameters, or groups of them.
        lr: The learning rate of both.
        weight_decay: The decoupled weight decay of both.
        momentum: Of matrices: how much of the old momentum is kept; steps look ahead (Nesterov).
        betas: Of the rest: AdamW's.
        eps: Of the rest: AdamW's.

    Raises:
        ValueError: If an option is out of its range, no parameter is a matrix, or ``matrices``
            does not fit a parameter.

    [1] Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    [2] Liu et al., Muon is Scalable for LLM Training, 2025.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        beta1, beta2 = betas
        for name, value in (('lr', lr), ('weight_decay', weight_decay), ('eps', eps)):
            if not value >= 0:
                raise ValueError(f'MuonAdamW: {name}={value!r}; give a number of at least 0')
        for name, value in (('momentum', momentum), ('betas[0]', beta1), ('betas[1]', beta2)):
            if not 0 <= value < 1:
                raise ValueError(f'MuonAdamW: {name}={value!r}; give a number from 0 to below 1')
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            betas=(beta1, beta2),
            eps=eps,
            matrices=0,
        )
        super().__init__(params, defaults)
        if not any(group['matrices'] for group in self.param_groups):
            raise ValueError(
                'MuonAdamW finds no matrices among the parameters, because only backbones of '
                'bvit_mm say which they are; give such a backbone, AdamW, or for example '
                "paramwise_cfg=dict(custom_keys={'.qkv.weight': dict(matrices=3), "
                "'.proj.weight': dict(matrices=1)})"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as one for each number of matrices that its parameters hold."""
        params = param_group['params']
        members: dict[Any, list[Tensor]] = {}
        for param in [params] if isinstance(params, Tensor) else params:
            held = param_group.get('matrices', getattr(param, 'matrices', 0))
            _check_matrices(held, param)
            members.setdefault(held, []).append(param)
        for held, same in members.items():
            super().add_param_group({**param_group, 'params': same, 'matrices': held})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group['params'] if param.grad is not None]
            if group['matrices']:
                for param in params:
                    _step_matrices_(param, self.state[param], group)
            else:
                _step_others_(params, self.state, group)
        return loss


def _check_matrices(held: Any, param: Tensor) -> None:
    """Raises ValueError unless a parameter can hold so many matrices."""
    if not is_whole_number(held) or held < 0:
        raise ValueError(f'MuonAdamW: matrices={held!r} of a parameter group; give 0, 1, 2, ...')
    is_matrix = param.dim() >= 2 and param[0].numel() == param.shape[1]  # a 1 x 1 kernel is one
    if held and (not is_matrix or param.shape[0] % held):
        raise ValueError(
            f'MuonAdamW: matrices={held} of a parameter of shape {tuple(param.shape)}; its rows '
            f'must divide by {held}, and it must have two dimensions: let the key in custom_keys '
            "end with '.weight', or give matrices=0 (AdamW)"
        )


def _step_matrices_(param: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One step of Muon, in place.

    Args:
        param: Matrices on top of each other.
        state: Keeps their momentum.
        group: The options.
    """
    grad: Any = param.grad
    if not state:
        state['momentum'] = torch.zeros_like(param)
    momentum = state['momentum'].lerp_(grad, 1 - group['momentum'])
    ahead, seen = (
        each.flatten(1).unflatten(0, (group['matrices'], -1))
        for each in (grad.lerp(momentum, group['momentum']), momentum)
    )
    trained = seen != 0
    rows, columns = (trained.any(dim).sum(-1) for dim in (-1, -2))  # each (matrices,)
    scale = RMS_OF_ADAMW * torch.maximum(rows, columns).to(param).sqrt()
    step = scale.view(-1, 1, 1) * orthogonalized(ahead)
    param.mul_(1 - group['lr'] * group['weight_decay'])
    param.sub_(step.reshape(param.shape), alpha=group['lr'])


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices with all singular values brought near 1 (0.7 to 1.2), by Newton-Schulz.

    In the precision of the matrices, where torch's Muon computes in bfloat16. Zero rows and
    columns stay zero.

    Args:
        matrices: (matrices, rows, columns).
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        cubic_and_quintic = torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC)
        x = torch.baddbmm(x, cubic_and_quintic, x, beta=LINEAR)
    return x.mT if is_tall else x


def _step_others_(params: list[Tensor], state_of: Any, group: dict[str, Any]) -> None:
    """One step of torch's AdamW, in place, with state as that keeps it."""
    states = [state_of[param] for param in params]
    for param, state in zip(params, states):
        if not state:
            state['step'] = torch.zeros(())
            state['exp_avg'] = torch.zeros_like(param)
            state['exp_avg_sq'] = torch.zeros_like(param)
    adamw(
        params,
        [param.grad for param in params if param.grad is not None],
        [state['exp_avg'] for state in states],
        [state['exp_avg_sq'] for state in states],
        [],
        [state['step'] for state in states],
        amsgrad=False,
        maximize=False,
        beta1=group['betas'][0],
        beta2=group['betas'][1],
        lr=group['lr'],
        weight_decay=group['weight_decay'],
        eps=group['eps'],
    )
