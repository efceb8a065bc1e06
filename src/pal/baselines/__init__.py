"""Baselines with the interface of a reward model: for predict, evaluate, shot_curve and reward."""

from dataclasses import replace

from pal.baselines.compare import compare
from pal.baselines.factor import FactorModel
from pal.baselines.lore import LoReModel
from pal.baselines.majority import MajorityModel
from pal.baselines.metric import MetricModel
from pal.baselines.names import BASELINES, USUAL, Baseline, fitted
from pal.baselines.per_user import PerUserModel
from pal.baselines.user_embedding import UserEmbeddingModel
from pal.baselines.vpl import VPLModel
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError
from pal.training import TrainConfig, config_of

__all__ = [
    "BASELINES",
    "USUAL",
    "FactorModel",
    "LoReModel",
    "MajorityModel",
    "MetricModel",
    "PerUserModel",
    "UserEmbeddingModel",
    "VPLModel",
    "compare",
    "fit",
]


def fit(
    name: str,
    train: EmbeddedComparisons,
    validation: EmbeddedComparisons | None = None,
    config: TrainConfig | None = None,
    seed: int | None = None,
) -> Baseline:
    """Fits a baseline.

    Args:
        name: one of `BASELINES` (docs/baselines.md). Pooled: "btl" (Bradley-Terry: `pal.fit` with one prototype, the
            same maps, settings and seed), "btl-linear" (theta . (x_left - x_right)), "majority" (what most people
            answered). Personal: "per-user" and "per-user-quadratic" (a logistic regression a person, shrunk to the
            pooled one), "metric" (one metric, an ideal point each), "lore" (rewards of low rank, weights on the
            simplex), "user-embedding" (P-RLHF), "vpl" (variational), "factor" (matrix factorisation, for fixed items).
        train: comparisons of the users to learn.
        validation: comparisons that choose penalties and stop training; None: a tenth of each user's is held out.
        config: settings; its n_prototypes is not used.
        seed: of everything random; None: that of the settings.

    Raises:
        InputError: there is no such baseline, or the data do not fit.
    """
    if not isinstance(name, str) or name not in BASELINES:
        raise InputError(f"baseline {name!r} is not known: use one of {', '.join(sorted(BASELINES))}")
    check_embedded(train)
    if not len(train):
        raise InputError("there are no training comparisons")
    if validation is not None:
        check_embedded(validation)
    config = config_of(config)
    return fitted(name, train, validation, config if seed is None else replace(config, seed=seed))
