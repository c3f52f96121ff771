# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Sets how many threads torch and OpenCV have, and how long they spin: to be imported before both.

OpenMP reads its environment once, when torch loads it. What the user has chosen there stays.
"""

import math
import os
import sys
from collections.abc import Mapping

from _cpus import cpu_quota, visible_cpus

# A thread that waits for another first spins, then sleeps. Waking up costs a small network two to
# three times on a quiet machine. Spinning as long as torch's OpenMP does by itself (300,000 turns,
# some milliseconds) costs it ten to fifty times where other processes need the CPU: the thread
# that is waited for does not run. docs/running.md has the measurement.
SPIN = 10_000
SPIN_NAMES = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME')
THREAD_NAMES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
# mmengine gives OpenCV one thread, and workers that are forked inherit it. Those that are spawned
# would each have a thread for every CPU.
OPENCV_NAME = 'OPENCV_FOR_THREADS_NUM'


def thread_settings(chosen: Mapping[str, str], visible: int, quota: float) -> dict[str, str]:
    """What to add to an environment for threads; nothing that is chosen there.

    Args:
        chosen: The environment.
        visible: On how many CPUs the process may run. torch makes a thread for each core of them
            by itself.
        quota: How many CPUs' time a second it may use; torch does not ask.
    """
    settings = {} if OPENCV_NAME in chosen else {OPENCV_NAME: '1'}
    if not any(name in chosen for name in SPIN_NAMES):
        settings['GOMP_SPINCOUNT'] = str(SPIN)
    if quota < visible and not any(name in chosen for name in THREAD_NAMES):
        settings['OMP_NUM_THREADS'] = str(max(1, math.ceil(quota)))
    return settings


if 'torch' not in sys.modules:  # else it would only be passed on to other processes
    os.environ.update(thread_settings(os.environ, visible_cpus(), cpu_quota()))
