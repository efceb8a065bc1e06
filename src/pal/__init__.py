"""PAL: pluralistic alignment. Personalised reward models from comparisons with user ids."""

import os

# Before torch is imported: threads that wait without spinning. On a machine that is busy with anything else, steps
# of a millisecond took a hundred (docs/decisions.md); on a quiet one there is no difference.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pal import adaptation, baselines, datasets, scoring, simulation
from pal.adaptation import adapt, next_comparison
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, embed
from pal.errors import EncoderError, InputError, MissingExtraError, PALError, SavedModelError, UnknownUserError
from pal.evaluation import Metrics, evaluate, predict, shot_curve
from pal.model import RewardModel
from pal.selection import fit, select
from pal.training import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "Comparisons",
    "EmbeddedComparisons",
    "EncoderError",
    "InputError",
    "Metrics",
    "MissingExtraError",
    "PALError",
    "RewardModel",
    "SavedModelError",
    "TrainConfig",
    "UnknownUserError",
    "__version__",
    "adapt",
    "adaptation",
    "baselines",
    "datasets",
    "embed",
    "evaluate",
    "fit",
    "next_comparison",
    "predict",
    "scoring",
    "select",
    "shot_curve",
    "simulation",
]
