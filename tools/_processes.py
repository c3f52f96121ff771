# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Several processes on a machine without a GPU."""

import torch
from mmengine.config import Config


def connect_cpu_processes(cfg: Config, launcher: str) -> None:
    """Connects the processes of a launcher, where mmengine would look for a GPU for each."""
    if launcher == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')
        cfg.setdefault('model_wrapper_cfg', dict(type='MMDistributedDataParallel'))
        find_unused = cfg.get('find_unused_parameters', False)
        for name, value in (  # as mmengine wraps models
            ('device_ids', None),
            ('broadcast_buffers', False),
            ('find_unused_parameters', find_unused),
        ):
            cfg.model_wrapper_cfg.setdefault(name, value)
