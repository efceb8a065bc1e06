"""What tables 1 and 2 have in common: lines with verdicts, a picture, checks."""

from pathlib import Path
from typing import Any

import numpy as np

from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Cell, Check, Row
from pal.paper._pickapic import SPACES

__all__ = ["Published", "cells", "checks", "draw", "groups", "lines", "mean_of", "name_of"]

SAME = 0.015  # a difference from the paper's accuracy that is called none
TIES = {"accuracy": "", "with_ties": ", with ties"}  # measure -> what a heading says of it

Key = tuple[str, str, str]  # model, space, version it is trained on
# the paper's mean and half-width, by row and part of the test
Published = dict[Key, dict[str, tuple[float, float]]]


def cells(scale: str, seeds: int, source: str | None, test: str, keys: list[Key], ks: tuple[int, ...]) -> list[Cell]:
    """A row for each model, K and seed; zero-shot rewards have neither. None where the data are not here."""
    rows: list[Cell] = []
    if source is None:
        return rows
    for model, space, train in keys:
        base: Cell = {"source": source, "model": model, "space": space, "train": train, "test": test}
        if model == "zero-shot":
            rows.append({**base, "k": 0, "settings": "", "seed": 0})
            continue
        settings = "small" if scale == "small" else "paper"
        rows += [{**base, "k": k, "settings": settings, "seed": seed} for k in ks for seed in range(seeds)]
    return rows


def groups(rows: list[Row]) -> dict[tuple[Key, int], list[Row]]:
    """(row of the table, K) -> rows of the seeds."""
    found: dict[tuple[Key, int], list[Row]] = {}
    for row in rows:
        found.setdefault(((row["model"], row["space"], row["train"]), row["k"]), []).append(row)
    return found


def name_of(row: Row) -> str:
    """A row as the tables call it, such as "model B (CLIP-H14), K = 1"."""
    space = SPACES[row["space"]]
    if row["source"] == "generated" and row["space"] != "encoders":
        space = f"generated {space}"
    return space if row["model"] == "zero-shot" else f"model {row['model'].upper()} ({space}), K = {row['k']}"


def mean_of(group: list[Row], part: str, measure: str = "accuracy") -> tuple[float, float]:
    """Mean over seeds and its standard deviation (0 with one seed); NaN where nothing was decided in the part."""
    values = np.array([row["parts"].get(part, {}).get(measure, np.nan) for row in group])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def lines(rows: list[Row], published: Published, shown: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """A line for each model and K.

    Args:
        rows: of the experiment.
        published: the paper's numbers.
        shown: (part, measure) of each column.
    """
    table = []
    for (key, _), group in groups(rows).items():
        line: dict[str, Any] = {"model": name_of(group[0]), "trained on": key[2] or "-"}
        theirs = published.get(key, {}) if group[0]["source"] == "hub" else {}
        for part, measure in shown:
            if measure == "accuracy" and any(part in numbers for numbers in published.values()):
                line[f"{part} (paper)"] = _written(*theirs[part]) if part in theirs else "-"
            line[part + TIES[measure]] = _written(*mean_of(group, part, measure))
        parts = dict.fromkeys(part for part, _ in shown)
        line["answers"] = ", ".join(str(group[0]["parts"].get(part, {}).get("n", 0)) for part in parts)
        line["verdict"] = _verdict(group, theirs)
        table.append(line)
    return table


def _written(mean: float, half: float) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * half:.2f}" if half else "")


def _verdict(group: list[Row], theirs: dict[str, tuple[float, float]]) -> str:
    if group[0]["source"] == "generated":
        return "the path, not the data"
    apart = {part: mean_of(group, part)[0] - mean for part, (mean, _) in theirs.items()}
    far = [f"{part}: {gap:+.3f}" for part, gap in apart.items() if abs(gap) > SAME]
    return f"unlike the paper: {', '.join(far)}" if far else "as in the paper" if apart else "not in the paper"


def draw(rows: list[Row], path: Path, published: Published, parts: tuple[str, ...], title: str) -> list[Path]:
    """Accuracy of each row, a panel for each part of the test, the paper's beside it where the data are the paper's.

    Args:
        rows: of the experiment.
        path: of the PNG.
        published: the paper's numbers.
        parts: of the test.
        title: says the finding.
    """
    if not rows:
        return []
    kept = list(groups(rows).items())
    names = [
        name_of(group[0]).replace(", K", "\nK") + (key[2] and f", trained on {key[2]}") for (key, _), group in kept
    ]
    generated = rows[0]["source"] == "generated"
    title = "Generated pictures: the path, not the data" if generated else title
    with panels(path, title, 1, len(parts), 8.0 if len(parts) == 1 else 5.4, 0.8 + 0.5 * len(kept)) as axes:
        for number, (ax, part) in enumerate(zip(axes[0], parts, strict=True)):
            said: set[str] = set()
            for place, ((key, _), group) in enumerate(kept):
                mean, half = mean_of(group, part)
                what = "zero-shot" if key[0] == "zero-shot" else "trained here"
                style = {"color": COLOURS[what != "zero-shot"], "marker": MARKERS[what != "zero-shot"], "capsize": 2}
                label = "" if what in said else what
                ax.errorbar(100 * mean, place, xerr=100 * half or None, linestyle="none", label=label, **style)
                said.add(what)
                if not generated and part in published.get(key, {}):
                    label = "" if "paper" in said else "the paper"
                    ax.plot(100 * published[key][part][0], place, "D", color="black", mfc="none", ms=8, label=label)
                    said.add("paper")
            ax.set_yticks(range(len(kept)), names if number == 0 else [""] * len(kept))
            ax.set_ylim(len(kept) - 0.5, -0.5)
            ax.set_xlabel("accuracy on decided answers (%)")
            ax.set_title(part)
        low, high = (pick(ax.get_xlim()[side] for ax in axes[0]) for side, pick in ((0, min), (1, max)))
        for ax in axes[0]:
            ax.set_xlim(low, high)
        axes[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return [path]


def checks(rows: list[Row], part: str) -> list[Check]:
    """Bounds that a broken method would miss: all beat chance, model B the zero-shot reward of the space it sees."""
    found = []
    by_row = groups(rows)
    zero = {key[1]: mean_of(group, part)[0] for (key, _), group in by_row.items() if key[0] == "zero-shot"}
    for (key, _), group in by_row.items():
        name, mean = name_of(group[0]), mean_of(group, part)[0]
        if key[0] == "zero-shot":
            found.append(Check(f"{name}: {part}", mean, "at least 0.52", mean >= 0.52))
        elif key[:2] == ("b", "clip-h14"):
            gain = mean - zero[key[1]]
            found.append(
                Check(f"{name}, trained on {key[2]}, over zero-shot: {part}", gain, "at least 0.02", gain >= 0.02)
            )
        else:
            found.append(Check(f"{name}: {part}", mean, "at least 0.55", mean >= 0.55))
    return found
