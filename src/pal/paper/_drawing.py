"""Pictures: one style, colours that the colour-blind can tell apart (Okabe and Ito, 2008)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "MARKERS", "panels"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextmanager
def panels(path: Path, title: str, rows: int, columns: int, width: float = 4.0, height: float = 3.0) -> Iterator[Any]:
    """Axes (rows, columns) to draw on; the PNG is written at the end, the same bytes for the same drawing.

    Args:
        path: of the PNG.
        title: says the finding.
        rows: of panels.
        columns: of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, metadata={"Software": None})
