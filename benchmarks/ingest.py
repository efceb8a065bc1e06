"""Ten million comparisons from parquet to train, validation, test and unseen: seconds and peak memory.

Run `python benchmarks/ingest.py [--rows N] [--users N] [--items N] [--output FILE]`. Each measurement
is a process of its own, since peak memory is that of a process. Beside ours: polars alone counting what
is distinct in every column of the same file. The table is made in a temporary folder, removed at the end.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

PIECE = 1_000_000


def make(path: Path, rows: int, users: int, items: int) -> None:
    """Writes a table of string ids, in pieces so that making it stays small."""
    random = np.random.default_rng(0)
    user_ids = pl.Series([f"user-{i:07d}" for i in range(users)])
    item_ids = pl.Series([f"item {i}" for i in range(items)])
    pieces = []
    for number, start in enumerate(range(0, rows, PIECE)):
        size = min(PIECE, rows - start)
        left = random.integers(0, items, size)
        right = (left + random.integers(1, items, size)) % items
        piece = path.with_name(f"piece-{number}.parquet")
        pl.DataFrame(
            {
                "user_id": user_ids.gather(random.integers(0, users, size)),
                "left_id": item_ids.gather(left),
                "right_id": item_ids.gather(right),
                "label": random.integers(0, 2, size).astype(np.float32),
            }
        ).write_parquet(piece)
        pieces.append(piece)
    pl.scan_parquet(pieces).sink_parquet(path)
    for piece in pieces:
        piece.unlink()


def run(what: str, path: str) -> dict[str, float]:
    """Runs one measurement in this process: seconds of each step, peak memory in GB."""
    times = {}
    if what == "scan":
        start = time.perf_counter()
        names = pl.scan_parquet(path).collect_schema().names()
        pl.scan_parquet(path).select(pl.col(names).n_unique()).collect(engine="streaming")
        times["seconds_scan"] = time.perf_counter() - start
    else:
        from pal.comparisons import Comparisons

        start = time.perf_counter()
        comparisons = Comparisons.read(path)
        times["seconds_read"] = time.perf_counter() - start
        if what != "read":
            start = time.perf_counter()
            parts = comparisons.split(by=what)
            times["seconds_split"] = time.perf_counter() - start
            times["train_rows"] = len(parts.train)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**times, "peak_gb": peak / (2**30 if sys.platform == "darwin" else 2**20)}


def measure(what: str, path: Path) -> dict[str, float]:
    """Runs one measurement in a process of its own."""
    command = [sys.executable, __file__, "--run", what, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def commit() -> str | None:
    """The commit that is measured, None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def main() -> None:
    """Makes the table, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(*arguments.run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.parquet"
        make(path, arguments.rows, arguments.users, arguments.items)
        result = {
            "rows": arguments.rows,
            "users": arguments.users,
            "items": arguments.items,
            "file_gb": path.stat().st_size / 2**30,
            "machine": f"{platform.machine()}, {pl.thread_pool_size()} threads",
            "commit": commit(),
            "polars": pl.__version__,
            **{what: measure(what, path) for what in ("scan", "read", "comparison", "pair", "item")},
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
