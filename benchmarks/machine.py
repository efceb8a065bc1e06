"""What every benchmark writes beside its numbers: the machine, the commit, the command."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pal  # noqa: F401 - before torch: it chooses how torch's threads wait

# isort: split
import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"


def describe() -> dict[str, Any]:
    """Processor, cores, versions, commit and command."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or None,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def write(name: str, result: Any) -> None:
    """Writes benchmarks/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": describe(), "result": _short(result)}, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda flat: " ".join(flat.group().split()), text)  # a list of numbers is one line
    (RESULTS / f"{name}.json").write_text(text + "\n")


def _short(value: Any) -> Any:
    """The same with six significant digits."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
