"""The paper's tables and figures, each an experiment that `pal reproduce NAME` runs again."""

from importlib import import_module
from typing import TYPE_CHECKING

from pal.errors import InputError

if TYPE_CHECKING:
    from pal.paper._experiment import Experiment

__all__ = ["EXPERIMENTS", "experiment"]

# name -> module of this package whose EXPERIMENT it is; imported when asked for
EXPERIMENTS = {
    "table-1": "table_1",
    "table-2": "table_2",
    "figure-4": "figure_4",
    "figures-7-13": "figures_7_13",
    "figure-5": "figure_5",
    "table-5": "table_5",
    "figure-15": "figure_15",
    "table-4": "table_4",
    "table-6": "table_6",
    "figure-3": "figure_3",
    "table-3": "table_3",
    "figure-6": "figure_6",
    "figure-14": "figure_14",
    "appendix-g": "appendix_g",
}


def experiment(name: str) -> "Experiment":
    """The experiment of that name.

    Raises:
        InputError: there is none.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"there is no experiment {name!r}: use {', '.join(EXPERIMENTS)}")
    found: Experiment = import_module(f"{__name__}.{EXPERIMENTS[name]}").EXPERIMENT
    return found
