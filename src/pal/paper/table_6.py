"""Table 6 (E.6): model A on all TL;DR summaries of Stiennon et al., K = 1...10; see `pal.paper._summaries`.

All workers of the training fold are seen; of the validation fold, theirs is seen, that of others unseen. The paper's
"overall" is the mean of both weighted by answers. It compares with a reward model of 1.3B parameters (1.7B in one
sentence): 65.80 ± 2.00.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper import _summaries_tables as common
from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._summaries import run as run_summaries

__all__ = ["EXPERIMENT"]

K = {"small": (1, 2), "paper": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)}
SOME = {"small": (1, 2), "paper": (1, 2, 5, 10)}


def _published(means: str, halves: str) -> dict[int, tuple[float, float]]:
    pairs = zip(means.split(), halves.split(), strict=True)
    return {k: (float(mean) / 100, float(half) / 100) for k, (mean, half) in enumerate(pairs, start=1)}


PUBLISHED: common.Published = {
    "seen": _published(
        "60.85 60.95 60.77 60.81 60.91 60.81 60.71 60.88 60.95 60.93", ".11 .12 .10 .12 .10 .06 .06 .13 .10 .12"
    ),
    "unseen": _published(
        "64.13 64.18 64.04 63.99 64.33 64.11 64.12 64.12 64.07 64.19", ".14 .19 .23 .12 .10 .15 .17 .13 .20 .11"
    ),
    "overall": _published(
        "61.36 61.45 61.28 61.30 61.44 61.32 61.25 61.38 61.43 61.44", ".12 .13 .13 .12 .10 .08 .09 .13 .12 .12"
    ),
}
# ours -> the paper's, whose unseen workers gave some of their answers to learn from ("a train, test split")
MEASURES = {"seen": "seen", "unseen": "", "unseen_adapted": "unseen", "overall_adapted": "overall"}


def cells(scale: str, seeds: int) -> list[Cell]:
    """The settings of every row."""
    return common.cells(scale, seeds, K[scale], SOME[scale])


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Fits them."""
    return run_summaries(todo, few=False)


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's numbers beside ours."""
    return common.lines(rows, PUBLISHED, MEASURES)


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy against K."""
    title = "All workers: real labels hardly need K > 1, labels overwritten by length do"
    return common.draw(rows, folder / "table-6.png", PUBLISHED, MEASURES, title)


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    return common.checks(rows)


EXPERIMENT = Experiment(
    name="table-6",
    what="all workers who compare summaries: seen, unseen and overall accuracy for K = 1...10",
    data="openai/summarize_from_feedback; for real on ../shared/data/ukpconvarg; small: a generated file",
    minutes={"small": 0.1, "paper": 24.0},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
