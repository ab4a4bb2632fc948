"""The machine as far as kernels depend on it: processor, build of torch, free cores, where measurements are kept."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

# Of Linux' flags, those that decide which kernels run.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)


def cache_folder() -> Path:
    """diffgen's folder among the user's caches; it may not be there yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "diffgen"


def processor() -> tuple[str, tuple[str, ...]]:
    """(name, features that matter), as the operating system tells them."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    # Model numbers tell apart what clouds give one name.
    numbers = "-".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({numbers})" if numbers else name, tuple(flag for flag in _FLAGS if flag in flags)


def cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


class Load:
    """How many cores other processes keep busy, between the making of this and `busy`."""

    def __init__(self) -> None:
        self.wall, self.own, self.all = time.monotonic(), time.process_time(), _busy_seconds()

    def busy(self) -> float | None:
        """Cores that others used since; None where the system does not tell, or too little time has passed."""
        wall, now = time.monotonic() - self.wall, _busy_seconds()
        if now is None or self.all is None or wall < 0.05:
            return None
        return max(0.0, (now - self.all - (time.process_time() - self.own)) / wall)


def _busy_seconds() -> float | None:
    """Seconds that all processors have spent on processes, since the start of the system."""
    try:
        user, nice, system = (int(word) for word in Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


def free_cores(load: Load) -> int:
    """Threads to compute with: the cores that others leave, at least one.

    A product is split evenly among the threads and waits for the last, so one thread on a busy core slows all of
    them down; two threads on cores that others use were measured seven times slower than one.
    """
    busy = load.busy()
    return cores() if busy is None else max(1, cores() - round(busy))


def threads_from_environment() -> bool:
    """Whether the user has chosen the number of threads."""
    return any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def fingerprint() -> dict[str, Any]:
    """What measurements hold for: another processor, build of torch or number of threads is measured anew."""
    import torch

    name, features = processor()
    return {
        "processor": name, "features": " ".join(features), "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
    }  # fmt: skip
