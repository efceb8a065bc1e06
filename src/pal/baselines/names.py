"""The baselines by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pal.baselines._personal import PersonalModel
from pal.baselines.factor import fit_factor
from pal.baselines.linear import fit_linear
from pal.baselines.lore import fit_lore
from pal.baselines.majority import MajorityModel, fit_majority
from pal.baselines.metric import fit_metric
from pal.baselines.per_user import fit_per_user, fit_per_user_quadratic
from pal.baselines.user_embedding import fit_user_embedding
from pal.baselines.vpl import fit_vpl
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel
from pal.selection import fit as fit_pal
from pal.selection import with_validation
from pal.training import TrainConfig
from pal.users import matched

__all__ = ["BASELINES", "USUAL", "Baseline", "fitted"]

USUAL = ("btl-linear", "majority", "per-user")  # the quick ones, to show beside every fit

Baseline = RewardModel | PersonalModel | MajorityModel


def _pooled(train: EmbeddedComparisons, validation: EmbeddedComparisons | None, config: TrainConfig) -> RewardModel:
    return fit_pal(train, validation, replace(config, n_prototypes=1)).model


BASELINES: dict[str, Callable[[Any, Any, TrainConfig], Baseline]] = {
    "btl": _pooled,
    "btl-linear": fit_linear,
    "factor": fit_factor,
    "lore": fit_lore,
    "majority": fit_majority,
    "metric": fit_metric,
    "per-user": fit_per_user,
    "per-user-quadratic": fit_per_user_quadratic,
    "user-embedding": fit_user_embedding,
    "vpl": fit_vpl,
}


def fitted(
    name: str, train: EmbeddedComparisons, validation: EmbeddedComparisons | None, config: TrainConfig
) -> Baseline:
    """A baseline; without validation answers a tenth of each user's is held out, where there are any to spare."""
    train, validation = with_validation(train, validation, config.seed)
    validation = validation if len(validation) else train
    matched(validation.comparisons.user_ids, train.comparisons.user_ids, "the training data")
    return BASELINES[name](train, validation, config)
