"""The tables of compare.py, populations.py and calibration.py, and the picture of the first."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

SHOTS = ("shots_0", "shots_5", "shots_20")


def write(results: dict[str, Any], alone: dict[str, Any], new: dict[str, Any], docs: Path) -> None:
    """Replaces the tables in docs/benchmarks.md, and docs/images/compare.png."""
    replace_part(docs / "benchmarks.md", "compare", "\n\n".join(table(n, r) for n, r in results.items()))
    both = {name: (results[name], found) for name, found in alone.items() if name in results}
    replace_part(docs / "benchmarks.md", "alone", train_alone(both))
    replace_part(docs / "benchmarks.md", "new", new_questions(new))
    picture(results, docs / "images" / "compare.png")


def replace_part(page: Path, name: str, text: str) -> None:
    """Puts text between `<!-- name: begin -->` and `<!-- name: end -->` of a page."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text().split(start)
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def table(name: str, result: dict[str, Any]) -> str:
    rows = result["result"]["models"]
    ours = rows[-1]["model"]
    shots = [key for key in SHOTS if rows[0].get(key) is not None or rows[-1].get(key) is not None]
    heads = ["model", "seen, by user", f"{ours} is better by", "worst tenth", "log-loss", "ECE"]
    heads += [f"new, {key[6:]} answers" for key in shots]
    heads += [f"{ours} is better by, {key[6:]}" for key in shots[1:]] + ["s"]
    lines = [f"**{name}** (commit {result['machine']['commit']})", "", "| " + " | ".join(heads) + " |"]
    lines.append("|" + "---|" * len(heads))
    for row in sorted(rows, key=lambda r: -r["accuracy_by_user"]):
        cells = [
            f"**{row['model']}**" if row["model"] == ours else row["model"],
            f"{row['accuracy_by_user']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
            "" if row["model"] == ours else spread(row["difference"]),
            *(f"{row[key]:.3f}" for key in ("worst_tenth", "log_loss", "ece")),
            *("" if row[key] is None else f"{row[key]:.3f}" for key in shots),
            *("" if row["model"] == ours else spread(row["new_difference"][key]) for key in shots[1:]),
            f"{row['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", own(rows[-1])])


def train_alone(results: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """PAL beside the best of its peers, with validation answers to learn from and without."""
    heads = ["data", "best peer", "PAL, as above", "PAL, training answers alone", "is better by"]
    heads += ["new, 5 answers, by", "new, 20 answers, by"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, (whole, alone) in results.items():
        *peers, ours = alone["result"]["models"]
        best = max(peers, key=lambda row: row["accuracy_by_user"])
        with_all = whole["result"]["models"][-1]
        new = [min((p["new_difference"][key] for p in peers), key=lambda d: d[0]) for key in SHOTS[1:]]
        cells = [
            name,
            f"{best['model']} {best['accuracy_by_user']:.3f} ({best['log_loss']:.3f})",
            *(f"{row['accuracy_by_user']:.3f} ({row['log_loss']:.3f})" for row in (with_all, ours)),
            *map(spread, [best["difference"], *new]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def new_questions(results: dict[str, Any]) -> str:
    """Accuracy by user (log-loss) on questions that nobody had answered in training."""
    lines: list[str] = []
    for name, result in results.items():
        rows = result["result"]["models"]
        if not lines:
            heads = ["data", *(row["model"] for row in rows[:-1]), "PAL", "K", "PAL is better than btl by"]
            lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        each = [f"{row['accuracy_by_user']:.3f} ({row['log_loss']:.3f})" for row in rows]
        numbers = ", ".join(map(str, rows[-1]["n_prototypes"]))
        lines.append(f"| {name} | " + " | ".join([*each, numbers, spread(rows[-2]["difference"])]) + " |")
    return "\n".join(lines)


def own(row: dict[str, Any]) -> str:
    """What the table has no column for, of our model: K, what answers of new people add, calibration."""
    text = f"{row['model']}: K = {', '.join(map(str, row['n_prototypes']))}."
    rises = {key: row["rise"][key] for key in ("shots_20", "long_50") if key in row.get("rise", {})}
    for key, rise in rises.items():
        if rise[2] - rise[1] > 0.12:
            continue  # of a handful of people it says nothing
        text += f" {key.split('_')[1]} answers of new people against none: {spread(rise)}."
    measured = {"seen": "seen", **{key: f"new, {key[6:]}" for key in SHOTS if key in row["calibration"]}}
    bounds = [
        f"{name} {row['calibration'][key][0]:.3f} ({row['calibration'][key][1]:.3f})" for key, name in measured.items()
    ]
    return text + " ECE (97.5% of perfectly calibrated models): " + ", ".join(bounds) + "."


def spread(interval: list[float]) -> str:
    """A difference with its interval."""
    much, low, high = interval
    return f"{much:+.3f} [{low:+.3f}, {high:+.3f}]"


def populations(results: dict[str, Any]) -> str:
    """A table with a line for each population; in its last column the best peer at each number of answers."""
    heads = ["population", "K", "PAL", "pooled", "best peer", "PAL is better by"]
    heads += ["PAL, new, 0 / 5 / 20 answers", "best peer"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, result in results.items():
        *peers, ours = result["result"]["models"]
        best, pooled = max(peers, key=lambda row: row["accuracy_by_user"]), peers[-1]
        shots = [key for key in SHOTS if ours.get(key) is not None]
        new = [ours[key] for key in shots], [max(row[key] for row in peers) for key in shots]
        cells = [
            name,
            ", ".join(map(str, ours["n_prototypes"])),
            *(f"{row['accuracy_by_user']:.3f} ({row['log_loss']:.3f})" for row in (ours, pooled)),
            f"{best['model']} {best['accuracy_by_user']:.3f} ({best['log_loss']:.3f})",
            spread(best["difference"]),
            *(" / ".join(f"{each:.3f}" for each in values) for values in new),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def calibration(results: dict[str, Any]) -> str:
    """Of the splits of each data set how many are within chance, their mean ECE, and the slope of all together."""
    measured = ("seen", *(f"new, {key[6:]}" for key in SHOTS))
    heads = ["data", "answers tested a split, seen and new", *measured]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, result in results.items():
        found = result["result"]
        cells = [name, ", ".join(f"{np.mean(found[key]['answers']):,.0f}" for key in measured[:2])]
        for one in (found[key] for key in measured):
            ece = one["ece"]
            counted = [str(one[key]) for key in ("within", "within_of_people") if key in one]
            within = f"{', '.join(counted)} of {len(ece)}"
            cells.append(f"{within} ({np.mean(ece):.3f}; {one['slope']:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(results: dict[str, Any], path: Path) -> None:
    """What PAL is better by than each peer, with intervals, a panel a data set."""
    columns = min(4, len(results))
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.6 * columns, 2.9 * lines), squeeze=False, sharey=True)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        rows = result["result"]["models"][:-1]
        at = np.arange(len(rows))
        much, low, high = np.array([row["difference"] for row in rows]).T
        colour = np.where(low > 0, "#0072B2", np.where(high < 0, "#D55E00", "#777777"))
        axis.hlines(at, 100 * low, 100 * high, color=colour, lw=2)
        axis.scatter(100 * much, at, color=colour, s=22, zorder=3)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(at, [row["model"] for row in rows], fontsize=8)
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("points PAL is better by", fontsize=8)
    figure.suptitle("PAL beside its peers: accuracy by user on seen people, paired, 95% intervals", fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
