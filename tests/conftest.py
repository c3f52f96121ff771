# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import os

import torch

# The networks are tiny: more threads only wait for each other, here and in what tests start.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'
