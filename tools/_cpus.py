# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How many CPUs a process may keep busy: its affinity, and the quota of its container."""

import math
import os
from pathlib import Path


def usable_cpus() -> int:
    """How many CPUs this process may keep busy, at least 1."""
    return max(1, math.ceil(min(visible_cpus(), cpu_quota())))


def visible_cpus() -> int:
    """How many CPUs this process may run on, whatever its quota of their time."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(
    own: Path = Path('/proc/self/cgroup'), mounted: Path = Path('/sys/fs/cgroup')
) -> float:
    """The CPU time a second that this process' control groups grant it; inf without a limit.

    The limits of all groups above hold as well. A container may be told a path that exists only
    outside of it, and then finds its own limit at the top.

    Args:
        own: Names the groups of the process, as Linux does. Other systems have no such file.
        mounted: Where the files of groups are, of version 1 or 2.
    """
    quotas = [math.inf]
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        top = mounted / 'cpu' if controllers else mounted
        group = top / path.lstrip('/')
        quotas += [_quota_of(each) for each in (group, *group.parents) if each.is_relative_to(top)]
    return min(quotas)


def _quota_of(group: Path) -> float:
    if (group / 'cpu.max').is_file():  # version 2
        quota, period = (group / 'cpu.max').read_text().split()
    elif (group / 'cpu.cfs_quota_us').is_file():
        quota, period = (
            (group / f'cpu.cfs_{name}_us').read_text().strip() for name in ('quota', 'period')
        )
    else:
        return math.inf
    return math.inf if quota in ('max', '-1') else int(quota) / int(period)
