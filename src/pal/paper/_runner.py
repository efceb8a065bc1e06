"""Runs experiments: each cell's result is a small file of its own, so that a killed run goes on where it was."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pal.errors import InputError, MissingExtraError
from pal.paper import EXPERIMENTS, experiment
from pal.paper._experiment import FOLDER, SCALES, Cell, Experiment, Row
from pal.paper._machine import PeakMemory, commit, machine

__all__ = ["SEEDS", "listing", "reproduce", "show"]

SEEDS = {"small": 1, "paper": 5}
CELLS = "cells"  # folder of the cached results

Progress = Callable[[str, int, int], None]  # (experiment, cells done, cells in all)


def reproduce(
    names: Iterable[str] = (),
    scale: str = "small",
    seeds: int | None = None,
    out: str | Path = "paper",
    progress: Progress = lambda _name, _done, _total: None,
) -> list[dict[str, Any]]:
    """Runs experiments of the paper, and writes OUT/NAME.json and PNGs for each.

    Args:
        names: of experiments; none: all of them.
        scale: "small" (minutes, bounds that would catch a broken method) or "paper".
        seeds: data sets and starts of each setting; None: 1 if small, else 5.
        out: folder. Its `cells` keep the result of each cell, and are taken up by the next call.
        progress: told of each cell that is done.

    Returns:
        What was written: of each experiment rows, table, checks, command, seeds, commit, seconds and peak memory, or
        why it was skipped.

    Raises:
        InputError: a name, a scale or a number of seeds that there is not.
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("pal reproduce", "report")
    chosen = [experiment(name) for name in names] or [experiment(name) for name in EXPERIMENTS]
    seeds = _checked(scale, seeds)
    folder = Path(out)
    token = FOLDER.set(folder)
    try:
        return [_run(one, scale, seeds, folder, progress) for one in chosen]
    finally:
        FOLDER.reset(token)


def listing(scale: str = "small", seeds: int | None = None, out: str | Path = "paper") -> list[dict[str, Any]]:
    """Name, what, data, minutes and done (all cells are there) of each experiment.

    Raises:
        InputError: a scale or a number of seeds that there is not.
    """
    seeds, folder, rows = _checked(scale, seeds), Path(out), []
    token = FOLDER.set(folder)
    try:
        for name in EXPERIMENTS:
            one = experiment(name)
            paths = [_path(folder, name, cell) for cell in one.cells(scale, seeds)]
            done = bool(paths) and all(path.exists() for path in paths)
            rows.append({"name": name, "what": one.what, "data": one.data, "minutes": dict(one.minutes), "done": done})
    finally:
        FOLDER.reset(token)
    return rows


def _checked(scale: str, seeds: int | None) -> int:
    if scale not in SCALES:
        raise InputError(f"scale {scale!r} is not known: use {' or '.join(SCALES)}")
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be at least 1, found {seeds}")
    return SEEDS[scale] if seeds is None else seeds


def _run(one: Experiment, scale: str, seeds: int, folder: Path, progress: Progress) -> dict[str, Any]:
    record: dict[str, Any] = {"name": one.name, "what": one.what, "data": one.data, "scale": scale, "seeds": seeds}
    reason = one.missing(scale)
    if reason is not None:
        return {**record, "skipped": reason}
    peak = PeakMemory()
    cells = one.cells(scale, seeds)
    done = {_key(one.name, cell): read for cell in cells if (read := _read(_path(folder, one.name, cell), cell))}
    missing = [cell for cell in cells if _key(one.name, cell) not in done]
    progress(one.name, len(done), len(cells))
    for cell, result, seconds in _timed(one.run(missing) if missing else iter(())):
        saved = {"cell": cell, "result": result, "seconds": seconds, "peak_mib": peak.mib()}
        # as a machine would read it back, so that a resumed run has the same rows
        done[_key(one.name, cell)] = json.loads(_write(_path(folder, one.name, cell), saved))
        progress(one.name, len(done), len(cells))
    kept = [done[_key(one.name, cell)] for cell in cells]
    rows: list[Row] = [{**saved["cell"], **saved["result"]} for saved in kept]
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    record |= {
        "checks": [asdict(check) for check in one.checks(rows)],
        "table": one.table(rows),
        "figures": [path.name for path in one.figures(rows, folder)],
        "command": f"pal reproduce {one.name} --scale {scale} --seeds {seeds}",
        "commit": commit(),
        "machine": machine(),
        "cells": len(cells),
        "seconds": round(sum(saved["seconds"] for saved in kept) + time.perf_counter() - began, 2),
        "peak_mib": max([peak.mib(), *(saved["peak_mib"] for saved in kept)]),
        "rows": rows,
    }
    _write(folder / f"{one.name}.json", record)
    return record


def _timed(results: Iterator[tuple[Cell, dict[str, Any]]]) -> Iterator[tuple[Cell, dict[str, Any], float]]:
    """Results with the seconds since the one before."""
    while True:
        began = time.perf_counter()
        try:
            cell, result = next(results)
        except StopIteration:
            return
        yield cell, result, time.perf_counter() - began


def _key(name: str, cell: Cell) -> str:
    text = json.dumps([name, cell], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _path(folder: Path, name: str, cell: Cell) -> Path:
    return folder / CELLS / name / f"{_key(name, cell)}.json"


def _read(path: Path, cell: Cell) -> dict[str, Any] | None:
    """A cached cell, or None where there is none or it is damaged."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(saved, dict) and {"cell", "result", "seconds", "peak_mib"} <= saved.keys()
    return saved if complete and saved["cell"] == json.loads(json.dumps(cell)) else None


def _write(path: Path, value: dict[str, Any]) -> str:
    """Writes JSON; a kill leaves the old file or the new one."""
    # rows one a line: a table that git can compare
    rows = value.pop("rows", None)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    if rows is not None:
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        text = text[: text.rindex("\n")] + f',\n "rows": [\n  {lines}\n ]\n}}\n'
        value["rows"] = rows
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return text


def show(name: str, done: int, total: int) -> None:
    """Progress as one line on stderr, where that is a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{name}: {done} of {total} cells", end=end, file=sys.stderr, flush=True)  # noqa: T201 - progress
