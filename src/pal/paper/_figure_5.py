"""Figure 5: its table with verdicts, its picture and its checks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pal.paper._drawing import COLOURS, MARKERS, panels
from pal.paper._experiment import Check, Row

__all__ = ["checks", "figures", "table"]

ENOUGH = 0.99  # balanced accuracy called reached
ROOM = 0.02  # by which chance may lift a model above the oracle
PLATEAU = 0.55  # balanced accuracy of a model that says no to nearly everything


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """One line for each K* of each panel."""
    lines = []
    for k_star, part in _by(_panel(rows, "a"), "k_star"):
        by_k = _mean(part, "k", "balanced_accuracy")
        reached = [k for k, value in by_k.items() if value >= ENOUGH]
        verdict = (
            f"holds: reached at K = {min(reached)}" + (", fewer than K*" if min(reached) < k_star else "")
            if reached and min(reached) <= k_star
            else f"does not hold: {by_k.get(k_star, float('nan')):.3f} at K = K*"
        )
        lines.append(_line("a", k_star, "accuracy goes to 100% as K goes to K*", part, "k", verdict))
    for k_star, part in _by([*_panel(rows, "b"), *_full(rows)], "k_star"):
        if not any(row["panel"] == "b" for row in part):
            continue
        need = _least(part, "answers")
        verdict = f"{'better: ' if need <= 100 else ''}{need:g} answers are enough" if need else "not reached"
        lines.append(_line("b", k_star, "at least 200 answers a person are needed", part, "answers", verdict))
    for k_star, part in _by(_panel(rows, "c"), "k_star"):
        values = _mean(part, "latent", "balanced_accuracy").values()
        spread = max(values) - min(values)
        verdict = f"{'holds' if spread < 0.05 else 'does not hold'}: a spread of {spread:.4f} over d"
        lines.append(_line("c", k_star, "latent size matters little", part, "latent", verdict))
    for k_star, part in _by(_panel(rows, "d"), "k_star"):
        need = _least(part, "shots")
        verdict = f"holds: {need:g} answers are enough" if need else "not reached"
        lines.append(_line("d", k_star, "a sufficient number of answers is needed", part, "shots", verdict))
    for (reading, unseen), part in _by(_panel(rows, "reading"), "reading", "unseen"):
        what = f"statements '{reading}', unseen {unseen}"
        by_k = _mean(part, "k", "balanced_accuracy")
        verdict = (
            "fits 'to 100% at K = K*'" if by_k.get(3, 0) >= ENOUGH else f"does not reach 100%: {by_k.get(3, 0):.3f}"
        )
        lines.append(_line("reading", 3, what, part, "k", verdict))
    for settings, part in _by(_panel(rows, "settings"), "settings"):
        value = _mean(part, "k", "balanced_accuracy")[3]
        verdict = (
            "learns the personas" if value > 0.9 else "stays at always-no" if value < PLATEAU else "learns in part"
        )
        lines.append(_line("settings", 3, f"settings of training: {settings}", part, "k", verdict))
    return lines


def _line(panel: str, k_star: int, paper: str, part: list[Row], x: str, verdict: str) -> dict[str, Any]:
    accuracy, balanced = _mean(part, x, "accuracy"), _mean(part, x, "balanced_accuracy")
    name = {"k": "K", "answers": "n", "latent": "d", "shots": "n"}[x]
    return {
        "panel": panel,
        "k_star": k_star,
        "paper": paper,
        "accuracy": _listed(name, accuracy),
        "balanced_accuracy": _listed(name, balanced),
        "always_no": round(sum(row["always_no"] for row in part) / len(part), 4),
        "verdict": verdict,
    }


def _listed(name: str, values: dict[Any, float]) -> str:
    return ", ".join(f"{name}={key} {value:.4f}" for key, value in values.items())


def _panel(rows: list[Row], panel: str) -> list[Row]:
    return [row for row in rows if row["panel"] == panel]


def _full(rows: list[Row]) -> list[Row]:
    """Panel (a)'s models of K = K*: the last point of panel (b)."""
    return [row for row in _panel(rows, "a") if row["k"] == row["k_star"]]


def _by(rows: list[Row], *names: str) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        groups.setdefault(key[0] if len(key) == 1 else key, []).append(row)
    return sorted(groups.items(), key=lambda item: item[0])


def _mean(rows: Iterable[Row], x: str, y: str) -> dict[Any, float]:
    groups = _by(list(rows), x)
    return {key: sum(row[y] for row in group) / len(group) for key, group in groups}


def _least(part: list[Row], x: str) -> float:
    """The least x at which balanced accuracy is within .01 of the best anyone could do, and reached; 0 if none."""
    seen, best = _mean(part, x, "balanced_accuracy"), _mean(part, x, "oracle_balanced")
    return min((key for key in seen if seen[key] >= max(ENOUGH, best[key]) - 0.01), default=0)


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """Accuracy above, balanced accuracy below; a column a panel."""
    path = folder / "figure-5.png"
    shown = [
        ("a", "K, prototypes of the model", "k", "(a) K* prototypes, or fewer, fit everyone"),
        ("b", "answers of a seen person", "answers", "(b) few answers a person are enough"),
        ("c", "d, latent size", "latent", "(c) latent size matters little"),
        ("d", "answers of an unseen person", "shots", "(d) … and of people never seen before"),
    ]
    with panels(
        path, "Personas: K* prototypes are enough, and new people are known as soon as their answers tell", 2, 4
    ) as axes:
        for column, (panel, label, x, title) in enumerate(shown):
            part = _panel(rows, panel) + (_full(rows) if panel == "b" else [])
            for row, (measure, name) in enumerate(
                (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"))
            ):
                ax = axes[row][column]
                _draw(ax, part, x, measure, oracle=panel in ("b", "d"))
                if x != "k":
                    ax.set_xscale("symlog", linthresh=1, base=2)
                _ticks(ax, sorted({r[x] for r in part}), all_of_them=x == "k")
                ax.set_xlabel(label)
                ax.set_ylabel(name)
                ax.set_ylim(0.36 if row else 0.7, 1.01)  # room for the legends
                if row == 0:
                    ax.set_title(title)
        named = axes[1][0].get_legend_handles_labels()[0]
        dotted = axes[1][0].plot([], [], color="#777777", linestyle=":", label="always no")
        dashed = axes[1][0].plot([], [], color="#777777", linestyle="--", label="oracle: knows all personas")
        axes[1][0].legend(handles=named, loc="lower right")
        axes[1][3].legend(handles=[*dotted, *dashed], loc="lower right")
    return [path]


def _draw(ax: Any, part: list[Row], x: str, measure: str, oracle: bool) -> None:
    for k_star, group in _by(part, "k_star"):
        colour, marker = COLOURS[k_star - 2], MARKERS[k_star - 2]
        values = _mean(group, x, measure)
        ax.plot(list(values), list(values.values()), color=colour, marker=marker, label=f"K* = {k_star}")
        if measure == "accuracy":
            ax.axhline(sum(r["always_no"] for r in group) / len(group), color=colour, linestyle=":", linewidth=1)
        if oracle:
            best = _mean(group, x, "oracle" if measure == "accuracy" else "oracle_balanced")
            ax.plot(list(best), list(best.values()), color=colour, linestyle="--", linewidth=1)
    if measure == "balanced_accuracy":
        ax.axhline(0.5, color="#777777", linestyle=":", linewidth=1)


def _ticks(ax: Any, values: list[int], all_of_them: bool) -> None:
    """Ticks at the values, but for those too near the one before; the same limits above and below."""
    kept: list[int] = []
    for value in values:
        if all_of_them or not kept or value >= 1.7 * kept[-1]:
            kept.append(value)
    if kept:
        ax.set_xticks(kept, [str(value) for value in kept])
        ax.set_xlim(0.8 * kept[0] - 0.2, 1.1 * kept[-1])
    ax.minorticks_off()


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken method would miss."""
    found = []

    def check(name: str, seen: float, least: float) -> None:
        found.append(Check(name, seen, f"at least {least}", seen >= least))

    for k_star, part in _by(_panel(rows, "a"), "k_star"):
        by_k = _mean(part, "k", "balanced_accuracy")
        if 1 in by_k and k_star in by_k:
            check(f"K* = {k_star}: balanced accuracy at K = K* over K = 1", by_k[k_star] - by_k[1], 0.3)
    for panel in ("b", "d"):
        part = _panel(rows, panel)
        if part:
            room = min(row["oracle"] + ROOM - row["accuracy"] for row in part)
            check(f"({panel}) accuracy is not above the oracle's: room to it + {ROOM}", room, 0.0)
    part = [row for row in _panel(rows, "d") if row["shots"]]
    if part:
        most = max(row["shots"] for row in part)
        check(f"(d) balanced accuracy after {most} answers", _mean(part, "shots", "balanced_accuracy")[most], 0.9)
    return found
