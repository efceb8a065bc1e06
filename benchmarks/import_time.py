"""Time of `import pal` beside `import torch`, in fresh processes by turns.

Run `python benchmarks/import_time.py`.
"""

import statistics
import subprocess
import sys
import time

import machine


def seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {"import torch": [], "import pal": []}
    for _ in range(8):
        for statement, found in times.items():
            found.append(seconds(statement))
    median = {statement: statistics.median(found[1:]) for statement, found in times.items()}
    result = {**median, "ratio": median["import pal"] / median["import torch"]}
    print(result)
    machine.write("import_time", result)


if __name__ == "__main__":
    main()
