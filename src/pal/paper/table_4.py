"""Table 4 (E.2.3, E.6): model A on TL;DR summaries, ten seen workers against Li et al.; see `pal.paper._summaries`.

Training fold: pairs by supervised models, the ten workers with the most comparisons. Validation fold: theirs is seen,
that of the others unseen, and zero-shot: the population's weights. Li et al.'s individual user model, on a fine-tuned
model of 6B parameters, has 61.72 and 60.65.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper import _summaries_tables as common
from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._summaries import run as run_summaries

__all__ = ["EXPERIMENT"]

K = {"small": (1, 3), "paper": (1, 5, 10)}
PUBLISHED: common.Published = {
    "seen": {1: (0.5928, 0.0014), 5: (0.5966, 0.0009), 10: (0.5951, 0.0012)},
    "unseen": {1: (0.5920, 0.0016), 5: (0.5945, 0.0012), 10: (0.5915, 0.0011)},
}
MEASURES = {"seen": "seen", "unseen": "unseen", "unseen_adapted": ""}  # ours -> the paper's


def cells(scale: str, seeds: int) -> list[Cell]:
    """The settings of every row."""
    return common.cells(scale, seeds, K[scale], K[scale])


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Fits them."""
    return run_summaries(todo, few=True)


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's numbers beside ours."""
    return common.lines(rows, PUBLISHED, MEASURES)


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy against K."""
    title = "Ten workers: real labels gain some from K > 1, labels overwritten by length hang on it"
    return common.draw(rows, folder / "table-4.png", PUBLISHED, MEASURES, title)


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    return common.checks(rows)


EXPERIMENT = Experiment(
    name="table-4",
    what="ten workers who compare summaries: seen and unseen (zero-shot) accuracy for K = 1, 5, 10",
    data="openai/summarize_from_feedback; for real on ../shared/data/ukpconvarg; small: a generated file",
    minutes={"small": 0.1, "paper": 8.0},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
