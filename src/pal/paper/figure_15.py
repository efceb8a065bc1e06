"""Figure 15 (E.5): one comparison of the persona data, as two people with different personas answer it.

The statement was written for this picture; none of the data is shown.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pal.paper._drawing import COLOURS, panels
from pal.paper._experiment import Cell, Check, Experiment, Row

__all__ = ["EXPERIMENT"]

PROMPT = "Is the following statement something you would say?"
STATEMENT = "“A proof that fits on a napkin makes my whole day.”"
# persona -> the paper's y: +1 is yes, -1 is no
ANSWERS = {"interest in art": -1, "interest in math": 1}


def cells(scale: str, seeds: int) -> list[Cell]:  # noqa: ARG001 - one picture at every scale
    """A row for each person."""
    return [{"persona": name, "statement": STATEMENT} for name in ANSWERS]


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The label by our convention: left is Yes, 1 is left preferred."""
    for cell in todo:
        paper = ANSWERS[cell["persona"]]
        yield cell, {"left": "Yes", "right": "No", "paper_y": paper, "label": (paper + 1) / 2}


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's label beside ours."""
    return [
        {
            "persona": row["persona"],
            "paper": f"y = {row['paper_y']:+d}",
            "here": f"label {row['label']:g}",
            "verdict": "the same answer: label = (y + 1) / 2, left is Yes",
        }
        for row in rows
    ]


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """The question, and the two answers."""
    path = folder / "figure-15.png"
    title = "One question, two personas, two answers: what one reward for all cannot give"
    with panels(path, title, 1, 1, width=8.4, height=2.9) as axes:
        ax = axes[0][0]
        ax.set_axis_off()
        ax.set_xlim(0, 10)
        ax.set_ylim(0, 5)
        box = {"boxstyle": "round,pad=0.6", "facecolor": "#f5f5f5", "edgecolor": "#999999"}
        ax.text(5, 4.1, f"{PROMPT}\n{STATEMENT}", ha="center", va="center", fontsize=11, bbox=box)
        ax.text(2.7, 2.55, "left response: Yes", ha="center", va="center", bbox=box)
        ax.text(7.3, 2.55, "right response: No", ha="center", va="center", bbox=box)
        for number, row in enumerate(sorted(rows, key=lambda row: float(row["label"]), reverse=True)):
            x, colour = 2.7 + 4.6 * number, COLOURS[number]
            ax.annotate(
                "",
                (x, 1.95),
                (x, 1.2),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2},
                annotation_clip=False,
            )
            answer = "Yes" if row["label"] == 1 else "No"
            labels = f"paper: y = {row['paper_y']:+d}, here: label {row['label']:g}"
            said = f"a person with {row['persona']} answers {answer}\n{labels}"
            ax.text(x, 0.65, said, ha="center", va="center", color=colour)
    return [path]


def checks(rows: list[Row]) -> list[Check]:
    """The two disagree."""
    labels = {row["label"] for row in rows}
    return [Check("different answers to one question", float(len(labels)), "2", len(labels) == 2)]


EXPERIMENT = Experiment(
    name="figure-15",
    what="a sample question of the persona data, with a statement written for it",
    data="none",
    minutes={"small": 0.02, "paper": 0.02},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
