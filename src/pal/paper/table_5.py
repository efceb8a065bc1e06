"""Table 5 (E.5): the personas of each K*, and what their files hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._statements import MADE, PERSONAS, Statements, source_here

__all__ = ["EXPERIMENT"]

K_STAR = (2, 3, 4, 5, 6)
EACH = {"small": 100, "paper": 1000}
HALF = 500  # statements of a file that its persona agrees with (E.2.1), and as many that it does not


def cells(scale: str, seeds: int) -> list[Cell]:  # noqa: ARG001 - nothing is random
    """A row for each K*."""
    return [{"k_star": k_star, "statements": source_here(), "each": EACH[scale]} for k_star in K_STAR]


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Counts statements, and answers of everybody to everything."""
    for cell in todo:
        statements = Statements.of(cell["k_star"], "own", cell["statements"], cell["each"])
        says = statements.says
        yield (
            cell,
            {
                "n_statements": says.shape[1],
                "said_by": [int(count) for count in says.sum(1)],
                "said_by_several": int((says.sum(0) > 1).sum()),
                "always_no": float(1 - says.mean()),
            },
        )


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's row beside what is here."""
    lines = []
    for row in sorted(rows, key=lambda row: int(row["k_star"])):
        k_star, each = row["k_star"], row["each"]
        whole = row["n_statements"] == k_star * each and row["said_by"] == [each // 2] * k_star
        personas = ", ".join(f"interest in {name}" for name in PERSONAS[:k_star])
        cut = "" if each == 2 * HALF else f", the first {each} statements of each"
        lines.append(
            {
                "k_star": k_star,
                "paper": f"{personas}: {HALF} statements that agree with each persona, {HALF} that do not",
                "here": f"{row['n_statements']} distinct statements ({row['statements']}{cut})",
                "said_by": row["said_by"],
                "said_by_several": row["said_by_several"],
                "always_no": round(row["always_no"], 4),
                "verdict": _verdict(whole, row),
            }
        )
    return lines


def _verdict(whole: bool, row: Row) -> str:
    if row["statements"] == MADE:
        return "statements made here: nothing to compare"
    if not whole:
        return "counts differ from the paper's"
    return "as in the paper" if row["each"] == 2 * HALF else "half and half as in the paper, of a part of the files"


def figures(rows: list[Row], folder: Path) -> list[Path]:  # noqa: ARG001 - a table has none
    """None."""
    return []


def checks(rows: list[Row]) -> list[Check]:
    """Half of each persona's statements agree with it."""
    found = []
    for row in rows:
        share = min(row["said_by"]) / row["each"]
        found.append(Check(f"K* = {row['k_star']}: least share said", share, "from .4 to .6", 0.4 <= share <= 0.6))
    return found


EXPERIMENT = Experiment(
    name="table-5",
    what="the personas of each K*, with counts of their statements",
    data=f"../shared/data/persona; statements {MADE} where it is absent",
    minutes={"small": 0.05, "paper": 0.1},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
