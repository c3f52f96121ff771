# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Several processes on a machine without a GPU."""

import torch
from mmengine.config import Config


def connect_cpu_processes(cfg: Config, launcher: str) -> None:
    """Connects the processes of a launcher, where mmengine would look for a GPU for each."""
    if launcher == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')
        cfg.setdefault('model_wrapper_cfg', dict(type='MMDistributedDataParallel'))
        cfg.model_wrapper_cfg.setdefault('device_ids', None)
