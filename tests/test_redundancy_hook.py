# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""RedundancyHook: what it measures while a run trains, and that the run stays the same."""

import json

import pytest
from mmengine.runner import Runner

from bvit_mm.analysis.hook import LOG, RedundancyHook, read_records, write_record
from bvit_mm.analysis.measure import (
    measure_redundancy,
)

from .support.files import assert_same_run, last_file
from .support.hooks import Stop
from .support.measured import MEASURE, SWITCH, classifier
from .support.runs import BATCHES, EPOCHS, build, config


def test_a_run_with_the_hook_trains_the_same(tmp_path):
    hooks = [SWITCH, dict(type='EMAHook')]
    build(tmp_path / 'without', custom_hooks=hooks).train()
    runner = build(tmp_path / 'with', custom_hooks=[*hooks, MEASURE])
    runner.train()
    assert_same_run(last_file(tmp_path / 'with'), last_file(tmp_path / 'without'))

    records = read_records(tmp_path / 'with' / LOG)
    assert [r['epoch'] for r in records] == [1, 2, 3, 4, 5, 6]
    assert [r['training_stage'] for r in records] == [1, 1, 2, 2, 3, 3]
    assert [sorted(r['cka']) for r in records] == [[], [], *[['1', '2']] * 4]  # of one head: none
    assert [r['pca']['1']['units'] for r in records] == [12, 12, 24, 24, 48, 48]
    assert records[2]['cka'] != records[3]['cka']
    # the numbers of the weights that were trained, which the last checkpoint has
    file = last_file(tmp_path / 'with')
    model, _ = classifier()
    model.load_state_dict(
        {k.removeprefix('module.'): v for k, v in file['ema_state_dict'].items() if k != 'steps'}
    )
    (hook,) = (h for h in runner.hooks if isinstance(h, RedundancyHook))
    assert dict(epoch=6, **measure_redundancy(model, hook._images)) == records[-1]
    # and what others see
    hub = runner.message_hub
    assert hub.get_scalar('cka_block2').current() == records[-1]['cka']['2']['mean']
    logs = (tmp_path / 'with').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    drawn = [line for line in lines if 'components_block1' in line]
    assert [line['step'] for line in drawn] == [1, 2, 3, 4, 5, 6]
    assert drawn[3]['components_block1'] == records[3]['pca']['1']['share']


def test_a_resumed_run_writes_the_same_lines(tmp_path):
    build(tmp_path / 'whole', custom_hooks=[SWITCH, MEASURE]).train()
    stopped = [SWITCH, MEASURE, dict(type='StopHook', at=3 * BATCHES + 2)]
    with pytest.raises(Stop):
        build(tmp_path / 'parts', custom_hooks=stopped).train()
    log = tmp_path / 'parts' / LOG
    assert [r['epoch'] for r in read_records(log)] == [1, 2, 3]
    write_record(log, {**read_records(log)[-1], 'epoch': 4})  # as if killed later
    build(tmp_path / 'parts', custom_hooks=[SWITCH, MEASURE], resume=True).train()
    assert log.read_text() == (tmp_path / 'whole' / LOG).read_text()


def test_hook_measures_at_its_interval_and_at_the_end(tmp_path):
    hooks = [SWITCH, {**MEASURE, 'interval': 4}]
    build(tmp_path, custom_hooks=hooks).train()
    assert [r['epoch'] for r in read_records(tmp_path / LOG)] == [4, sum(EPOCHS)]


def test_hook_serves_plain_networks_in_other_loops(tmp_path):
    changes = {
        'model.backbone.type': 'VisionTransformer',
        'model.backbone.training_stages': None,
        'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2),
        'custom_hooks': [MEASURE],
    }
    cfg = config(tmp_path, **changes)
    cfg.model.backbone.pop('training_stages')
    cfg.experiment_name = 'plain'
    Runner.from_cfg(cfg).train()
    records = read_records(tmp_path / LOG)
    assert [(r['epoch'], r['training_stage'], sorted(r['cka'])) for r in records] == [
        (1, None, ['1', '2']),
        (2, None, ['1', '2']),
    ]


def test_only_the_main_process_measures_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr('bvit_mm.analysis.hook.is_main_process', lambda: False)
    runner = build(tmp_path, custom_hooks=[SWITCH, MEASURE])
    runner.train()
    assert not (tmp_path / LOG).exists()
    assert 'cka_block1' not in runner.message_hub.log_scalars
    assert not any(hasattr(hook, '_images') for hook in runner.hooks)


def test_records_of_a_broken_off_run_go(tmp_path):
    record = dict(training_stage=1, cka={}, pca={})
    for epoch in (1, 2, 3, 2):
        write_record(tmp_path / LOG, dict(epoch=epoch, **record))
    assert [r['epoch'] for r in read_records(tmp_path / LOG)] == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == [LOG]


@pytest.mark.parametrize('name', ['interval', 'num_images'])
@pytest.mark.parametrize('value', [0, 2.5, True, '3'])
def test_hook_refuses_arguments(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r} of RedundancyHook must be a whole'):
        RedundancyHook(**{name: value})


def test_hook_refuses_runs_it_cannot_measure(tmp_path):
    no_images = dict(val_dataloader=None, val_evaluator=None, val_cfg=None)
    runner = build(tmp_path / 'a', custom_hooks=[SWITCH, MEASURE], **no_images)
    with pytest.raises(ValueError, match='the config has none; give val_dataloader'):
        runner.train()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / LOG).write_text('{"epoch": 1}\n')
    runner = build(tmp_path / 'b', custom_hooks=[SWITCH, MEASURE])
    with pytest.raises(ValueError, match=r'line 1 of .*redundancy.jsonl is no record of'):
        runner.train()


@pytest.mark.parametrize('change', [dict(cka=3), dict(pca=None), dict(epoch=None)])
def test_records_of_others_are_refused(tmp_path, change):
    record = dict(epoch=1, training_stage=1, images=4, cka={}, pca={})
    write_record(tmp_path / LOG, record)
    assert read_records(tmp_path / LOG) == [record]
    changed = {k: v for k, v in {**record, **change}.items() if v is not None}
    (tmp_path / LOG).write_text(f'{json.dumps(changed)}\n')
    with pytest.raises(ValueError, match='is no record of RedundancyHook'):
        read_records(tmp_path / LOG)
