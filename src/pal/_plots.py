"""Figures of the report: inline SVG whose text is text, and whose colours are the page's, in light and in dark."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["between", "histogram", "mixture", "models", "prototypes_tried", "shot_curve"]

Array = npt.NDArray[Any]
Row = Mapping[str, Any]

WIDTH = 400  # as wide as a phone: text keeps a readable size everywhere
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)", PAPER: "var(--paper)"}
_POINTS = 1500


def colour(k: int) -> str:
    """A stand-in that becomes the page's colour of prototype k (from 0)."""
    return f"#0102{k % 8 + 1:02x}"


def _figure(height: float, draw: Callable[[Any], None], label: str, name: str, **layout: float) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 12,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 12,
        "axes.edgecolor": GRID,
        "axes.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "ytick.major.size": 0,
        "grid.color": GRID,
        "grid.linewidth": 1,
    }
    with rc_context(style), warnings.catch_warnings():
        # the page's fonts draw the text, not those that matplotlib measures with
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(figure)
        axes = figure.add_axes(
            (
                layout.get("left", 44) / WIDTH,
                layout.get("bottom", 44) / height,
                1 - (layout.get("left", 44) + layout.get("right", 12)) / WIDTH,
                1 - (layout.get("bottom", 44) + layout.get("top", 10)) / height,
            )
        )
        axes.patch.set_visible(False)
        draw(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), label, name)


def _inline(svg: str, label: str, name: str) -> str:
    """The SVG as part of a page: its own ids, the page's colours, as wide as its place."""
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r' id="(?!(?:p|m|C)[0-9a-f_]+")[^"]*"', "", body)  # of groups: nothing points to them
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    body = re.sub(r"#0102(0[1-8])", lambda found: f"var(--p{int(found[1])})", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    view = box.group(0) if box else ""
    return f'<svg {view} role="img" aria-label="{escape(label, quote=True)}">{body.strip()}'


def models(rows: Sequence[tuple[str, float, float | None, float | None, bool]], label: str) -> str:
    """Dots with whiskers: (name, accuracy, low, high, ours) a row, best first."""

    def draw(axes: Any) -> None:
        for i, (name, value, low, high, ours) in enumerate(rows):
            shade = colour(0) if ours else MUTED
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [-i, -i], color=shade, linewidth=2.5, solid_capstyle="round")
            axes.plot([100 * value], [-i], "o", color=shade, markersize=8.5, markeredgecolor=PAPER, markeredgewidth=1.5)
            for x, text, side in ((0, name, "left"), (1, f"{100 * value:.1f}%", "right")):
                axes.text(
                    x,
                    -i + 0.3,
                    text,
                    transform=axes.get_yaxis_transform(),
                    ha=side,
                    va="bottom",
                    fontweight="bold" if ours else "normal",
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
                )
        known = [100 * x for row in rows for x in row[1:4] if isinstance(x, float)]
        _limits(axes, known, "x", 4)
        axes.set_ylim(-len(rows) + 0.4, 0.9)
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.tick_params(axis="x", length=0)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("held-out answers predicted right, mean over people (%)")

    return _figure(52 + 44 * len(rows), draw, label, "models", left=1, right=1, top=4)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, steps=[1, 2, 5, 10])


def _limits(axes: Any, values: Sequence[float], axis: str, margin: float) -> None:
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = max(margin / 2, 0.08 * (high - low))
    getattr(axes, f"set_{axis}lim")(low - pad, high + pad)


def prototypes_tried(rows: Sequence[Row], measure: str, ylabel: str, label: str, scale: float = 1.0) -> str:
    """A measure against the number of prototypes, the chosen one ringed."""

    def draw(axes: Any) -> None:
        kept = [row for row in rows if row.get(measure) is not None]
        places = np.arange(len(kept))
        values = np.array([scale * row[measure] for row in kept])
        known, errors = list(values), None
        if measure == "validation_log_loss":
            errors = np.array([1.96 * (row.get("gain_se") or 0) for row in kept])
            axes.vlines(places, values - errors, values + errors, color=colour(0), linewidth=2.5, alpha=0.45)
            known += [*(values - errors), *(values + errors)]
        axes.plot(places, values, "-o", color=colour(0), linewidth=2, markersize=6.5)
        _limits(axes, known, "y", 2 if scale > 1 else 0.02)
        for place, row in zip(places, kept, strict=True):
            if row.get("chosen"):
                axes.plot(
                    [place],
                    [scale * row[measure]],
                    "o",
                    markersize=15,
                    markerfacecolor="none",
                    markeredgecolor=INK,
                    markeredgewidth=1.8,
                )
                lowest = scale * row[measure] - (errors[int(place)] if errors is not None else 0)
                axes.annotate(
                    "chosen",
                    (place, min(lowest, scale * row[measure])),
                    (0, -6 if errors is not None and errors[int(place)] else -13),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontweight="bold",
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
                )
                bottom, top = axes.get_ylim()
                axes.set_ylim(bottom - 0.16 * (top - bottom), top)
        axes.set_xticks(places, [str(row["n_prototypes"]) for row in kept])
        axes.set_xlim(-0.5, len(kept) - 0.5)
        axes.set_xlabel("prototypes K")
        axes.set_ylabel(ylabel)
        axes.yaxis.set_major_locator(_ticks())
        axes.grid(axis="y")

    return _figure(240, draw, label, f"k-{measure.replace('_', '-')}", left=56)


def shot_curve(ours: Sequence[Row], pooled: Sequence[Row], label: str) -> str:
    """Accuracy on new people against the answers given of each."""

    def draw(axes: Any) -> None:
        x = np.array([row["shots"] for row in ours], dtype=float)
        y = np.array([100 * row["accuracy_by_user"] for row in ours])
        low, high = (
            np.array([np.nan if row.get(key) is None else 100 * row[key] for row in ours], dtype=float)
            for key in ("accuracy_by_user_low", "accuracy_by_user_high")
        )
        axes.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
        axes.fill_between(x, low, high, color=colour(0), alpha=0.16, linewidth=0)
        axes.plot(x, y, "-o", color=colour(0), linewidth=2.2, markersize=6.5, clip_on=False)
        known = [float(v) for v in (*y, *low, *high) if np.isfinite(v)]
        ends = [(float(y[-1]), "PAL", colour(0))]
        if pooled:
            level = [100 * row["accuracy_by_user"] for row in pooled]
            axes.plot([row["shots"] for row in pooled], level, "--", color=MUTED, linewidth=2)
            known += level
            ends.append((level[-1], "one reward\nfor all", MUTED))
        _limits(axes, known, "y", 2)
        bottom, top = axes.get_ylim()
        close = len(ends) > 1 and abs(ends[0][0] - ends[1][0]) < 0.14 * (top - bottom)
        ends.sort(reverse=True)
        for i, (value, name, shade) in enumerate(ends):
            push = (0.08 if i == 0 else -0.08) * (top - bottom) if close else 0.0
            axes.annotate(
                name,
                (x[-1], value + push),
                (9, 0),
                textcoords="offset points",
                va="center",
                color=shade,
                fontweight="bold",
                annotation_clip=False,
            )
        axes.set_xticks(x, _apart(x))
        axes.set_xlim(0, max(float(x[-1]), 1) * 1.02)
        axes.minorticks_off()
        axes.set_xlabel("answers given by a new person")
        axes.set_ylabel("other answers predicted right (%)")
        axes.yaxis.set_major_locator(_ticks())
        axes.grid(axis="y")

    return _figure(280, draw, label, "shots", left=52, right=86)


def _apart(shots: Array) -> list[str]:
    """Names of ticks on the axis of square roots, without those that would touch the next."""
    names: list[str] = []
    end = np.inf
    for value in shots[::-1]:
        place, name = np.sqrt(value / max(shots[-1], 1)), f"{value:.0f}"
        fits = end - place >= 0.02 * (len(name) + 1)
        names.append(name if fits else "")
        end = place if fits else end
    return names[::-1]


def between(weights: Array, label: str) -> str:
    """Where people (N, K) stand: a strip for K = 2, the simplex for K = 3, its shadow on two directions beyond."""
    weights = weights.astype(float)
    return _strip(weights, label) if weights.shape[1] == 2 else _projection(weights, label)


def _strip(weights: Array, label: str) -> str:
    def draw(axes: Any) -> None:
        edges = np.linspace(0, 1, 21)
        counts, _ = np.histogram(weights[:, 1], bins=edges)
        middle = (edges[:-1] + edges[1:]) / 2
        shades = [colour(0) if m < 0.5 else colour(1) for m in middle]
        axes.bar(middle, counts, width=0.042, color=shades)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["all 1", "¾ 1", "half", "¾ 2", "all 2"])
        axes.tick_params(axis="x", pad=7)
        axes.set_xlabel("weight between prototype 1 and prototype 2")
        axes.set_ylabel("people")
        axes.grid(axis="y")

    return _figure(250, draw, label, "between", left=52, right=20)


def _corners(weights: Array) -> tuple[Array, Array]:
    """Places of the K corners (K, 2) and of the people (N, 2)."""
    K = weights.shape[1]
    if K == 3:
        corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
        return corners, weights @ corners
    centre = weights.mean(0)
    _, _, axes = np.linalg.svd(weights - centre, full_matrices=False)
    corners = (np.eye(K) - centre) @ axes[:2].T
    return corners, (weights - centre) @ axes[:2].T


def _projection(weights: Array, label: str) -> str:
    corners, people = _corners(weights)
    size = float(np.ptp(corners, axis=0).max())
    # people at one place become one larger dot: nobody hides
    step = size / 34
    _, place, counts = np.unique(np.round(people / step), axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    spots = np.stack([np.bincount(place, weights=column) for column in people.T], axis=1) / counts[:, None]
    mean = np.stack([np.bincount(place, weights=column) for column in weights.T], axis=1)
    nearest = mean.argmax(1)
    order = np.argsort(-counts, kind="stable")[:_POINTS]
    K = len(corners)

    def draw(axes: Any) -> None:
        ring = corners if K > 3 else corners[[0, 1, 2, 0]]
        if K == 3:
            axes.plot(*ring.T, color=GRID, linewidth=1.5, zorder=1)
            for share in (0.25, 0.5, 0.75):
                for i in range(3):
                    a, b, c = corners[i], corners[(i + 1) % 3], corners[(i + 2) % 3]
                    ends = np.stack([a + share * (b - a), c + share * (b - c)])
                    axes.plot(*ends.T, color=GRID, linewidth=0.8, zorder=0)
        else:
            middle = (np.full(K, 1 / K) - weights.mean(0)) @ np.linalg.lstsq(
                np.eye(K) - weights.mean(0), corners, rcond=None
            )[0]
            for corner in corners:
                axes.plot(*np.stack([middle, corner]).T, color=GRID, linewidth=1, zorder=0)
        largest = max(int(counts.max(initial=1)), 1)
        areas = np.maximum(14, 420 * counts / max(largest, 12))
        shades = [colour(int(k)) for k in nearest]
        axes.scatter(
            *spots[order].T,
            s=areas[order],
            c=[shades[i] for i in order],
            alpha=0.62,
            linewidths=0.8,
            edgecolors=PAPER,
            zorder=2,
        )
        centre = corners.mean(0)
        for k, corner in enumerate(corners):
            outward = corner - centre
            outward = outward / max(float(np.linalg.norm(outward)), 1e-9)
            text = f"prototype {k + 1}" if K == 3 else str(k + 1)
            if K > 3:
                axes.plot(
                    *corner[:, None],
                    "o",
                    markersize=20,
                    markerfacecolor=PAPER,
                    markeredgecolor=colour(k),
                    markeredgewidth=2.2,
                    zorder=3,
                )
                axes.annotate(text, corner, ha="center", va="center", fontweight="bold", zorder=4)
            else:
                above, side = outward[1] > 0.5, ("left", "right", "center")[k]  # names end at the edges of the figure
                place, shift = (corner, (0, 17)) if above else (corner, (-14 if k == 0 else 14, -17))
                style = {"textcoords": "offset points", "va": "center", "fontweight": "bold"}
                axes.annotate(text, place, shift, ha=side, **style)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.05)
        axes.axis("off")

    return _figure(350, draw, label, "between", left=20, right=20, top=16, bottom=16)


def mixture(weights: Array, label: str) -> str:
    """A column a person, sorted by nearest prototype and nearness: how their weights (N, K) add up."""
    weights = weights.astype(float)
    nearest = weights.argmax(1)
    order = np.lexsort((-weights.max(1), nearest))
    if len(order) > 400:
        order = order[np.linspace(0, len(order) - 1, 400).round().astype(int)]
    sorted_weights = weights[order]

    def draw(axes: Any) -> None:
        n = len(sorted_weights)
        tops = 100 * np.cumsum(np.hstack([np.zeros((n, 1)), sorted_weights]), axis=1)
        edges = np.arange(n + 1) * len(weights) / n
        for k in range(weights.shape[1]):
            low, high = (np.append(tops[:, j], tops[-1, j]) for j in (k, k + 1))
            axes.fill_between(edges, low, high, step="post", color=colour(k), alpha=0.85, linewidth=0)
        counts = np.bincount(nearest, minlength=weights.shape[1])
        starts = np.concatenate([[0], np.cumsum(counts)])
        for k in range(weights.shape[1]):
            if counts[k] >= 0.05 * len(weights):
                axes.text(
                    (starts[k] + starts[k + 1]) / 2,
                    103,
                    str(k + 1),
                    ha="center",
                    va="bottom",
                    fontweight="bold",
                )
        axes.set_xlim(0, len(weights))
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 50, 100])
        axes.set_xlabel("people, sorted by the prototype they are nearest to")
        axes.set_ylabel("weight (%)")

    return _figure(250, draw, label, "mixture", left=52, right=14, top=26)


def histogram(
    edges: Sequence[float], counts: Sequence[int], mean: float | None, worst: float | None, label: str
) -> str:
    """People by how many of their answers are predicted right."""

    def draw(axes: Any) -> None:
        left, right = 100 * np.array(edges[:-1]), 100 * np.array(edges[1:])
        axes.bar((left + right) / 2, counts, width=0.9 * (right - left), color=colour(0), alpha=0.75)
        top = max([*counts, 1])
        near = mean is not None and worst is not None and abs(mean - worst) < 0.35  # then one name above the other
        for value, name, end in ((worst, "worst tenth", 1.12), (mean, "mean", 1.27 if near else 1.12)):
            if value is not None:
                axes.vlines(100 * value, 0, end * top, color=INK, linewidth=1.5, linestyle=(0, (3, 2)))
                x, side = (100 * value - 1.5, "right") if value > 0.35 else (100 * value + 1.5, "left")
                axes.text(x, end * top, f"{name} {100 * value:.0f}%", ha=side, va="top")
        axes.set_ylim(0, (1.3 if near else 1.15) * top)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("a person's held-out answers predicted right (%)")
        axes.set_ylabel("people")
        axes.grid(axis="y")

    return _figure(250, draw, label, "people", left=52, right=20)
