# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""The DeiT III family: mmpretrain's ``DeiT3``, put right and elastic."""

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones import DeiT3
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from ..registry import MODELS
from .transformer import placed
from .vit import ElasticVisionTransformer


class RightDeiT3(DeiT3):
    """mmpretrain's ``DeiT3``, whose layers use both of their norms.

    Its own layers use ``ln1`` before the MLP too, and ``ln2`` never. Those of its
    ``VisionTransformer`` have the same parts under the same names, and are right. So are mmcv's
    MLPs, which have had layer scale since.
    """

    # What ``VisionTransformer`` has, and ``DeiT3`` has not.
    frozen_stages = -1
    pre_norm = nn.Identity()

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.out_type == 'avg_featmap':
            raise ValueError(
                "out_type='avg_featmap' of ElasticDeiT3 would need a norm that mmpretrain's DeiT3 "
                "does not have; give 'cls_token', 'featmap' or 'raw'"
            )
        for layer in self.layers:
            layer.__class__ = TransformerEncoderLayer
            layer.ffn.__class__ = FFN


@MODELS.register_module()
class ElasticDeiT3(ElasticVisionTransformer, RightDeiT3):
    """DeiT III [1], mmpretrain's ``DeiT3`` put right, with training stages.

    It is a ViT whose blocks have layer scale, and whose class token has no position. Training
    stages are those of ``ElasticVisionTransformer``. Parameters have the names and shapes of
    mmpretrain's ``DeiT3`` at every stage, and the authors' weights in its form load.

    mmpretrain's ``DeiT3`` is another function of the same weights (``plain_fault``), so finished
    weights are published for this class, and for timm, whose DeiT III is right.

    Args:
        training_stages: A number of stages, or what is active in each; see
            ``parse_training_stages``.
        only_stage: Builds the smaller network of this training stage alone (0-based), for
            weights that ``tools/publish.py --stage`` exported.
        gates: Whether heads and hidden units have gates, which ``bvit_mm.SlimHook`` trains;
            ``'dims'``, and dimensions of heads have, in place of whole heads.
        widths: Of a slimmed network, as ``tools/slim.py`` writes it: how many heads, or
            dimensions of each head, and hidden units each module has (``read_widths``).
        **kwargs: Every argument of mmpretrain's ``DeiT3``.

    Raises:
        ValueError: If the training stages do not fit the network, or the network cannot be
            split: layers that differ, an MLP other than two linear layers; or if ``out_type`` is
            ``'avg_featmap'``, which mmpretrain's class cannot compute.

    [1] Touvron et al., DeiT III: Revenge of the ViT, 2022.
    """

    plain_type = None
    plain_fault = (
        "mmpretrain's DeiT3 (1.2.0, and 1.3.6 of onedl-mmpretrain) applies the first norm of a "
        'layer twice and the second never, so it computes something else from the same weights; '
        'docs/patches/mmpretrain-deit3.patch corrects it'
    )

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x, grid = self.patch_embed(images)
        x, grid = placed(self, x, grid, self.pos_embed)
        x = self.drop_after_pos(x)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x, grid
