# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""One row an optimizer: those of mmengine, mmpretrain, torch and timm, and kinds that none has.

Each is registered under its name, so that configs of tests can have it.
"""

import torch
from mmengine.registry import OPTIMIZERS
from mmpretrain.engine.optimizers import LARS, Adan, Lamb

from bvit_mm import MuonAdamW


class Primal(torch.optim.Optimizer):
    """Keeps the weights that gradients move as state; those of the network lag behind.

    The idea of schedule-free optimizers, with one coefficient. It counts in its groups.
    """

    def __init__(self, params, lr=0.01, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, steps=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group['steps'] += 1
            for param in group['params']:
                if param.grad is None:
                    continue
                moved = self.state[param].setdefault('moved', param.clone())
                moved.mul_(1 - group['lr'] * group['weight_decay'])
                moved.sub_(param.grad, alpha=group['lr'])
                param.lerp_(moved, 1 / (1 + group['steps']))


class Anchored(torch.optim.Optimizer):
    """Keeps the weights that it began with, and makes longer steps the farther away it is.

    The idea of Prodigy and D-Adaptation.
    """

    def __init__(self, params, lr=0.01):
        super().__init__(params, dict(lr=lr, far=0.0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                began = self.state[param].setdefault('began', param.clone())
                total = self.state[param].setdefault('total', torch.zeros_like(param))
                total.add_(param.grad)
                group['far'] += float((began - param).abs().mean())
                param.sub_(total, alpha=group['lr'] * (1 + group['far']))


class Langevin(torch.optim.SGD):
    """Adds noise of everybody's generator to each step."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for param in group['params']:
                param.add_(torch.randn_like(param), alpha=0.01 * group['lr'])


class Optional(torch.optim.SGD):
    """Keeps weights in the groups that ask for it."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for param in group['params'] if group['nesterov'] else []:
                self.state[param].setdefault('kept', param.detach().clone())


class Elsewhere(torch.optim.SGD):
    """Keeps moments in an attribute of its own."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, lr=lr)
        self.moments = {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                moment = self.moments.setdefault(param, torch.zeros_like(param))
                moment.mul_(0.9).add_(param.grad)
                param.sub_(moment, alpha=group['lr'])


class InGroups(torch.optim.SGD):
    """Keeps moments in its parameter groups."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group.setdefault('moments', [torch.zeros_like(p) for p in group['params']])
            for param, moment in zip(group['params'], group['moments']):
                moment.mul_(0.9).add_(param.grad)
                param.sub_(moment, alpha=group['lr'])


class Counting(torch.optim.SGD):
    """Counts its steps where no state dict looks, and goes by them."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            for param in group['params']:
                param.data.sub_(param.grad, alpha=group['lr'] / self.steps)


class Averaged(torch.optim.SGD):
    """Keeps an average of the weights that begins with zero, and pulls them to it."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for param in group['params']:
                average = self.state[param].setdefault('average', torch.zeros_like(param))
                average.lerp_(param.data, 0.1)


class Sharded(torch.optim.SGD):
    """Keeps its state elsewhere, as sharding optimizers do."""

    def step(self, closure=None):
        raise KeyError('no shard for this parameter')


class Quantised(torch.optim.Adam):
    """Keeps 8-bit moments of large parameters, as some optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                if param.numel() > 900:
                    self.state[param]['moment'] = torch.zeros_like(param, dtype=torch.uint8)


class History(torch.optim.SGD):
    """Keeps a list of the last gradients."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                self.state[param].setdefault('last', []).append(param.grad.clone())


def lookahead(params, lr=0.01):
    from timm.optim.lookahead import Lookahead  # make classic has no timm

    return Lookahead(torch.optim.AdamW(params, lr=lr), alpha=0.5, k=3)


def muon(params):
    params = list(params)
    matrices = [param for param in params if param.dim() == 2]
    rest = [param for param in params if param.dim() != 2]
    return MuonAdamW([dict(params=matrices, matrices=1), dict(params=rest)])


def of_timm(name, **options):
    def build(params):
        from timm.optim import get_optimizer_class

        return get_optimizer_class(name)(params, **{'lr': 1e-3, **options})

    return build


def of_torch(kind, **options):
    return lambda params: kind(params, **{'lr': 1e-3, **options})


SERVED = dict(
    AdamW=of_torch(torch.optim.AdamW, weight_decay=0.05),
    Adam=of_torch(torch.optim.Adam, weight_decay=0.05),
    Amsgrad=of_torch(torch.optim.AdamW, amsgrad=True),
    Adamax=of_torch(torch.optim.Adamax),
    Adadelta=of_torch(torch.optim.Adadelta, lr=1.0),
    Adagrad=of_torch(torch.optim.Adagrad),
    ASGD=of_torch(torch.optim.ASGD, t0=0, weight_decay=0.01),
    NAdam=of_torch(torch.optim.NAdam),
    RAdam=of_torch(torch.optim.RAdam),
    RMSprop=of_torch(torch.optim.RMSprop, momentum=0.9, centered=True),
    Rprop=of_torch(torch.optim.Rprop),
    SGD=of_torch(torch.optim.SGD, momentum=0.9, weight_decay=1e-4),
    PlainSGD=of_torch(torch.optim.SGD),
    Adan=of_torch(Adan, weight_decay=0.02),
    Lamb=of_torch(Lamb, weight_decay=0.02),
    Muon=muon,
    LARS=of_torch(LARS, momentum=0.9, weight_decay=0.02),
    TimmAdaBelief=of_timm('adabelief'),
    TimmAdamP=of_timm('adamp', weight_decay=0.05),
    TimmAdamW=of_timm('adamwlegacy', weight_decay=0.05),
    TimmAdan=of_timm('adan'),
    TimmAdopt=of_timm('adoptw'),
    TimmLamb=of_timm('lamb'),
    TimmLaProp=of_timm('laprop'),
    TimmLars=of_timm('lars', momentum=0.9),
    TimmLion=of_timm('lion'),
    TimmMADGRAD=of_timm('madgrad', momentum=0.9),
    TimmMars=of_timm('mars'),
    TimmNAdamW=of_timm('nadamw'),
    TimmNAdamLegacy=of_timm('nadamlegacy'),
    TimmNovoGrad=of_timm('novograd'),
    TimmRAdamLegacy=of_timm('radamlegacy'),
    TimmRMSpropTF=of_timm('rmsproptf', momentum=0.9),
    TimmSGDP=of_timm('sgdp', momentum=0.9),
    TimmSGDW=of_timm('sgdw', momentum=0.9),
    TimmCautiousAdamW=of_timm('cadamw'),
    Langevin=of_torch(Langevin),
    Primal=Primal,
    Anchored=of_torch(Anchored, lr=1e-4),
)

# State that follows the weights; counters of groups with where they begin.
WEIGHTS = dict(ASGD={'ax'}, TimmMADGRAD={'x0'}, Primal={'moved'}, Anchored={'began'})
COUNTERS = {name: {'step'} for name in ('Adan', 'Lamb', 'TimmAdan', 'TimmLamb')}
COUNTERS |= dict(Primal={'steps'}, Anchored={'far'})

REFUSED = dict(
    Lookahead=(lookahead, r'wraps another one \(AdamW\) with state of its own'),
    Elsewhere=(Elsewhere, r'keeps state outside of its state \(\[.moments.\]'),
    InGroups=(of_torch(InGroups), r'keeps state outside of its state \(\[.param_groups.\]\['),
    Counting=(of_torch(Counting), 'does not go on from its state dict as if it had not been'),
    Averaged=(of_torch(Averaged), "keeps 'average' in its state, which mixes weights with"),
    Sharded=(of_torch(Sharded), 'cannot be stepped on a single parameter .*no shard for this'),
    Quantised=(of_torch(Quantised), 'keeps state of another shape or kind than the parameter'),
    History=(of_torch(History), "keeps state of another shape or kind .*'last': 'list'"),
    LBFGS=(torch.optim.LBFGS, 'cannot be stepped on a single parameter'),
    SparseAdam=(torch.optim.SparseAdam, 'cannot be stepped on a single parameter'),
    TimmAdafactor=(of_timm('adafactor'), 'keeps state of another shape or kind'),
    TimmAdafactorBV=(of_timm('adafactorbv'), 'keeps state of another shape or kind'),
    TimmAdahessian=(of_timm('adahessian'), 'cannot be stepped on a single parameter'),
)
if hasattr(torch.optim, 'Adafactor'):  # torch 2.5 brought it
    REFUSED['Adafactor'] = (torch.optim.Adafactor, 'keeps state of another shape or kind')

for _name, _build in {**SERVED, **{k: v for k, (v, _) in REFUSED.items()}}.items():
    # a function, so that the registry takes it as it is
    OPTIMIZERS.register_module(
        name=f'Table{_name}', module=lambda params, _build=_build: _build(params), force=True
    )
