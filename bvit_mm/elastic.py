# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Elastic modules: full-size parameters, computed with only their active units.

The parameters keep the names and shapes of mmpretrain's modules at every moment; a forward
below full size slices them. So checkpoints, optimizers, EMA and DDP never see a change.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn


class Slot(NamedTuple):
    """One dimension of one parameter that follows the active units of its module.

    The dimension holds ``blocks`` times all units side by side: 3 for packed q, k, v.
    ``out`` marks weights that read the units, as opposed to those that produce them.
    """

    param: str
    dim: int
    blocks: int = 1
    out: bool = False

    def units(self, tensor: Tensor, total: int) -> Tensor:
        """A view of ``tensor`` whose dimension ``dim + 1`` counts the units."""
        return tensor.unflatten(self.dim, (self.blocks, total, -1))

    def active(self, tensor: Tensor, total: int, active: int) -> Tensor:
        """The part of ``tensor`` that ``active`` units use; a view unless ``blocks > 1``."""
        part = self.units(tensor, total).narrow(self.dim + 1, 0, active)
        return part.flatten(self.dim, self.dim + 2)


class ElasticModule:
    """Mixin of a module that can compute with its first ``active_units`` units.

    A subclass declares ``slots``, the only list of what follows the units: slicing, growth,
    moments, EMA and tests read it. It also says how many units there are in all.
    """

    slots: tuple[Slot, ...] = ()
    active_units: int

    @property
    def total_units(self) -> int:
        raise NotImplementedError

    @property
    def is_whole(self) -> bool:
        return self.active_units == self.total_units

    def elastic_parameters(self) -> Iterator[tuple[Slot, nn.Parameter]]:
        """The slots whose parameter exists (a bias may be switched off), with it."""
        parameters = dict(self.named_parameters())
        for slot in self.slots:
            if slot.param in parameters:
                yield slot, parameters[slot.param]

    def sliced(self) -> dict[str, Tensor | None]:
        """The active part of each elastic parameter; None for one that does not exist."""
        parts: dict[str, Tensor | None] = dict.fromkeys(slot.param for slot in self.slots)
        for slot, param in self.elastic_parameters():
            parts[slot.param] = slot.active(param, self.total_units, self.active_units)
        return parts


class ElasticMultiheadAttention(ElasticModule, MultiheadAttention):
    """mmpretrain's multi-head self-attention with its first heads active (Eq. 7)."""

    slots = (
        Slot('qkv.weight', 0, blocks=3),
        Slot('qkv.bias', 0, blocks=3),
        Slot('proj.weight', 1, out=True),
    )

    @property
    def total_units(self) -> int:
        return self.num_heads

    def forward(self, x: Tensor) -> Tensor:
        if self.is_whole:
            return super().forward(x)
        part = self.sliced()
        batch, tokens, _ = x.shape
        qkv = F.linear(x, part['qkv.weight'], part['qkv.bias'])
        qkv = qkv.view(batch, tokens, 3, self.active_units, self.head_dims)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_dims)
        drop = self.attn_drop if self.training else 0.0
        x = self.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        x = x.transpose(1, 2).reshape(batch, tokens, self.active_units * self.head_dims)
        x = F.linear(x, part['proj.weight'], self.proj.bias)
        return self.out_drop(self.gamma1(self.proj_drop(x)))


class ElasticFFN(ElasticModule, FFN):
    """mmcv's two-layer MLP with its first hidden units active (Fig. 5)."""

    slots = (
        Slot('layers.0.0.weight', 0),
        Slot('layers.0.0.bias', 0),
        Slot('layers.1.weight', 1, out=True),
    )

    @property
    def total_units(self) -> int:
        return self.feedforward_channels

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        if self.is_whole:
            return super().forward(x, identity=identity)
        part = self.sliced()
        (_, activation, hidden_drop), fc2, out_drop = self.layers
        out = F.linear(x, part['layers.0.0.weight'], part['layers.0.0.bias'])
        out = hidden_drop(activation(out))
        out = out_drop(F.linear(out, part['layers.1.weight'], fc2.bias))
        out = self.dropout_layer(self.gamma2(out))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


def elasticize_(module: nn.Module, elastic_class: type) -> None:
    """Makes ``module`` elastic in place, all units active.

    Only its class changes, to a subclass of the present one: no parameter is drawn again, so
    the same seed gives the same network as the plain class.
    """
    module.__class__ = elastic_class
    module.active_units = module.total_units


class TrainingStage(NamedTuple):
    """What is active in one training stage: heads, hidden units, rows and columns of tokens."""

    heads: int
    hidden: int
    grid: tuple[int, int]

    def __str__(self) -> str:
        grid = self.grid[0] if self.grid[0] == self.grid[1] else self.grid
        return f'heads={self.heads}, hidden={self.hidden}, grid={grid}'


StagesSpec = int | Sequence[dict[str, Any]] | None


def parse_training_stages(spec: StagesSpec, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    """Reads the ``training_stages`` argument of a backbone.

    Args:
        spec: A dict for each training stage with ``heads``, ``hidden`` and ``grid`` (tokens per
            side, or rows and columns), a key left out being whole; or the number K of stages:
            heads k/K of all, tokens linearly from a half to all, hidden units doubling up to all
            (Appendix A; for K = 3 it is Table 6); or None for the whole network only.
        whole: What the whole network has.

    Raises:
        ValueError: If a stage is no part of the network, smaller than the one before it or the
            same, or if the last is not the whole network.
    """
    if spec is None:
        return (whole,)
    if isinstance(spec, (int, float)):
        return _stages_of_number(spec, whole)
    if isinstance(spec, (str, dict)) or not isinstance(spec, Sequence) or not spec:
        raise ValueError(
            f'training_stages={spec!r} must be a number of stages or a list of '
            'dict(heads=..., hidden=..., grid=...)'
        )
    stages = [_parse_stage(k, given, whole) for k, given in enumerate(spec, start=1)]
    for k, (smaller, larger) in enumerate(itertools.pairwise(stages), start=2):
        for name, before, now in zip(whole._fields, smaller, larger):
            if (min(b - a for a, b in zip(before, now)) if name == 'grid' else now - before) < 0:
                raise ValueError(
                    f'training stage {k}: {name}={now} is less than {before} in training stage '
                    f'{k - 1}; stages may only grow'
                )
        if smaller == larger:
            raise ValueError(
                f'training stage {k}: {larger} is the same as training stage {k - 1}; drop one'
            )
    if stages[-1] != whole:
        raise ValueError(
            f'training stage {len(stages)} is the last and must be the whole network '
            f'({whole}), but has {stages[-1]}'
        )
    return tuple(stages)


def _parse_stage(k: int, given: dict[str, Any], whole: TrainingStage) -> TrainingStage:
    if not isinstance(given, dict):
        raise ValueError(f'training stage {k}: {given!r} must be a dict of {whole._fields}')
    unknown = set(given) - set(whole._fields)
    if unknown:
        raise ValueError(
            f'training stage {k}: {sorted(unknown)} is not known; give {whole._fields}'
        )
    stage = TrainingStage(
        heads=_units(k, 'heads', given.get('heads', whole.heads), whole.heads),
        hidden=_units(k, 'hidden', given.get('hidden', whole.hidden), whole.hidden),
        grid=_grid(k, given.get('grid', whole.grid), whole.grid),
    )
    return stage


def _units(k: int, name: str, value: Any, total: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'training stage {k}: {name}={value!r} is not a whole number of {name}')
    if not 1 <= value <= total:
        raise ValueError(
            f'training stage {k}: {name}={value}, but the model has {total} {name}; give 1..{total}'
        )
    return value


def _grid(k: int, value: Any, total: tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    whole_numbers = (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
    )
    allowed = [list(range(2 - n % 2, n + 1, 2)) for n in total]
    if not whole_numbers or any(n not in fits for n, fits in zip(pair, allowed)):
        choice = (
            allowed[0] if allowed[0] == allowed[1] else f'rows {allowed[0]}, columns {allowed[1]}'
        )
        raise ValueError(
            f'training stage {k}: grid={value!r} is no centre crop of the {total[0]}x{total[1]} '
            f'patch grid (the same number of patches must be left out on both sides); '
            f'give one of {choice}'
        )
    return tuple(pair)


def _stages_of_number(count: Any, whole: TrainingStage) -> tuple[TrainingStage, ...]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'training_stages={count!r} must be a number of stages, at least 1')
    halvings = 2 ** (count - 1)
    if whole.hidden % halvings:
        raise ValueError(
            f'training_stages={count} doubles the hidden units up to {whole.hidden}, which cannot '
            f'be halved {count - 1} times; give the stages one by one'
        )
    stages: list[dict[str, Any]] = []
    for k in range(1, count + 1):
        tokens = 1.0 if count == 1 else 0.5 + 0.5 * (k - 1) / (count - 1)
        stages.append(
            dict(
                heads=max(1, int(whole.heads * k / count + 0.5)),
                hidden=whole.hidden // 2 ** (count - k),
                grid=tuple(centred(n, n * tokens**0.5) for n in whole.grid),
            )
        )
    return parse_training_stages(stages, whole)


def centred(total: int, size: float) -> int:
    """The number nearest to ``size`` that leaves as many of ``total`` out on both sides."""
    return max(total - 2 * round((total - size) / 2), 2 - total % 2)


def center_crop(tokens: Tensor, grid: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """The central ``crop`` of a token grid: (B, H*W, C) to (B, h*w, C)."""
    top, left = ((n - m) // 2 for n, m in zip(grid, crop))
    tokens = tokens.unflatten(1, grid)
    return tokens[:, top : top + crop[0], left : left + crop[1]].flatten(1, 2)


class ElasticBackbone:
    """Mixin of a backbone with training stages; without a hook it is the whole network.

    A subclass calls ``init_training_stages`` and says which ``units`` a stage activates and
    what it costs (``flops``).

    The stage travels with the weights, in the metadata that torch keeps in a state dict next to
    its keys: weights of a stage below the last, loaded again, make the backbone that stage's
    network, never the whole one with units that no one has trained. The keys stay the plain
    class's, and a finished checkpoint has no such entry.
    """

    training_stages: tuple[TrainingStage, ...]

    def init_training_stages(self, spec: StagesSpec, whole: TrainingStage) -> None:
        self.training_stages = parse_training_stages(spec, whole)
        self._training_stage = self.num_training_stages - 1
        self._register_state_dict_hook(_record_training_stage)

    @property
    def num_training_stages(self) -> int:
        return len(self.training_stages)

    @property
    def training_stage(self) -> int:
        """The active training stage, 0-based."""
        return self._training_stage

    @property
    def is_whole(self) -> bool:
        return self._training_stage == self.num_training_stages - 1

    def set_training_stage(self, k: int) -> None:
        """Activates training stage ``k`` (0-based). It only sets sizes; growing is ``grow_``'s.

        Raises:
            ValueError: If there is no such stage.
        """
        self._check_training_stage(k)
        for module, active in self.units(k):
            module.active_units = active
        self._training_stage = k

    def units(self, k: int) -> Iterator[tuple[ElasticModule, int]]:
        """The elastic modules, each with its active units in training stage ``k``."""
        raise NotImplementedError

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        """Forward multiply-adds of one image in training stage ``k``, without classifier."""
        raise NotImplementedError

    def _check_training_stage(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < len(self.training_stages):
            raise ValueError(
                f'training stage k={k!r} does not exist; give 0..{self.num_training_stages - 1}'
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
        recorded = local_metadata.get('training_stage')
        if recorded is None:
            return
        recorded = TrainingStage(recorded['heads'], recorded['hidden'], tuple(recorded['grid']))
        if recorded not in self.training_stages:
            raise ValueError(
                f'these weights are of an unfinished run, at a training stage with {recorded}; '
                'as the whole network they would use weights that were never trained. Build '
                'the backbone with the training_stages of that run, or load a finished checkpoint'
            )
        self.set_training_stage(self.training_stages.index(recorded))


def _record_training_stage(backbone, state_dict, prefix, local_metadata) -> None:
    if not backbone.is_whole:
        stage = backbone.training_stages[backbone.training_stage]
        local_metadata['training_stage'] = stage._asdict()
