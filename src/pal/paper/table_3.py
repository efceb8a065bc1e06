"""Table 3 (appendix D): samples in each split of Pick-a-Filter, as the builder makes them of simulated answers.

Who answers how often is simulated (`pal.paper._pick_a_filter_source`), from what the appendix says of Pick-a-Pic's
users; what is checked is that the builder's steps lead from there to the paper's splits. No pictures are needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pal.paper._experiment import Cell, Check, Experiment, Row
from pal.paper._pick_a_filter import PickAFilter, build
from pal.paper._pick_a_filter_source import simulated

__all__ = ["EXPERIMENT", "built"]

SETTINGS = {"small": {"users": 24, "seen": 10}, "paper": {"users": 234, "seen": 50}}
BETA = 0.5
# (group, seen) -> train, validation, test
PUBLISHED = {
    (1, True): (58831, 628, 1597),
    (1, False): (9527, 79, 1886),
    (2, True): (57200, 404, 2096),
    (2, False): (9402, 52, 1812),
}


def cells(scale: str, seeds: int) -> list[Cell]:  # noqa: ARG001 - one table
    """One row: the counts of a data set."""
    return [{**SETTINGS[scale], "seed": 0}]


def built(cell: Cell) -> PickAFilter:
    """The data set of a cell, of answers about pictures that nobody looks at."""
    family = np.repeat(np.arange(4), 40)
    answers = simulated(tuple("abcd"), family, np.zeros(len(family)), cell["users"], cell["seed"])
    return build(answers, BETA, cell["seed"], seen=cell["seen"])


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Counts."""
    for cell in todo:
        data = built(cell)
        yield cell, {"steps": data.steps, "counts": data.counts().to_dicts()}


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """The paper's counts beside ours."""
    lines = []
    row = rows[0]
    whole = row["users"] == SETTINGS["paper"]["users"]
    for group in (1, 2):
        for seen in (True, False, None):
            ours = _counts(row, group, seen)
            paper = np.sum([PUBLISHED[group, s] for s in (True, False) if seen in (s, None)], axis=0).tolist()
            ratio = ours[0] / paper[0]
            lines.append(
                {
                    "group": f"{group} ({'cold' if group == 1 else 'warm'})",
                    "users": {True: "seen", False: "unseen", None: "total"}[seen],
                    "n_users": _users(row, group, seen),
                    **dict(zip(("train", "val", "test"), ours, strict=True)),
                    **dict(zip(("train (paper)", "val (paper)", "test (paper)"), paper, strict=True)),
                    "verdict": f"train is {ratio:.2f} of the paper's" if whole else "fewer users than the paper's",
                }
            )
    return lines


def _users(row: Row, group: int, seen: bool | None) -> int:
    """Everybody has answers in train."""
    kept = [c for c in row["counts"] if c["group"] == group and c["split"] == "train" and seen in (c["seen"], None)]
    return sum(c["users"] for c in kept)


def _counts(row: Row, group: int, seen: bool | None) -> list[int]:
    kept = [count for count in row["counts"] if count["group"] == group and seen in (count["seen"], None)]
    return [sum(c["n"] for c in kept if c["split"] == split) for split in ("train", "validation", "test")]


def figures(rows: list[Row], folder: Path) -> list[Path]:  # noqa: ARG001 - a table has none
    """None."""
    return []


def checks(rows: list[Row]) -> list[Check]:
    """Appendix D's numbers of users, and shares that hold whatever the counts."""
    row = rows[0]
    both, counts = row["steps"]["users in train and test"], row["counts"]
    filtered = sum(c["filtered"] for c in counts)
    share, half = filtered / sum(c["n"] for c in counts), sum(c["winner"] for c in counts) / filtered
    users = [_users(row, group, None) for group in (1, 2)]
    found = [
        Check("users in train and test", float(both), f"{2 * row['users']}", both == 2 * row["users"]),
        Check("users of group 1 over group 2", users[0] / users[1], "1", users[0] == users[1] == row["users"] // 2),
        Check("share filtered", share, f"{BETA} to within .01", abs(share - BETA) < 0.01),
        Check("winners among filtered", half, "half to within .01", abs(half - 0.5) < 0.01),
    ]
    if row["users"] == SETTINGS["paper"]["users"]:
        for (group, seen), published in PUBLISHED.items():
            ratio = _counts(row, group, seen)[0] / published[0]
            name = f"group {group}, {'seen' if seen else 'unseen'}: train over the paper's"
            found.append(Check(name, ratio, "from .7 to 1.3", 0.7 <= ratio <= 1.3))
    return found


EXPERIMENT = Experiment(
    name="table-3",
    what="Pick-a-Filter: samples in each split, as the builder makes them",
    data="simulated answers in the shape of Pick-a-Pic v1; no pictures",
    minutes={"small": 0.01, "paper": 0.1},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
