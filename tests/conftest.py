# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Set-up of the suite."""

import torch

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other
