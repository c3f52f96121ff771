# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Law 10: images made at a stage's size in the data workers, and the backbone that is told.

Pixels against what the backbone makes of whole images; then real runs: which sizes arrive, what is
booked, resuming, and why a pipeline cannot.
"""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain.models.utils.batch_augments import RandomBatchAugment

from bvit_mm import ElasticPVTv2, ElasticVisionTransformer
from bvit_mm.elastic import find_backbone, images_of_training
from bvit_mm.running.image_size import extra_gflops
from bvit_mm.stage_images import at_stage_size
from bvit_mm.testing.closeness import assert_near

from .support.cases import PVTV2
from .support.files import assert_same_run, last_file
from .support.piped_data import PIPED
from .support.runs import BATCHES, build
from .support.trainings import log_of, resume
from .support.variants import EMA, EVERY_ITERATION, SHORT

CROP = dict(type='bvit_mm.RandomResizedCrop', scale=224, interpolation='bicubic')
FLIP, PACK = dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')
AUGMENT = dict(
    type='bvit_mm.RandAugment',
    policies='timm_increasing',
    num_policies=2,
    magnitude_level=9,
    magnitude_std=0.5,
)
ERASE = dict(type='RandomErasing', erase_prob=0.25)


def pipeline(*steps):
    init_default_scope('mmpretrain')
    return Compose([*steps])


def deit(*stages, **changes):
    torch.manual_seed(0)
    backbone = ElasticVisionTransformer(
        **dict(arch='deit-tiny', img_size=224, patch_size=16, training_stages=[*stages, {}]),
        **changes,
    )
    return backbone.eval()


SCALED, CROPPED = dict(grid=6, view='scale'), dict(grid=10)


def picture(height=300, width=400):
    """Smooth, as photographs are: noise would show what each kernel does with it."""
    rows, columns = np.mgrid[:height, :width] / 25
    waves = [np.sin(rows + k) + np.cos(columns * (1 + k / 3)) for k in range(3)]
    return (63 * np.stack(waves, 2) + 127).astype(np.uint8)


def sample(steps, seed):
    np.random.seed(seed)
    image = picture()
    made = steps(dict(img=image, img_shape=image.shape[:2], gt_label=0))['inputs']
    return made, np.random.get_state()[1:3]


@pytest.mark.parametrize('seed', range(4))
def test_scaled_images_are_what_the_backbone_makes_but_for_rounding(seed):
    """The same crop, flipped alike; once resized or twice, and rounded to whole values once or not.

    Each resize of a smooth image is near the image, so two are near one.
    """
    backbone, whole = deit(SCALED), pipeline(CROP, FLIP, PACK)
    backbone.set_training_stage(0)
    (small,) = at_stage_size([whole], backbone, 0)
    (ours, drawn), (full, as_drawn) = sample(small, seed), sample(whole, seed)
    assert ours.shape == (3, 96, 96) and full.shape == (3, 224, 224)
    assert all(map(np.array_equal, drawn, as_drawn))
    difference = (backbone.seen(full[None].float())[0] - ours).abs()
    assert difference.max() <= 4 and (difference <= 2).float().mean() > 0.99


@pytest.mark.parametrize('seed', range(4))
def test_cropped_images_are_the_center_bit_for_bit(seed):
    backbone, whole = deit(CROPPED), pipeline(CROP, FLIP, PACK)
    (small,) = at_stage_size([whole], backbone, 0)
    (ours, drawn), (full, as_drawn) = sample(small, seed), sample(whole, seed)
    assert torch.equal(ours, full[:, 32:192, 32:192])
    assert all(map(np.array_equal, drawn, as_drawn))


AUTO = dict(type='AutoAugment', policies='imagenet')


@pytest.mark.parametrize(
    'steps', [[CROP, AUGMENT, ERASE, PACK], [CROP, AUGMENT, PACK], [CROP, AUTO, PACK]]
)
def test_scaled_images_are_augmented_small(steps):
    (small,) = at_stage_size([pipeline(*steps)], deit(SCALED), 0)
    assert sample(small, 0)[0].shape == (3, 96, 96)


@pytest.mark.parametrize('stage', [SCALED, CROPPED], ids=['scaled', 'cropped'])
def test_the_backbone_computes_the_same_of_both(stage):
    backbone = deit(stage)
    backbone.set_training_stage(0)
    images = torch.randn(2, 3, 224, 224)
    expected, seen = backbone(images)[-1], backbone.seen(images)
    if stage is CROPPED:
        seen = images[..., 32:192, 32:192]
    backbone.loads_views = True
    with images_of_training(backbone):
        assert_near(backbone(seen)[-1], expected)
        assert_near(backbone(images)[-1], expected)  # whole ones are still right
    assert_near(backbone(images)[-1], expected)


@pytest.mark.parametrize(
    'stage, steps, message',
    [
        (SCALED, [dict(CROP, type='RandomResizedCrop'), PACK], 'has neither bvit_mm.RandomResiz'),
        (SCALED, [dict(CROP, scale=192), PACK], r'makes images of \(192, 192\), but img_size=\(22'),
        (SCALED, [CROP, dict(type='RandomCrop', crop_size=224), PACK], 'RandomCrop of train_pipe'),
        (SCALED, [dict(type='bvit_mm.Resize', scale_factor=0.5), PACK], 'makes images of None'),
        (CROPPED, [CROP, AUGMENT, PACK], 'RandAugment of train_pipeline does otherwise with cropp'),
        (CROPPED, [CROP, ERASE, PACK], 'RandomErasing of train_pipeline does otherwise with cro'),
    ],
)
def test_pipelines_that_cannot(stage, steps, message):
    with pytest.raises(ValueError, match=message):
        at_stage_size([pipeline(*steps)], deit(stage), 0)


def test_overlapping_patches_and_cut_mix_need_whole_images():
    steps = [pipeline(CROP, FLIP, PACK)]
    backbone = ElasticPVTv2(training_stages=[dict(grid=8), {}], **PVTV2)
    with pytest.raises(ValueError, match='patches overlap'):
        at_stage_size(steps, backbone, 0)
    mixing = RandomBatchAugment([dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
    with pytest.raises(ValueError, match='CutMix of batch_augments needs the whole image'):
        at_stage_size(steps, deit(CROPPED), 0, mixing)
    assert at_stage_size(steps, deit(SCALED), 0, mixing)
    only = RandomBatchAugment(dict(type='Mixup', alpha=0.8))
    assert at_stage_size(steps, deit(CROPPED), 0, only)


def test_images_are_scaled_as_the_backbone_scales_them():
    """Bicubic, whatever the whole ones are made with."""
    steps = pipeline(dict(CROP, interpolation='bilinear'), PACK)
    (small,) = at_stage_size([steps], deit(SCALED), 0)
    assert small.transforms[0].interpolation == 'bicubic'
    assert steps.transforms[0].interpolation == 'bilinear'


def test_mixing_of_other_packages_may_need_whole_images():
    with pytest.raises(ValueError, match='ModuleList may need the whole image'):
        at_stage_size([pipeline(CROP, PACK)], deit(CROPPED), 0, torch.nn.ModuleList())


# Runs.

STEPS = [
    dict(type='bvit_mm.RandomResizedCrop', scale=16, interpolation='bicubic'),
    FLIP,
    PACK,
]
DATA = dict(_delete_=True, type='PipedDataset', pipeline=STEPS)
STAGES = [
    dict(heads=1, hidden=12, grid=3, view='scale'),
    dict(heads=2, hidden=24, grid=6, view='crop'),
    dict(),
]
SIZES = [6, 12, 16]


@HOOKS.register_module(force=True)
class SeeSizesHook(Hook):
    """Writes down which sizes of images come from the loader, and reach the patches."""

    priority = 'LOWEST'

    def before_run(self, runner):
        self.loaded, self.embedded = [], []
        conv = find_backbone(runner.model).patch_conv()
        conv.register_forward_pre_hook(self._see)

    def before_train(self, runner):
        self.embedded.clear()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.loaded.append(data_batch['inputs'][0].shape[-1])
        self.embedded.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        backbone = find_backbone(runner.model)
        is_scaled = backbone.view(backbone.training_stage) == 'scale'
        expected = SIZES[backbone.training_stage] if is_scaled else self.loaded[-1]
        assert set(self.embedded) == {expected}  # once for each part of a batch

    def before_val_epoch(self, runner):
        self.embedded.clear()

    def after_val_epoch(self, runner, metrics=None):
        backbone = find_backbone(runner.model)
        stage = backbone.training_stage
        patches = SIZES[stage] if backbone.view(stage) == 'scale' else 16
        assert set(self.embedded) == {patches}

    def _see(self, conv, args):
        self.embedded.append(args[0].shape[-1])


def changes(**more):
    hooks = [dict(type='bvit_mm.StageSwitchHook'), EMA, dict(type='SeeSizesHook')]
    return {
        **PIPED,
        **SHORT,
        'train_dataloader.dataset': DATA,
        'val_dataloader.dataset': DATA,
        'model.backbone.training_stages': STAGES,
        'custom_hooks': hooks,
        **more,
    }


def seen_by(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, SeeSizesHook))


@pytest.mark.parametrize('workers', [0, 1])
def test_each_stage_loads_its_size(tmp_path, workers):
    options = dict(num_workers=workers, persistent_workers=bool(workers))
    loader = {f'train_dataloader.{name}': value for name, value in options.items()}
    runner = build(tmp_path, **changes(**loader))
    runner.train()
    assert seen_by(runner).loaded == [size for size in SIZES for _ in range(BATCHES)]
    ledger = runner.train_loop.ledger
    assert ledger.cost == pytest.approx(runner.train_loop.plan.cost, rel=1e-12)
    log = log_of(runner)
    assert 'training stage 1 of 3: data workers make images of 6x6 pixels' in log
    assert 'training stage 2 of 3: data workers make images of 12x12 pixels' in log
    assert 'pixels reach the backbone' not in log


def test_resumed_in_each_stage(tmp_path):
    whole = build(tmp_path / 'whole', **changes(**EVERY_ITERATION))
    whole.train()
    for at in (2, BATCHES, 2 * BATCHES - 1, 2 * BATCHES, 13):
        resumed = resume(tmp_path / str(at), tmp_path / 'whole', at, changes(**EVERY_ITERATION))
        assert_same_run(resumed, last_file(tmp_path / 'whole'))


@pytest.mark.parametrize('parts', ['auto', [1, 2, 1]])
def test_batches_in_parts_are_of_the_stages_size(tmp_path, parts):
    """Early stages are tried after the last one, whose images the budget is for."""
    budget = {'train_cfg.epochs': None, 'train_cfg.budget': 0.5, 'train_cfg.full_epochs': 6}
    options = {**budget, 'train_cfg.accumulative_counts': parts}
    runner = build(tmp_path, **changes(**options))
    runner.train()
    assert set(seen_by(runner).loaded) == set(SIZES)


def test_padding_of_small_images_is_left_to_whole_ones(tmp_path):
    runner = build(tmp_path, **changes(**{'model.data_preprocessor.pad_size_divisor': 4}))
    runner.train()
    log = log_of(runner)
    assert 'stage 1 of 3: images come whole from the data workers: pad_size_divisor=4 of' in log
    assert 'stage 2 of 3: data workers make images of 12x12 pixels' in log


def test_sizes_of_other_stages_cost_what_is_planned():
    """GradMatch selects before a stage begins, by images of its size."""
    backbone = deit(SCALED, dict(grid=10, view='scale'))
    backbone.set_training_stage(0)
    assert extra_gflops(backbone, 0, (160, 160)) != 0
    backbone.loads_views = True
    for size in ((96, 96), (160, 160), (224, 224)):
        assert extra_gflops(backbone, 0, size) == 0


def test_why_images_come_whole_is_said(tmp_path):
    data = dict(DATA, pipeline=[STEPS[0], dict(type='Rotate', angle=9.0), PACK])
    runner = build(tmp_path, **changes(**{'train_dataloader.dataset': data}))
    runner.train()
    log = log_of(runner)
    assert 'training stage 1 of 3: data workers make images of 6x6 pixels' in log
    assert (
        'training stage 2 of 3: images come whole from the data workers: Rotate of '
        'train_pipeline does otherwise with cropped images' in log
    )
    assert seen_by(runner).loaded == [size for size in (6, 16, 16) for _ in range(BATCHES)]
