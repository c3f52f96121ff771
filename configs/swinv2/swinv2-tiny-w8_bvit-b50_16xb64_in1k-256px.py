"""Swin V2-T with windows of 8 for 50 % of the full cost; the planner chooses the schedule."""

_base_ = ['./swinv2-tiny-w8_bvit-b100_16xb64_in1k-256px.py']

train_cfg = dict(budget=0.50)
