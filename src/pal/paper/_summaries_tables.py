"""What tables 4 and 6 have in common: cells, lines with verdicts, a picture, checks."""

from pathlib import Path
from typing import Any

import numpy as np

from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Cell, Check, Row
from pal.paper._summaries import encoder_of, sources_here

__all__ = ["cells", "checks", "draw", "lines", "variants"]

SAME = 0.01  # a difference of accuracies that is called none
NAMES = {"tldr": "TL;DR", "ukpconvarg": "UKPConvArg", "generated": "generated file"}

# the paper's mean (and half-width) of a number of prototypes: {"seen": {K: (mean, +-)}, ...}
Published = dict[str, dict[int, tuple[float, float]]]


def cells(scale: str, seeds: int, ks: tuple[int, ...], some: tuple[int, ...]) -> list[Cell]:
    """Rows: all K on real labels; some on labels by length, with the prompt, and in the paper's settings."""
    small = scale == "small" or not sources_here()
    rows = []
    for source in ["generated"] if small else sources_here():
        encoder = "hashing-256" if small else encoder_of(source)
        for seed in range(seeds):
            base = {"source": source, "encoder": encoder, "seed": seed, "labels": "real", "prompt": "none"}
            base |= {"settings": "ours"}
            rows += [{**base, "k": k} for k in (some if small else ks)]
            rows += [{**base, "labels": "length", "k": k} for k in some]
            if not small:
                rows += [{**base, "prompt": "concatenate", "k": k} for k in some]
                rows += [{**base, "settings": "paper", "k": k} for k in some]
    return rows


def variants(rows: list[Row]) -> dict[tuple[str, str, str, str], dict[int, list[Row]]]:
    """(source, labels, prompt, settings) -> K -> rows of the seeds; real labels first."""
    found: dict[tuple[str, str, str, str], dict[int, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: (row["source"] == "generated", row["labels"] != "real", row["k"])):
        key = (row["source"], row["labels"], row["prompt"], row["settings"])
        found.setdefault(key, {}).setdefault(row["k"], []).append(row)
    return found


def lines(rows: list[Row], published: Published, measures: dict[str, str]) -> list[dict[str, Any]]:
    """A line for each K of each variant; the verdict stands on its last.

    Args:
        rows: of the experiment.
        published: the paper's numbers, by measure.
        measures: ours -> the paper's measure beside it.
    """
    table: list[dict[str, Any]] = []
    for (source, labels, prompt, settings), by_k in variants(rows).items():
        for k, group in by_k.items():
            line = {"data": f"{NAMES[source]}, labels {labels}, prompt {prompt}, settings {settings}", "K": k}
            for ours, paper in measures.items():
                line[ours] = _written(*mean_of(group, ours))
                if paper:
                    there = labels == "real" and k in published[paper]
                    line[f"{ours} (paper)"] = _written(*published[paper][k]) if there else "-"
            line["parameters"] = group[0]["parameters"]
            line["verdict"] = ""
            table.append(line)
        verdict = _verdict(labels, by_k)
        table[-1]["verdict"] = f"the path, not the data: {verdict}" if source == "generated" else verdict
    return table


def _written(mean: float, half: float) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * half:.2f}" if half else "")


def mean_of(group: list[Row], measure: str) -> tuple[float, float]:
    """Mean over seeds and its standard error (0 with one seed)."""
    values = np.array([row[measure] for row in group])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def _verdict(labels: str, by_k: dict[int, list[Row]]) -> str:
    """The best K against K = 1, seed by seed."""
    if 1 not in by_k or len(by_k) == 1:
        return ""
    gains = {k: _gain(group, by_k[1]) for k, group in by_k.items() if k > 1}
    k, (gain, error) = max(gains.items(), key=lambda item: item[1][0])
    margin = f" ± {error:.3f}" if error else ""
    what = f"K = {k} is {gain:+.3f}{margin} from K = 1 on seen workers"
    if labels == "length":
        return f"labels overwritten by length: {what}"
    if gain > SAME and gain > 2 * error:
        return f"unlike the paper, {what}"
    return f"as in the paper, K hardly matters: at best {what}"


def _gain(group: list[Row], one: list[Row]) -> tuple[float, float]:
    base = {row["seed"]: row["seen"] for row in one}
    return mean_of([{"gain": row["seen"] - base[row["seed"]]} for row in group if row["seed"] in base], "gain")


def draw(rows: list[Row], path: Path, published: Published, measures: dict[str, str], title: str) -> list[Path]:
    """Accuracy against K, a panel for each kind of labels, the paper's numbers beside the real ones.

    Args:
        rows: of the experiment.
        path: of the PNG.
        published: the paper's numbers, by measure.
        measures: ours -> the paper's measure beside it.
        title: says the finding.
    """
    shown = [key for key in variants(rows) if key[2:] == ("none", "ours")]
    by_variant = variants(rows)
    with panels(path, title, 1, max(1, len(shown)), width=4.8, height=3.6) as axes:
        for ax, key in zip(axes[0], shown, strict=False):
            by_k = by_variant[key]
            for number, (measure, name) in enumerate(
                (
                    ("seen", "seen"),
                    ("unseen", "unseen, no answers"),
                    ("unseen_adapted", "unseen, half of their answers"),
                )
            ):
                points = [mean_of(group, measure) for group in by_k.values()]
                ax.errorbar(
                    list(by_k),
                    [100 * mean for mean, _ in points],
                    [100 * half for _, half in points],
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    label=name,
                    capsize=2,
                )
                paper = published.get(measures.get(measure, ""), {})
                if key[1] == "real" and key[0] != "generated" and paper:
                    ax.plot(
                        list(paper),
                        [100 * mean for mean, _ in paper.values()],
                        color=COLOURS[number],
                        linestyle=":",
                        marker=MARKERS[number],
                        markerfacecolor="white",
                        label=f"{name} (paper, TL;DR)",
                    )
            ax.set_title(f"{NAMES[key[0]]}, labels {'real' if key[1] == 'real' else 'overwritten by length'}")
            ax.set_xlabel("K, prototypes of the model")
            ax.set_ylabel("accuracy (%)")
            ax.set_xticks(sorted(by_k))
            ax.legend(loc="best", fontsize=7.5)
    return [path]


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = []
    for (source, labels, prompt, settings), by_k in variants(rows).items():
        if settings != "ours" or prompt != "none" or 1 not in by_k or len(by_k) == 1:
            continue
        what = f"{NAMES[source]}, labels {labels}"
        one = mean_of(by_k[1], "seen")[0]
        best = max(mean_of(group, "seen")[0] for k, group in by_k.items() if k > 1)
        if labels == "length":
            few = max(mean_of(group, "unseen_adapted")[0] for k, group in by_k.items() if k > 1)
            none = max(mean_of(group, "unseen")[0] for k, group in by_k.items() if k > 1)
            found += [
                _at_least(f"{what}: best K > 1 over K = 1, seen", best - one, 0.05),
                _at_least(f"{what}: unseen workers, adapted over zero-shot", few - none, 0.02),
            ]
        else:
            found += [
                _at_least(f"{what}: K = 1, seen", one, 0.55),
                _at_least(f"{what}: best K > 1 over K = 1, seen", best - one, -0.02),
            ]
    return found


def _at_least(name: str, seen: float, least: float) -> Check:
    return Check(name, seen, f"at least {least}", seen >= least)
