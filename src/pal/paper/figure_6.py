"""Figure 6 (E.2.2): accuracy on Pick-a-Filter against the mixture ratio; see `pal.paper._pick_a_filter_runs`.

Of the figure's curves the text gives the ends at a ratio of 1: 95.2% for PAL, 75.4% for the homogeneous reward model.
"""

from pathlib import Path
from typing import Any

from pal.paper import _pick_a_filter_runs as common
from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Check, Experiment, Row

__all__ = ["EXPERIMENT"]

PUBLISHED = {1.0: {"k1": 0.754, "k2": 0.952}}
CURVES = {"k1": "K = 1", "k2": "K = 2", "baseline": "encoder baseline", "best": "best possible"}
UNSEEN = {"k1_unseen": "K = 1", "k2_unseen": "K = 2, no answers", "k2_adapted": "K = 2, after their training answers"}
CLEAR = 0.1  # gain called clear


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """A line for each mixture ratio."""
    lines = []
    for beta, group in common.by_beta(rows).items():
        line: dict[str, Any] = {"data": common.data_of(group), "beta": beta}
        for measure, name in CURVES.items():
            line[name] = _written(group, measure)
            if measure in ("k1", "k2"):
                paper = PUBLISHED.get(beta, {}).get(measure)
                line[f"{name} (paper)"] = "-" if paper is None else f"{100 * paper:.1f}"
        line |= {f"unseen: {name}": _written(group, measure) for measure, name in UNSEEN.items()}
        lines.append({**line, "verdict": _verdict(beta, group)})
    return lines or [{"verdict": f"skipped: {common.ABSENT}"}]


def _written(group: list[Row], measure: str) -> str:
    mean, error = common.mean_of(group, measure)
    return f"{100 * mean:.1f}" + (f" ± {100 * error:.1f}" if error else "")


def _verdict(beta: float, group: list[Row]) -> str:
    gain = common.mean_of(group, "k2")[0] - common.mean_of(group, "k1")[0]
    if beta == 0:
        return f"nothing to personalise: K = 2 is {100 * gain:+.1f} from K = 1"
    if gain >= CLEAR:
        return f"holds: K = 2 is {100 * gain:+.1f} from K = 1" + (" (paper: +19.8)" if beta == 1 else "")
    return f"K = 2 is {100 * gain:+.1f} from K = 1"


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy against the mixture ratio, for seen and for unseen users."""
    if not rows:
        return []
    path = folder / "figure-6.png"
    title = "Pick-a-Filter: the more pairs are filtered, the more two prototypes gain on one"
    groups = common.by_beta(rows)
    with panels(path, title, 1, 2, width=5.2, height=3.8) as axes:
        for ax, curves, name in zip(
            axes[0], (CURVES, UNSEEN), ("users seen in training", "users never seen"), strict=True
        ):
            for number, (measure, label) in enumerate(curves.items()):
                means, errors = zip(*(common.mean_of(group, measure) for group in groups.values()), strict=True)
                ax.errorbar(
                    list(groups),
                    [100 * mean for mean in means],
                    [100 * error for error in errors],
                    color="#777777" if measure == "best" else COLOURS[number],
                    linestyle="--" if measure in ("best", "k2_unseen") else "-",
                    marker="" if measure == "best" else MARKERS[number],
                    capsize=2,
                    label=label,
                )
            ax.set_title(f"{name} (mean over seeds ± standard error)")
            ax.set_xlabel("β, share of filtered pairs")
            ax.set_ylabel("test accuracy (%)")
            ax.set_ylim(45, 102)
        for number, measure in enumerate(PUBLISHED[1.0]):
            axes[0][0].plot(
                [1.0],
                [100 * PUBLISHED[1.0][measure]],
                linestyle="",
                marker=MARKERS[number],
                color=COLOURS[number],
                markerfacecolor="white",
                markersize=8,
                label=f"{CURVES[measure]} (paper, on Pick-a-Pic)",
            )
        for ax in axes[0]:
            ax.legend(loc="upper left", fontsize=8)
    return [path]


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = []
    for beta, group in common.by_beta(rows).items():
        one, two, new = (common.mean_of(group, name)[0] for name in ("k1", "k2", "k2_adapted"))
        least = 0.15 if beta >= 0.75 else 0.02 if beta >= 0.25 else -0.03
        found.append(_at_least(f"beta = {beta:g}: K = 2 over K = 1", two - one, least))
        if beta >= 0.5:
            found.append(_at_least(f"beta = {beta:g}: unseen users adapted, over K = 1", new - one, least / 2))
    return found


def _at_least(name: str, seen: float, least: float) -> Check:
    return Check(name, seen, f"at least {least}", seen >= least)


EXPERIMENT = Experiment(
    name="figure-6",
    what="Pick-a-Filter: accuracy of K = 1 and K = 2 against the share of filtered pairs",
    data="crops of the photographs that 'make photographs' brings; small: generated pictures",
    minutes={"small": 0.5, "paper": 20.0},
    cells=common.cells,
    run=common.run,
    table=table,
    figures=figures,
    checks=checks,
    missing=common.missing,
)
