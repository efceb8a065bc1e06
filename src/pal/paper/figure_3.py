"""Figure 3 (appendix D): how Pick-a-Filter is made, with the counts of a data set made here.

The squares are drawn: a gradient as it is, and blended with the colours that `painted` uses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pal.paper import table_3
from pal.paper._drawing import COLOURS as LINES
from pal.paper._drawing import panels
from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._pick_a_filter import COLOURS, STRENGTH

__all__ = ["EXPERIMENT"]


def cells(scale: str, seeds: int) -> list[Cell]:
    """One picture: that of table 3's data set."""
    return [{**cell, "beta": table_3.BETA} for cell in table_3.cells(scale, seeds)]


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Counts of each step, and of painted winners and losers in each group."""
    for cell in todo:
        data = table_3.built(cell)
        groups = []
        for group in (0, 1):
            mine = data.group == group
            painted = mine & data.filtered
            groups.append(
                {
                    "answers": int(mine.sum()),
                    "untouched": int((mine & ~data.filtered).sum()),
                    "winner": int((painted & data.winner).sum()),
                    "loser": int((painted & ~data.winner).sum()),
                }
            )
        yield cell, {"steps": data.steps, "groups": groups}


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The steps in words, with their counts."""
    row = rows[0]
    steps, groups = row["steps"], row["groups"]
    users = next(name for name in steps if name.startswith("users with more"))
    made = {
        "answers without ties": ("about 100,000 (caption), 134,960 in train (Table 3)", "answers without ties"),
        "users in train and test": ("468", "users in train and test"),
        users: ("234", users),
        "users in each group": ("117", "users in each group"),
        "users seen": ("50", "users seen"),
    }
    lines = [{"step": name, "paper": paper, "here": str(steps[key])} for name, (paper, key) in made.items()]
    for name, group in zip(COLOURS, groups, strict=True):
        here = f"{group['winner']} winners, {group['loser']} losers, {group['untouched']} pairs untouched"
        lines.append(
            {"step": f"pictures painted for the {name} group, beta = {row['beta']}", "paper": "half and half"}
            | {"here": here}
        )
    return lines


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """The diagram."""
    row = rows[0]
    path = folder / "figure-3.png"
    title = f"How Pick-a-Filter is made (counts of simulated answers, β = {row['beta']:g})"
    with panels(path, title, 1, 1, width=10.4, height=5.6) as axes:
        ax = axes[0][0]
        ax.set_axis_off()
        ax.set_xlim(0, 104)
        ax.set_ylim(0, 56)
        steps = row["steps"]
        enough = next(name for name in steps if name.startswith("users with more"))
        kept = [
            f"{steps['answers']:,} answers\nof {steps['users']:,} users",
            f"no ties:\n{steps['answers without ties']:,}",
            f"users in train\nand test:\n{steps['users in train and test']:,}",
            f"{enough.removeprefix('users ')}:\n{steps[enough]:,}",
        ]
        for number, text in enumerate(kept):
            _box(ax, 12 + 26 * number, 49, text)
            if number:
                _arrow(ax, (26 * number - 4, 49), (26 * number + 1.5, 49))
        ax.plot([90, 90, 2, 2], [45, 42, 42, 11], color="#777777", linewidth=1.4)
        for number, (name, group) in enumerate(zip(COLOURS, row["groups"], strict=True)):
            y, other = 31 - 20 * number, list(COLOURS)[1 - number]
            seen = (steps["users seen"] + 1 - number) // 2
            said = f"group {number + 1}: {name}\n{steps['users in each group']} users, {seen} seen\n"
            _arrow(ax, (2, y), (7, y))
            _box(ax, 15, y, said + f"{group['answers']:,} answers", LINES[number])
            for place, (what, left, right) in enumerate(
                (
                    (f"winner {name}: {group['winner']:,}", name, ""),
                    (f"loser {other}: {group['loser']:,}", "", other),
                    (f"untouched: {group['untouched']:,}", "", ""),
                )
            ):
                x = 30 + 26 * place
                _square(ax, x, y, left)
                _square(ax, x + 12, y, right)
                ax.text(x + 10.5, y + 0.5, ">", ha="center", va="center", fontsize=14)
                ax.text(x + 10.5, y - 5.6, what, ha="center", va="center", fontsize=9.5)
        ax.text(
            52,
            1.2,
            "left of each pair: the preferred picture; each picture is an original, or has one colour blended in",
            ha="center",
            fontsize=9,
            color="#555555",
        )
    return [path]


def _box(ax: Any, x: float, y: float, text: str, colour: str = "#999999") -> None:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#f5f5f5", "edgecolor": colour}
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, bbox=box)


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#777777", "lw": 1.4})


def _square(ax: Any, x: float, y: float, colour: str) -> None:
    """A drawn gradient, 9 wide and 9 high, blended as pictures are."""
    across, down = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 48))
    image = np.stack([0.35 + 0.5 * across, 0.75 - 0.35 * down, 0.3 + 0.45 * (1 - across) * down], axis=-1)
    if colour:
        image = (1 - STRENGTH) * image + STRENGTH * np.array(COLOURS[colour]) / 255
    ax.imshow(image, extent=(x, x + 9, y - 4, y + 5), aspect="auto", interpolation="bilinear", zorder=2)


def checks(rows: list[Row]) -> list[Check]:
    """Half winners, half losers in each group."""
    found = []
    for name, group in zip(COLOURS, rows[0]["groups"], strict=True):
        half = group["winner"] / (group["winner"] + group["loser"])
        found.append(Check(f"{name} group: winners among painted", half, "half to within .01", abs(half - 0.5) < 0.01))
    return found


EXPERIMENT = Experiment(
    name="figure-3",
    what="how Pick-a-Filter is made, with counts",
    data="as table-3; the squares are drawn",
    minutes={"small": 0.02, "paper": 0.1},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
