"""AdamW at batch 1024, as mmpretrain has it for Swin, for the full cost of 300 epochs."""

_base_ = ['mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py']

train_cfg = dict(
    _delete_=True,
    type='bvit_mm.BudgetedTrainLoop',
    budget=1.0,
    full_epochs=300,
    alpha=2.0,
    seed=0,
    val_interval=1,
)
