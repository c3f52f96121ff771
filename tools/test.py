# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Evaluates a checkpoint: mmpretrain's own ``tools/test.py``, flag for flag."""

from _stock import stock_tool

if __name__ == '__main__':
    stock_tool('test').main()
