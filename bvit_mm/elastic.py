# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Elastic backbones: networks with training stages, whose modules are elastic."""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from . import flops
from .config_types import builds
from .elastic_modules import (
    ElasticModule,
    ElasticMultiheadAttention,
    Units,
    UnitSlot,
    elasticize_,
)
from .head_dims import HeadDimAttention
from .options import is_whole_number
from .reading.weights import load_pretrained
from .registry import MODELS
from .resampling import scaled_images
from .training_stages import (
    StagesSpec,
    TrainingStage,
    centered,
    parse_training_stages,
    stage_of_record,
)
from .widths import Widths, of_cut_axes, read_widths

# The arguments of every elastic backbone that say which of its networks it is.
FORM = ('training_stages', 'only_stage', 'gates', 'widths')


class ElasticBackbone(BaseModule):
    """Mixin of a backbone with training stages; without a hook it is the whole network.

    A subclass calls ``init_training_stages`` once its modules are elastic, says which ``units`` a
    stage activates and what it costs (``flops``) for images of which size (``img_size``), and
    crops its patch tokens to the ``active_grid``. One whose stages have a ``view`` also says what
    makes its patches (``patch_conv``), and computes with ``seen(images)``.

    The stage travels with the weights, in the metadata that torch keeps in a state dict next to
    its keys: loading weights makes the backbone the network of their stage, so an unfinished
    checkpoint is never taken for the whole network. The keys stay the plain class's, and a
    finished checkpoint has no such entry. Other classes do not read it.

    Weights given to it as ``init_cfg=dict(type='Pretrained', ...)`` must all be there and fit
    (``load_pretrained``), where mmengine would only warn.
    """

    # The type of the whole network for those who do not have bvit_mm; None if there is none.
    plain_type: str | None = None
    # What is wrong with mmpretrain's class of the network; None if nothing.
    plain_fault: str | None = None
    # How timm calls the weights of a classifier with the whole network: a pattern of our key, and
    # timm's key; the first that matches counts, and '' drops the weight. Empty if timm has none.
    timm_names: ClassVar[Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]] = ()
    img_size: tuple[int, int]  # height and width that ``flops`` counts, and so plans, by default
    # Whether data workers make the images of training as the training stage sees them, and
    # whether such images come now (``images_of_training``).
    loads_views = False
    gets_views = False
    # Of a slimmed network: how many units each module has, of the axes along which some are gone.
    widths: Widths | None = None
    training_stages: tuple[TrainingStage, ...]
    init_cfg: dict[str, Any] | list[dict[str, Any]] | None

    @classmethod
    def own_arguments(cls) -> set[str]:
        """The arguments that the plain class does not have: those by keyword only."""
        parameters = inspect.signature(cls).parameters
        if cls.plain_type is None:
            return set(FORM) & set(parameters)
        return {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}

    def init_training_stages(
        self, spec: StagesSpec, whole: TrainingStage, free: Collection[str] = ()
    ) -> None:
        """Takes the ``training_stages`` argument; see ``parse_training_stages``."""
        self.training_stages = parse_training_stages(spec, whole, free, type(self).__name__)
        self.whole = whole
        self._training_stage = self.num_training_stages - 1
        self._register_state_dict_hook(_record_training_stage)
        self._say_matrices()

    def _say_matrices(self) -> None:
        """Notes on the weights of linear layers how many matrices each holds: q, k and v are 3.

        Convolutions of 1 x 1 count if their units grow. For ``MuonAdamW``: an optimizer is given
        parameters without their names.
        """
        packed = {
            param: slot.blocks if slot.dim == 0 else 1
            for module in self.modules()
            if isinstance(module, ElasticModule)
            for axis in module.axes
            for slot, param in module.elastic_parameters(axis)
            if isinstance(slot, UnitSlot)
        }
        for module in self.modules():
            weight: Any = getattr(module, 'weight', None)  # which declares no attributes of others
            if isinstance(module, nn.Linear) or (
                isinstance(module, nn.Conv2d) and weight in packed and module.kernel_size == (1, 1)
            ):
                weight.matrices = packed.get(weight, 1)

    def init_weights(self) -> None:
        given = self.init_cfg or []
        given = [given] if isinstance(given, dict) else list(given)
        pretrained = [init for init in given if builds(init, WEIGHT_INITIALIZERS, PretrainedInit)]
        self.init_cfg, kept = [init for init in given if init not in pretrained], self.init_cfg
        super().init_weights()
        self.init_cfg = kept
        for init in pretrained:
            gates = {name for name, _ in self.named_parameters() if name.endswith('.gate')}
            new = self.new_in_transfer() | gates  # which begin at 1
            load_pretrained(self, init['checkpoint'], init.get('prefix'), new)

    def new_in_transfer(self) -> set[str]:
        """Keys that only one of this network and a classifier's weights has.

        Those of the network keep their initial values.
        """
        return set()

    @staticmethod
    def timm_value(key: str, value: Tensor) -> Tensor:
        """A weight as timm orders it."""
        return value

    def train(self, mode: bool = True) -> 'ElasticBackbone':
        super().train(mode)
        return self  # as torch's modules do; mmpretrain's backbones return nothing

    @property
    def num_training_stages(self) -> int:
        return len(self.training_stages)

    @property
    def training_stage(self) -> int:
        """The active training stage, 0-based."""
        return self._training_stage

    @property
    def is_whole(self) -> bool:
        return self.is_whole_at(self._training_stage)

    def is_whole_at(self, k: int) -> bool:
        """Whether training stage ``k`` is the whole network."""
        return self.training_stages[k] == self.whole

    @property
    def whole_stage(self) -> int:
        """The last training stage that is the whole network; only a slimmed one may follow."""
        last = self.num_training_stages - 1
        return max((k for k in range(last + 1) if self.is_whole_at(k)), default=last)

    @property
    def has_phases(self) -> bool:
        """Whether it is searched and slimmed after it has grown (``slim.phases``)."""
        return self.num_training_stages > 1 and 'widths' in self.training_stages[-1].keys

    def add_phases_(self, slimmed: TrainingStage) -> None:
        """Has two more training stages: the whole network, whose gates learn, and a slimmed one.

        Where there are such stages, the slimmed one becomes another.
        """
        grown = self.training_stages[: -2 if self.has_phases else None]
        self.training_stages = (*grown, self.whole, slimmed)

    def set_training_stage(self, k: int) -> None:
        """Activates training stage ``k`` (0-based). It only sets sizes; growing is ``grow_``'s.

        Raises:
            ValueError: If there is no such stage.
        """
        self._check_training_stage(k)
        for module, axis, active in self.active_units(k):
            module.activate(axis, active)
            module.gates_learn = not self.has_phases or k == self.num_training_stages - 2
        self._training_stage = k

    def shrink_(self, k: int) -> None:
        """Becomes the network of training stage ``k`` for good, in place.

        It has only the weights of that stage, and that stage only; it still takes the images
        of the whole network and crops their tokens.

        Raises:
            ValueError: If there is no such stage.
        """
        self.set_training_stage(k)
        for module in dict.fromkeys(module for module, _, _ in self.active_units(k)):
            module.shrink_()
        self.training_stages = (self.training_stages[k],)
        self._training_stage = 0

    def units(self, k: int) -> Units:
        """The elastic modules with their units in training stage ``k``, as that says.

        The whole network has all units of every module, whatever this says of it.

        Yields:
            A module, one of its axes, and how many of its units along that are active.
        """
        raise NotImplementedError

    def active_units(self, k: int) -> Units:
        """The elastic modules with their active units in training stage ``k``; see ``units``."""
        stage = self.training_stages[k]
        widths = {axis: iter(numbers) for axis, numbers in getattr(stage, 'widths', ())}
        for module, axis, active in self.units(k):
            if stage == self.whole or 'widths' in stage.keys:
                active = module.total(axis)
            if axis == module.read_axis and axis in widths:
                active = next(widths[axis])
            yield module, axis, active

    def read_units(self) -> list[tuple[ElasticModule, str]]:
        """The modules whose units weights read, each with the axis: those that may be slimmed."""
        found = self.units(self.num_training_stages - 1)
        return [(module, axis) for module, axis, _ in found if axis == module.read_axis]

    def totals(self) -> Widths:
        """All units that may be slimmed, by axis, one width a module."""
        totals: Widths = {}
        for module, axis in self.read_units():
            totals[axis] = (*totals.get(axis, ()), module.whole_width(axis))
        return totals

    def take_form_(
        self, only_stage: int | None = None, gates: bool | str = False, widths: Any = None
    ) -> None:
        """Takes the arguments that change what modules have: at most one of them.

        Args:
            only_stage: Becomes the network of this training stage, 0-based, alone.
            gates: Whether units have gates, which ``slim`` reads; ``'dims'``, and they have,
                dimensions of heads instead of whole heads (``split_heads_``).
            widths: How many units each module has; see ``read_widths``.

        Raises:
            ValueError: If they mean no such network.
        """
        given = dict(only_stage=only_stage, gates=gates or None, widths=widths)
        stated = [f'{name}={value!r}' for name, value in given.items() if value is not None]
        if not isinstance(gates, bool) and gates != 'dims':
            raise ValueError(
                f"gates={gates!r} must be True or False, or 'dims' for single dimensions of heads"
            )
        if len(stated) > 1:
            raise ValueError(f'{" and ".join(stated)} are both given; give one of them')
        if only_stage is not None:
            self.shrink_(only_stage)
        if gates == 'dims' or (isinstance(widths, dict) and 'dims' in widths):
            self.split_heads_()
        if gates:
            self.check_gates()
            for module, _ in self.read_units():
                module.add_gates_()
        if widths is not None:
            self._become_slim_(widths)

    def drop_gates_(self) -> None:
        """Has no gates from now on: what they learned is in the weights."""
        for module, _ in self.read_units():
            module.fold_gates_()
            module._parameters.pop('gate', None)

    def check_gates(self) -> None:
        """Raises ValueError if units of this network cannot have gates."""

    def split_heads_(self) -> None:
        """Has dimensions of heads as units from now on, in place of whole heads.

        Raises:
            ValueError: If it cannot.
        """
        # Not of subclasses, whose units may be something else than heads.
        modules = [m for m, _ in self.read_units() if type(m) is ElasticMultiheadAttention]
        if not modules:
            raise ValueError(
                f'{type(self).__name__} has whole heads only, if any; single dimensions of heads '
                "(gates='dims', widths=dict(dims=...)) are for plain ViTs: give gates=True, or "
                'widths of heads'
            )
        for module in modules:
            elasticize_(module, HeadDimAttention)

    def _become_slim_(self, widths: Any) -> None:
        if self.num_training_stages > 1:
            raise ValueError(
                'widths are of a slimmed network, which has no training stages; drop '
                'training_stages, or widths'
            )
        self.shrink_to_(read_widths(widths, self.totals()))

    def shrink_to_(self, widths: Widths) -> None:
        """Becomes the network of the first units of each module for good, in place."""
        totals = self.totals()
        numbers = {axis: iter(n) for axis, n in widths.items()}
        for module, axis in self.read_units():
            module.activate(axis, next(numbers[axis]))
            module.shrink_()
        self.widths = of_cut_axes(widths, totals)
        self.whole = TrainingStage(**{**self.whole.as_dict(), 'widths': tuple(widths.items())})
        self.training_stages = (self.whole,)
        self._training_stage = 0

    def plain_widths(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """What makes the plain class this slimmed network; None if its arguments cannot say it.

        Args:
            given: The arguments of the network that was slimmed.

        Returns:
            Arguments of the plain class that replace some of them.
        """
        return None

    def active_grid(self, grid: tuple[int, int], k: int) -> tuple[int, int]:
        """The tokens that training stage ``k`` keeps of a patch grid, rows and columns.

        Of an image of another size than the backbone is built for, the same share.
        """
        whole, active = self.whole.grid, self.training_stages[k].grid
        shares = [(int(n), int(n) * a / w) for n, a, w in zip(grid, active, whole)]
        if self.view(k) == 'scale':
            rows, columns = (max(1, round(size)) for _, size in shares)
        else:
            rows, columns = (centered(n, size) for n, size in shares)
        return rows, columns

    def view(self, k: int) -> str:
        """How training stage ``k`` sees an image: ``'crop'``, ``'scale'`` or ``'whole'``."""
        return getattr(self.training_stages[k], 'view', 'crop')

    def patch_conv(self) -> nn.Conv2d | nn.Unfold:
        """The convolution that makes patches of images, or what first looks at them in windows."""
        raise NotImplementedError

    def patch_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image of this height and width in pixels."""
        return flops.conv_grid(self.patch_conv(), size)

    def size_of_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels of an image of so many rows and columns of patches."""
        return flops.conv_size(self.patch_conv(), grid)

    def seen_size(self, k: int, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width in pixels of what training stage ``k`` sees of an image.

        Args:
            k: Training stage, 0-based.
            size: Height and width of the image; those that the backbone is built for if None.
        """
        size = self.img_size if size is None else size
        if self.view(k) == 'whole':
            return size
        return self.size_of_grid(self.active_grid(self.patch_grid(size), k))

    def seen(self, images: Tensor) -> Tensor:
        """Images as the training stage sees them, but for cropping, which is for their tokens."""
        k = self.training_stage
        if self.view(k) != 'scale':
            return images
        height, width = self.img_size if self.gets_views else images.shape[-2:]
        return scaled_images(images, self.seen_size(k, (height, width)))

    def grid_of_all(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The patch grid of the whole image, of which patches of a grid may be the center."""
        return self.whole.grid if self.gets_views else grid

    def flops(self, k: int, input_size: int | tuple[int, int] | None = None) -> int:
        """Forward multiply-adds of one image, without classifier, by the rule in ``flops``.

        Args:
            k: Training stage, 0-based.
            input_size: Side, or height and width, of the image in pixels; that the backbone is
                built for if None.

        Raises:
            ValueError: If there is no such stage.
        """
        raise NotImplementedError

    def _check_training_stage(self, k: int) -> None:
        if not is_whole_number(k) or not 0 <= k < self.num_training_stages:
            raise ValueError(
                f'training stage k={k!r} does not exist; give 0..{self.num_training_stages - 1}'
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
        recorded = local_metadata.get('training_stage')
        if recorded is None:
            if any(key.startswith(prefix) for key in state_dict):
                self.set_training_stage(self.whole_stage)
            return
        recorded = stage_of_record(recorded, self.whole)
        widths = getattr(recorded, 'widths', None)
        if widths and recorded == TrainingStage(**{**self.whole.as_dict(), 'widths': widths}):
            read_widths(dict(widths), self.totals())
            self.add_phases_(recorded)
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
        local_metadata['training_stage'] = stage.as_dict()


def center_crop(tokens: Tensor, grid: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """The central ``crop`` of a token grid: (B, H*W, C) to (B, h*w, C)."""
    top, left = ((n - m) // 2 for n, m in zip(grid, crop))
    tokens = tokens.unflatten(1, grid)
    return tokens[:, top : top + crop[0], left : left + crop[1]].flatten(1, 2)


def center_crop_map(x: Tensor, crop: tuple[int, int]) -> Tensor:
    """The central ``crop`` of a map: (B, C, H, W) to (B, C, h, w)."""
    top, left = ((n - m) // 2 for n, m in zip(x.shape[-2:], crop))
    return x[..., top : top + crop[0], left : left + crop[1]]


@contextmanager
def images_of_training(model: nn.Module) -> Iterator[None]:
    """Within, images come as the data workers make them; else they come whole."""
    backbones = [module for module in model.modules() if isinstance(module, ElasticBackbone)]
    for backbone in backbones:
        backbone.gets_views = backbone.loads_views
    try:
        yield
    finally:
        for backbone in backbones:
            backbone.gets_views = False


def find_backbone(model: nn.Module) -> ElasticBackbone:
    """The elastic backbone in a model.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, ElasticBackbone)]
    if len(found) != 1:
        backbone = type(getattr(model, 'backbone', model)).__name__
        elastic = MODELS.module_dict.get(f'Elastic{backbone.replace("_", "")}')
        name = getattr(elastic, '__name__', 'ElasticVisionTransformer')
        fault = getattr(elastic, 'plain_fault', None)
        raise ValueError(
            f'{type(model).__name__} has {len(found)} elastic backbones (its backbone is '
            f'{backbone}), but budgeted training grows exactly one; give the backbone '
            f'a type of bvit_mm, such as bvit_mm.{name}, with training_stages '
            '(and to draw learning rates, use our tools/vis_scheduler.py)'
            + (f'. Besides, {fault}' if fault else '')
        )
    return found[0]
