"""What the machine grants this process: the smaller of what is there and what its control group leaves of it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def granted_cores() -> int:
    """Cores this process may use: the smaller of its affinity and its cgroup's quota (v2, then v1), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores(CGROUPS)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _cgroup_cores(root: Path) -> float | None:
    try:
        granted, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        cores = int(granted) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no quota
        return None
    return cores if cores > 0 else None


def granted_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Bytes this process and its children may use: the machine's memory, or the least limit of the cgroups (v2 and
    v1) that it is in, if that is less. Where several servers share the machine nobody knows of the others."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(cgroups, own)])


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    """Of every cgroup from the process's own up to the root. In a container the own path is often the host's, and
    cannot be seen; then the root stands for it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    lines += ["0::/", "0:memory:/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for folder in (inner, *inner.parents):
            try:
                yield int((top / folder / name).read_text())
            except (OSError, ValueError):  # not to be seen from here, or "max": no limit
                continue
