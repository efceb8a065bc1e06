"""Figure 4's pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Row
from pal.paper._figure_4_table import gain, select, shown

__all__ = ["figures"]


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """figure-4.png as the paper has it, and figure-4-settings.png: (b) to (d) in every setting of E.3."""
    paths = [folder / "figure-4.png", folder / "figure-4-settings.png"]
    seen, main = select(rows, what="seen"), {"kind": "mixture", "dim": 16}
    facts = shown(rows)
    own = gain(select(seen, per_user=100, **main), facts.middle, recipe="ours")
    title = f"One prototype for each group gains {100 * own:.0f} points on one for all, and new users are found too"
    with panels(paths[0], title, 2, 2, width=5.4, height=4.0) as axes:
        _points(axes[0, 0], _drawn(rows))
        _groups(axes[0, 1], seen, main, recipe=facts.middle)
        _answers(axes[1, 0], seen, main, facts.k_of_c, recipe=facts.middle)
        _unseen(axes[1, 1], select(rows, what="unseen", **main))
        for axis, letter, text in zip(
            axes.flat,
            "abcd",
            (
                "learned ideal points lie on the true ones",
                "accuracy rises up to the true number of groups",
                "several prototypes pay even at 20 answers a user",
                "unseen users reach the seen ones",
            ),
            strict=True,
        ):
            axis.set_title(f"({letter}) {text}")
    settings = sorted({(row["kind"], row["dim"]) for row in seen})
    title = "The same in every setting: people at prototypes or between them, in 2 or 16 dimensions"
    with panels(paths[1], title, 3, len(settings), width=3.6, height=3.0) as axes:
        for column, (kind, dim) in enumerate(settings):
            where = {"kind": kind, "dim": dim}
            _groups(axes[0, column], seen, where)
            _answers(axes[1, column], seen, where, facts.k_of_c)
            _unseen(axes[2, column], select(rows, what="unseen", **where))
            axes[0, column].set_title(f"{kind}, d = {dim}")
            for axis in axes[:, column] if column else ():
                axis.get_legend().remove()
    return paths


def _drawn(rows: list[Row]) -> Row:
    return select(rows, what="points", kind="mixture", picture=True)[0]


def _points(axis: Any, row: Row) -> None:
    items, true, learned = (np.array(row[name]) for name in ("items", "true", "learned"))
    corners = np.array(row["prototypes"])
    axis.scatter(*items.T, s=4, color="#d0d0d0", label="items")
    for a, b in zip(true, learned, strict=True):
        axis.plot(*zip(a, b, strict=True), color="#9a9a9a", linewidth=0.6, zorder=2)
    axis.scatter(*true.T, s=26, facecolors="none", edgecolors=COLOURS[0], linewidths=1.1, label="true", zorder=3)
    axis.scatter(*learned.T, s=9, color=COLOURS[1], label="learned", zorder=4)
    axis.scatter(*corners.T, s=60, marker="X", color="black", label="true prototypes", zorder=5, linewidths=0)
    low, high = np.vstack([true, corners]).min(0), np.vstack([true, corners]).max(0)
    pad = 0.35 * (high - low).max()
    axis.set_xlim(low[0] - pad, high[0] + pad)
    axis.set_ylim(low[1] - pad, high[1] + pad)
    axis.set_aspect("equal", adjustable="box")
    axis.set_xlabel(f"first latent dimension (median error {100 * row['off']:.0f}% of their size)")
    axis.set_ylabel("second latent dimension")
    axis.legend(loc="best", markerscale=1.2, handletextpad=0.2)


def _groups(axis: Any, seen: list[Row], where: dict[str, Any], recipe: int = 0) -> None:
    some = select(seen, per_user=100, **where)
    for i, k_true in enumerate(sorted({row["k_true"] for row in select(some, recipe="ours")})):
        own = [r for r in select(some, k_true=k_true, recipe="ours") if r["n_users"] == _users(some, k_true)]
        _line(axis, own, "k", i, f"K* = {k_true}")
    if recipe:
        _line(axis, select(some, k_true=recipe, recipe="paper"), "k", 6, f"K* = {recipe}, the paper's recipe", "--")
    axis.set_xticks(sorted({row["k"] for row in some}))
    axis.set_xlabel("prototypes K (100 answers a user)")
    _accuracy(axis)


def _users(rows: list[Row], k_true: int) -> int:
    return max(int(row["n_users"]) for row in rows if row["k_true"] == k_true)


def _answers(axis: Any, seen: list[Row], where: dict[str, Any], k_true: int, recipe: int = 0) -> None:
    some = select(seen, k_true=k_true, recipe="ours", **where)
    for i, k in enumerate(sorted({row["k"] for row in some})):
        if len({row["per_user"] for row in select(some, k=k)}) > 1:
            _line(axis, select(some, k=k), "per_user", i, f"K = {k}")
    if recipe:
        theirs = select(seen, k_true=recipe, recipe="paper", **where)
        most = max((row["k"] for row in theirs), default=recipe)
        for style, k in dict(zip(("--", "-.", ":"), sorted({1, recipe, most}), strict=False)).items():
            _line(axis, select(theirs, k=k), "per_user", 6, f"K = {k}, K* = {recipe}, the paper's recipe", style)
    axis.set_xscale("log")
    _plain_ticks(axis, sorted({row["per_user"] for row in some}))
    axis.set_xlabel(f"answers a user (K* = {k_true})")
    _accuracy(axis)


def _unseen(axis: Any, rows: list[Row]) -> None:
    for i, (k, n) in enumerate(
        sorted({(row["k"], row["per_user"]) for row in rows}, key=lambda key: (-key[0], key[1]))
    ):
        some = select(rows, k=k, per_user=n)
        if k == 1 and i > len({row["per_user"] for row in rows}):
            continue  # one prototype knows no difference: one line is enough
        flat = [
            {"answers": a, "accuracy": v}
            for row in some
            for a, v in zip(row["answers"], row["unseen_accuracy"], strict=True)
        ]
        _line(axis, flat, "answers", i, f"K = {k}, {n} answers a seen user")
        if k > 1:
            mean = float(np.mean([row["accuracy"] for row in some]))
            axis.axhline(100 * mean, color=COLOURS[i], linestyle=":", linewidth=1)
    axis.set_xlabel("answers of an unseen user (dotted: seen users)")
    _accuracy(axis)


def _line(axis: Any, rows: list[Row], x: str, colour: int, label: str, style: str = "-") -> None:
    """Means over data sets, and bars of their standard deviation."""
    values = sorted({row[x] for row in rows})
    cells = [[100 * row["accuracy"] for row in rows if row[x] == value] for value in values]
    means, spread = [float(np.mean(c)) for c in cells], [float(np.std(c)) for c in cells]
    axis.errorbar(
        values,
        means,
        yerr=spread,
        color=COLOURS[colour % len(COLOURS)],
        marker=MARKERS[colour % len(MARKERS)],
        linestyle=style,
        elinewidth=0.7,
        label=label,
    )


def _plain_ticks(axis: Any, values: list[int]) -> None:
    kept = [v for v in values if v in (20, 40, 100, 400, 1000)] or values
    axis.set_xticks(kept, [str(v) for v in kept])
    axis.minorticks_off()


def _accuracy(axis: Any) -> None:
    axis.set_ylabel("test accuracy (%)")
    axis.legend(loc="best", fontsize=8)
