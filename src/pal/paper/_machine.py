"""What is written beside results: the machine, the commit, the peak of memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["PeakMemory", "commit", "machine"]


class PeakMemory:
    """The peak of this process's memory since this was made; since its start where the system cannot forget it."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
        except OSError:
            return

    def mib(self) -> int:
        """MiB."""
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            import resource

            unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def commit() -> str | None:
    """The commit of this code, "-dirty" where it was changed since; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
