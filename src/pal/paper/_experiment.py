"""What an experiment of the paper is: its settings as plain cells, how to run them, its table, pictures and checks."""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "SCALES", "Cell", "Check", "Experiment", "Row"]

SCALES = ("small", "paper")
FOLDER: ContextVar[Path] = ContextVar("FOLDER")  # where results are written, for what is said about other results

Cell = dict[str, Any]  # plain settings of one row, JSON-able: what its result is cached by
Row = dict[str, Any]  # {**cell, **result}


@dataclass(frozen=True)
class Check:
    """A loose bound that would catch a broken method, as K = K* beating K = 1 by the margin it should.

    Attributes:
        name: what is bounded.
        seen: the number seen.
        wanted: the bound, in words.
        ok: whether it holds.
    """

    name: str
    seen: float
    wanted: str
    ok: bool


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of the paper.

    Attributes:
        name: as in the paper, "figure-4".
        what: one line.
        data: "simulated", or what must be there (skipped with a reason where absent).
        minutes: measured on 2 cores, by scale.
        cells: (scale, seeds) -> the settings of every row.
        run: cells not done yet -> (cell, result) as each is done; may train many at once.
        table: rows -> the paper's number beside ours, with a verdict in words.
        figures: (rows, folder) -> the PNGs drawn there.
        checks: rows -> loose bounds.
        missing: scale -> why it cannot run here, or None.
    """

    name: str
    what: str
    data: str
    minutes: Mapping[str, float]
    cells: Callable[[str, int], list[Cell]]
    run: Callable[[list[Cell]], Iterator[tuple[Cell, dict[str, Any]]]]
    table: Callable[[list[Row]], list[dict[str, Any]]]
    figures: Callable[[list[Row], Path], list[Path]]
    checks: Callable[[list[Row]], list[Check]]
    missing: Callable[[str], str | None] = lambda _scale: None
