"""Table 2 (3.1): Pick-a-Pic v2, tested apart on what v1 trained on (leakage) and the rest; see `pal.paper._pickapic`.

What is trained on v1, PickScore included, has seen the pictures of the leakage part: its accuracy there is inflated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper import _pickapic_tables as common
from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._pickapic import missing, source_here
from pal.paper._pickapic import run as run_pickapic

__all__ = ["EXPERIMENT"]

K = (1,)  # "using PAL with K = 1, we surpass existing SoTA (Table 2)"
CLEAN, LEAKED = "test, no leakage", "test, leakage"
PUBLISHED: common.Published = {
    ("zero-shot", "clip-h14", ""): {CLEAN: (0.6257, 0.0), LEAKED: (0.5859, 0.0)},
    ("zero-shot", "pickscore", ""): {CLEAN: (0.6804, 0.0), LEAKED: (0.7416, 0.0)},
    ("b", "clip-h14", "v1"): {CLEAN: (0.7002, 0.0039), LEAKED: (0.7932, 0.0168)},
    ("b", "clip-h14", "v2"): {CLEAN: (0.7051, 0.0022), LEAKED: (0.6867, 0.0051)},
    ("b", "pickscore", "v2"): {CLEAN: (0.7016, 0.0019), LEAKED: (0.7479, 0.0013)},
}
SHOWN = ((CLEAN, "accuracy"), (CLEAN, "with_ties"), (LEAKED, "accuracy"), (LEAKED, "with_ties"))


def cells(scale: str, seeds: int) -> list[Cell]:
    """The settings of every row; none where the data are not here."""
    return common.cells(scale, seeds, source_here(scale, "v1", "v2"), "v2", list(PUBLISHED), K)


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measures them."""
    return run_pickapic(todo)


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's numbers beside ours."""
    return common.lines(rows, PUBLISHED, SHOWN)


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy of each row on both parts."""
    title = "Pick-a-Pic v2: what v1 trained on flatters what is trained on v1"
    return common.draw(rows, folder / "table-2.png", PUBLISHED, (CLEAN, LEAKED), title)


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = common.checks(rows, CLEAN)
    for row in rows[:1]:
        for part in (CLEAN, LEAKED):
            n = row["parts"].get(part, {}).get("n", 0)
            found.append(Check(f"answers: {part}", n, "at least 50", n >= 50))
    return found


EXPERIMENT = Experiment(
    name="table-2",
    what="Pick-a-Pic v2 with and without leakage from v1: zero-shot rewards, model B trained on v1 or v2",
    data="yuvalkirstain/pickapic_v1 and _v2 and embeddings; small: generated pictures and vectors",
    minutes={"small": 0.1, "paper": 4000.0},  # paper: estimated from an epoch on 12,000 answers, not run
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
    missing=lambda scale: None if scale == "small" else missing("v1", "v2"),
)
