"""Table 1 (3.1): Pick-a-Pic v1, zero-shot rewards and models A and B on CLIP-H14; see `pal.paper._pickapic`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper import _pickapic_tables as common
from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._pickapic import encoders_here, missing, source_here
from pal.paper._pickapic import run as run_pickapic

__all__ = ["EXPERIMENT"]

K = {"small": (1, 2), "paper": (1,)}
PUBLISHED: common.Published = {
    ("zero-shot", "clip-h14", ""): {"test": (0.5923, 0.0)},
    ("zero-shot", "pickscore", ""): {"test": (0.7185, 0.0)},
    ("a", "clip-h14", "v1"): {"test": (0.6929, 0.0066)},
    ("b", "clip-h14", "v1"): {"test": (0.7113, 0.0031)},
}
# the same path from the pictures themselves, with the encoders that `make setup` installs
ENCODED = ("b", "encoders", "v1")
SHOWN = (("test", "accuracy"), ("test", "with_ties"), ("test_unique", "accuracy"), ("test_unique", "with_ties"))


def cells(scale: str, seeds: int) -> list[Cell]:
    """The settings of every row; none where the data are not here."""
    source = source_here(scale, "v1")
    rows = common.cells(scale, seeds, source, "v1", list(PUBLISHED), K[scale])
    if scale == "small" and encoders_here():
        rows += common.cells(scale, seeds, source, "v1", [ENCODED], (1,))
    return rows


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measures them."""
    return run_pickapic(todo)


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's numbers beside ours."""
    return common.lines(rows, PUBLISHED, SHOWN)


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy of each row."""
    title = "Pick-a-Pic v1: what is trained on CLIP-H14 beats it"
    return common.draw(rows, folder / "table-1.png", PUBLISHED, ("test",), title)


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = common.checks(rows, "test")
    by_k = {k: group for (key, k), group in common.groups(rows).items() if key[:2] == ("b", "clip-h14")}
    if {1, 2} <= by_k.keys():  # generated: two groups of people
        gain = common.mean_of(by_k[2], "test")[0] - common.mean_of(by_k[1], "test")[0]
        found.append(Check("model B, K = 2 over K = 1: test", gain, "at least 0.02", gain >= 0.02))
    return found


EXPERIMENT = Experiment(
    name="table-1",
    what="Pick-a-Pic v1: CLIP-H14 and PickScore zero-shot, models A and B on CLIP-H14",
    data="yuvalkirstain/pickapic_v1 and embeddings; small: generated pictures and vectors",
    minutes={"small": 0.3, "paper": 2000.0},  # paper: estimated from an epoch on 12,000 answers, not run
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
    missing=lambda scale: None if scale == "small" else missing("v1"),
)
