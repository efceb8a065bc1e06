"""Public data sets as comparisons, each read from a folder that holds its files as they are published."""

from pal.datasets._folders import from_folder, recognise
from pal.datasets.persona import persona
from pal.datasets.pickapic import pickapic
from pal.datasets.polis import polis
from pal.datasets.ukpconvarg import ukpconvarg

__all__ = ["from_folder", "persona", "pickapic", "polis", "recognise", "ukpconvarg"]
