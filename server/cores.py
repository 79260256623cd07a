"""How many threads one run of a model can use here: the processor's cores, within what a container may have of them."""

from __future__ import annotations

import os
from pathlib import Path

_SYSTEM = Path("/sys")


def usable_cores(system: Path = _SYSTEM) -> int:
    """Physical cores that this process may run on, and no more than the container's CPU quota pays for; 1 at least.

    Two threads of one core share its multipliers, so that a second one gains nothing here; and threads beyond the quota are stopped
    together with the others for the rest of each period.

    Args:
        system: Where the kernel's sysfs is.
    """
    cores = {_core(system / f"devices/system/cpu/cpu{cpu}/topology", cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), int(_quota(system / "fs/cgroup"))))


def _core(topology: Path, cpu: int) -> tuple[str, str]:
    """What tells one physical core from another; the logical one's number where the kernel does not say."""
    try:
        return (topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip()
    except OSError:
        return "", str(cpu)


def _quota(cgroup: Path) -> float:
    """CPU time per time, as cgroup v2 or v1 limits it; infinite where neither does. In a container these files are its own."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return 1e9
    return 1e9 if quota in ("max", "-1") else int(quota) / int(period)
