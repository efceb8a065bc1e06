"""Appendix G: what the experiments cost here, beside the paper's four graphics cards."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper import EXPERIMENTS
from pal.paper._drawing import COLOURS, panels
from pal.paper._experiment import FOLDER, Cell, Check, Experiment, Row

__all__ = ["EXPERIMENT"]

PAPER_MINUTES, PAPER_GIB = 120.0, 16.0  # "a typical experiment ... within 2 hours", "RAM and VRAM ... less than 16 GB"


def cells(scale: str, seeds: int) -> list[Cell]:
    """A cell an experiment that was run in the same folder at the same scale, with any number of seeds: its cost."""
    del seeds
    found = []
    for name in EXPERIMENTS:
        try:
            record = json.loads((FOLDER.get() / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if name != "appendix-g" and record["scale"] == scale:
            costs = {key: record[key] for key in ("seeds", "cells", "seconds", "peak_mib")}
            found.append({"experiment": name, "scale": scale, "cores": record["machine"]["cores"], **costs})
    return found


def run(missing: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The costs in the units of the paper."""
    for cell in missing:
        yield cell, {"minutes": cell["seconds"] / 60, "gib": cell["peak_mib"] / 1024}


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """A row an experiment."""
    return [
        {
            "claim": f"cost of {row['experiment']} ({row['cells']} cells, seeds: {row['seeds']})",
            "paper": "a typical experiment: 2 hours on a graphics card (RTX 4090), below 16 GB",
            "ours": f"{row['minutes']:.1f} minutes on {row['cores']} cores, {row['gib']:.2f} GiB",
            "verdict": "holds, without a graphics card"
            if row["minutes"] < PAPER_MINUTES and row["gib"] < PAPER_GIB
            else "costs more",
        }
        for row in rows
    ]


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Minutes and GiB of each experiment."""
    path = folder / "appendix-g.png"
    if not rows:
        return []
    total = sum(row["minutes"] for row in rows)
    title = f"{len(rows)} of the paper's tables and figures in {total:.1f} minutes on {rows[0]['cores']} cores"
    names = [row["experiment"] for row in rows]
    with panels(path, title, 1, 2, width=4.6, height=0.9 + 0.32 * len(rows)) as axes:
        for axis, key, limit, label in (
            (axes[0, 0], "minutes", PAPER_MINUTES, "minutes (line: the paper's typical experiment)"),
            (axes[0, 1], "gib", PAPER_GIB, "peak memory, GiB (line: the paper's bound)"),
        ):
            values = [row[key] for row in rows]
            axis.barh(names, values, color=COLOURS[0], height=0.6)
            for y, value in enumerate(values):
                axis.annotate(f" {value:.2g}", (value, y), va="center", fontsize=8.5)
            axis.axvline(limit, color=COLOURS[1])
            axis.set_xscale("log")
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.set_xlabel(label)
        axes[0, 1].set_yticklabels([])
    return [path]


def checks(rows: list[Row]) -> list[Check]:
    """Each experiment within the paper's two hours."""
    return [
        Check(f"minutes of {row['experiment']}", row["minutes"], "< 120", row["minutes"] < PAPER_MINUTES)
        for row in rows
    ]


def missing(_scale: str) -> str | None:
    """Costs are those of experiments that were run."""
    folder = FOLDER.get()
    if any((folder / f"{name}.json").exists() for name in EXPERIMENTS if name != "appendix-g"):
        return None
    return "no experiment was run in this folder: run some first, or all with 'pal reproduce'"


EXPERIMENT = Experiment(
    name="appendix-g",
    what="Time and memory of the experiments run in the same folder, beside the paper's",
    data="results of the other experiments",
    minutes={"small": 0.0, "paper": 0.0},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
    missing=missing,
)
