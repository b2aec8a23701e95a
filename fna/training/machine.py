"""What is known of the machine that computes."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def processor() -> str:
    """Name the processor; what Python knows of it may be nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def load() -> float | None:
    """Say how busy the machine is: processes that compute, a minute's mean; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # not on Windows


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
