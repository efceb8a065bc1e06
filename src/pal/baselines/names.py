"""The baselines by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pal.baselines.linear import fit_linear
from pal.baselines.majority import MajorityModel, fit_majority
from pal.baselines.per_user import PerUserModel, fit_per_user
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel
from pal.selection import fit as fit_pal
from pal.training import TrainConfig

__all__ = ["BASELINES", "Baseline"]

Baseline = RewardModel | PerUserModel | MajorityModel


def _pooled(train: EmbeddedComparisons, validation: EmbeddedComparisons | None, config: TrainConfig) -> RewardModel:
    return fit_pal(train, validation, replace(config, n_prototypes=1)).model


BASELINES: dict[str, Callable[[Any, Any, TrainConfig], Baseline]] = {
    "btl": _pooled,
    "btl-linear": fit_linear,
    "majority": fit_majority,
    "per-user": fit_per_user,
}
