# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The paper's ablations as methods: what each changes of a config."""

from typing import Any

from mmengine.config import Config
from torch.optim import AdamW

from ..building import build_to_count
from ..config_types import builds, type_name
from ..cost import plan_of_config
from ..elastic import find_backbone
from ..registry import OPTIMIZERS
from .changes import Changes, MakesChanges, grown, shared, together, whole_network
from .methods import METHODS, Method, methods_of, with_schedule
from .slimming import SLIMMING


def growing(*keys: str) -> MakesChanges:
    """Only some of heads, hidden and grid grow; a window does with the grid (Table 13)."""

    def changes(cfg: Config, share: float) -> Changes:
        grown = set(keys) | ({'window', 'view'} if 'grid' in keys else set())
        stages = []
        for stage in find_backbone(build_to_count(cfg.model)).training_stages:
            kept = {key: getattr(stage, key) for key in stage.keys if key in grown}
            if kept not in stages:  # two stages may differ in nothing else
                stages.append(kept)
        return {'model.backbone.training_stages': stages}

    return changes


def longest_second(cfg: Config, share: float) -> Changes:
    """The longest of three stages is the second (Table 5): the epochs of the plan, exchanged.

    The budget is met by the first stage, which is the cheapest.
    """
    plan, _ = plan_of_config(cfg)
    if len(plan.epochs) != 3:
        raise ValueError(f'the config has {len(plan.epochs)} training stages; give three')
    first, last, second = sorted(plan.epochs)
    c1, c2, c3 = plan.gflops
    budget = plan.cost if plan.budget is None else plan.budget
    scale = budget / (c1 * first + c2 * second + c3 * last)
    second, last = max(1, round(scale * second)), max(1, round(scale * last))
    first = max(1, int((budget - c2 * second - c3 * last) / c1 + 1e-9))
    return {'train_cfg.budget': None, 'train_cfg.epochs': [first, second, last]}


def lengths(**options: Any) -> MakesChanges:
    """Other lengths of the stages (Tables 4 and 5), in place of shares that the config may have."""

    def changes(cfg: Config, share: float) -> Changes:
        shares = {'train_cfg.shares': None} if cfg.train_cfg.get('shares') is not None else {}
        return {**shares, **{f'train_cfg.{name}': value for name, value in options.items()}}

    return changes


def stages(count: int) -> MakesChanges:
    """Another number of training stages (Fig. 6), all trained by the recipe of the last one."""

    def changes(cfg: Config, share: float) -> Changes:
        found = {**whole_network(cfg), 'model.backbone.training_stages': count}
        for hook in found.get('custom_hooks', ()):
            if hook.get('recipes'):
                hook['recipes'] = hook['recipes'] * count
        return found

    return changes


def capped(share: float) -> MakesChanges:
    """No more epochs than a share of the full ones; the last stage gets the rest (Table 2)."""

    def changes(cfg: Config, _: float) -> Changes:
        return {'train_cfg.max_epochs': round(share * cfg.train_cfg.get('full_epochs', 300))}

    return changes


def at_rate(factor: float, method: Method) -> MakesChanges:
    """A method at another learning rate, a multiple of the config's."""

    def changes(cfg: Config, share: float) -> Changes:
        rate = factor * cfg.optim_wrapper.optimizer.lr
        return {**method(cfg, share), 'optim_wrapper.optimizer.lr': rate}

    return changes


def with_muon(cfg: Config, share: float) -> Changes:
    """Muon for the matrices of the backbone, at the learning rate that the config gives AdamW."""
    optimizer = cfg.optim_wrapper.optimizer
    if not builds(optimizer, OPTIMIZERS, AdamW):
        raise ValueError(
            f"muon's learning rate is that of AdamW, but the config's optimizer is "
            f'{type_name(optimizer)}; give a config with AdamW'
        )
    return {'optim_wrapper.optimizer.type': 'bvit_mm.MuonAdamW'}


TABLE_4 = methods_of({f'alpha={a:g}': lengths(alpha=a) for a in (-5.0, -2.0, 0.0, 5.0)})
TABLE_5 = methods_of(
    {
        'linear-up': lengths(family='linear_up'),
        'linear-down': lengths(family='linear_down'),
        'longest-second': Method(longest_second, takes_time=False),
    }
)
TABLE_11 = methods_of(
    {
        'random': grown('random', 'drop'),
        'copy-moments': grown('copy', 'copy'),
        'drop-all': grown('copy', 'drop_all'),
        'corrected': grown('copy', 'corrected'),
        'half': grown('half', 'drop'),
        'half-corrected': grown('half', 'corrected'),
        'noise': grown('noise', 'drop'),
    }
)
TABLE_13 = methods_of(
    {
        'grow-heads': growing('heads'),
        'grow-hidden': growing('hidden'),
        'grow-tokens': growing('grid'),
        'grow-heads-hidden': growing('heads', 'hidden'),
        'grow-heads-tokens': growing('heads', 'grid'),
        'grow-hidden-tokens': growing('hidden', 'grid'),
    }
)
FIG_6 = methods_of({f'stages={k}': stages(k) for k in (2, 3, 4)})
TABLE_2 = methods_of(
    {f'epochs<={share:g}': Method(capped(share), takes_time=False) for share in (0.75, 1.0)}
)
SCHEDULES = methods_of(
    {
        'bvit-linear': with_schedule('bvit_mm.LinearDecayLR', {}),
        'bvit-rex': with_schedule('bvit_mm.REXLR', {}),
        'by-budget': {'train_cfg.schedule': 'budget'},
    }
)
OPTIMIZER = methods_of({'muon': with_muon})
TOGETHER = methods_of(
    {
        'half-rex': together(TABLE_11['half'], SCHEDULES['bvit-rex']),
        'scale-half-rex': together(METHODS['scale'], TABLE_11['half'], SCHEDULES['bvit-rex']),
        'scale-whole-rex': together(METHODS['scale-whole'], SCHEDULES['bvit-rex']),
    }
)
# Stages of equal cost.
TENTHS = methods_of(
    {
        'etpp-rex': together(METHODS['etpp'], SCHEDULES['bvit-rex']),
        'etpp-grow-half': together(METHODS['etpp-grow'], TABLE_11['half']),
        'recommended-heads': together(METHODS['recommended'], TABLE_13['grow-heads-tokens']),
        'recommended-hidden': together(METHODS['recommended'], TABLE_13['grow-hidden-tokens']),
        'recommended-muon': together(METHODS['recommended'], OPTIMIZER['muon']),
    }
)
# Shares of the budget: a stage costs more of it than the one before, or as much.
SHARES = dict(early=(0.15, 0.35, 0.5), equal=(1 / 3, 1 / 3, 1 / 3))
SHARED = methods_of(
    {
        f'{name}-{shares}': together(TOGETHER[name], Method(shared(SHARES[shares])))
        for name in TOGETHER
        for shares in SHARES
    }
)
BY_BUDGET = methods_of(
    {f'{name}-by-budget': together(SHARED[name], SCHEDULES['by-budget']) for name in SHARED}
)
RATE_FACTORS = (0.25, 0.5, 2.0)
RATES = methods_of(
    {
        f'{name}-lrx{factor:g}': at_rate(factor, METHODS[name])
        for name in ('bvit', 'rex')
        for factor in RATE_FACTORS
    }
)

ABLATIONS: dict[str, Method] = {
    **TABLE_2,
    **TABLE_4,
    **TABLE_5,
    **TABLE_11,
    **TABLE_13,
    **FIG_6,
    **SCHEDULES,
    **OPTIMIZER,
    **TOGETHER,
    **TENTHS,
    **SHARED,
    **BY_BUDGET,
    **RATES,
    **SLIMMING,
}
