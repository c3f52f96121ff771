# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""On what it was measured."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import mmengine
import torch

from .sizes import Size


def machine(device: str, size: Size) -> Iterator[dict[str, Any]]:
    """One row; its ``gpu`` is None where there is none that torch can use."""
    has_gpu = torch.cuda.is_available()
    found: dict[str, Any] = dict(gpu=None)
    if has_gpu:
        properties = torch.cuda.get_device_properties(0)
        found = dict(
            gpu=properties.name,
            gigabytes=properties.total_memory / 1e9,
            driver=_driver(),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        )
    yield dict(
        **found,
        cores=len(os.sched_getaffinity(0)),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
    )


def _driver() -> str | None:
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.split('\n')[0].strip() or None
