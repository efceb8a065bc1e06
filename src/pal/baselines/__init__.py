"""Baselines with the interface of a reward model: for predict, evaluate, shot_curve and reward."""

from dataclasses import replace

from pal.baselines.compare import compare
from pal.baselines.majority import MajorityModel
from pal.baselines.names import BASELINES, Baseline
from pal.baselines.per_user import PerUserModel
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.training import TrainConfig

__all__ = ["BASELINES", "MajorityModel", "PerUserModel", "compare", "fit"]


def fit(
    name: str,
    train: EmbeddedComparisons,
    validation: EmbeddedComparisons | None = None,
    config: TrainConfig | None = None,
    seed: int = 0,
) -> Baseline:
    """Fits a baseline.

    Args:
        name: "btl" (pooled Bradley-Terry: `pal.fit` with one prototype, the same maps, settings and seed),
            "btl-linear" (theta . (x_left - x_right)), "per-user" (a logistic regression a person, shrunk to the pooled
            one) or "majority" (what most people answered).
        train: comparisons of the users to learn.
        validation: comparisons that choose penalties and stop training; None: a tenth of each user's is held out.
        config: settings; its n_prototypes is not used.
        seed: of everything random.

    Raises:
        InputError: there is no such baseline, or the data do not fit.
    """
    if name not in BASELINES:
        raise InputError(f"baseline {name!r} is not known: use one of {', '.join(sorted(BASELINES))}")
    config = replace(config or TrainConfig(), seed=seed)
    if validation is None or not len(validation):
        parts = train.split(unseen_users=0.0, test=0.0, validation=0.1, seed=seed)
        train, validation = parts.train, parts.validation
    return BASELINES[name](train, validation, config)
