"""Pooled Bradley-Terry on embedding differences: P(left preferred) = sigmoid(theta . (x_left - x_right))."""

from dataclasses import replace

import torch

from pal._logistic import LinearRewards
from pal.baselines._personal import answers_of
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel, make_prototypes
from pal.prototypes import LinearPrototypes
from pal.training import TrainConfig, model_config
from pal.users import UserWeights

__all__ = ["fit_linear"]

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


def fit_linear(
    train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig, penalty: float | None = None
) -> RewardModel:
    """`btl-linear`: a reward model with one linear prototype.

    Args:
        train: comparisons.
        validation: comparisons that choose the penalty.
        config: its loss is not used (logistic).
        penalty: of half the squared length of theta, in answers (scikit-learn's 1 / C); None: chosen on validation.
    """
    shape = replace(model_config(train, replace(config, model="a", loss="logistic"), 1), model="linear")
    prototypes = make_prototypes(shape, torch.Generator().manual_seed(config.seed))
    if not isinstance(prototypes, LinearPrototypes):
        raise TypeError("a linear config makes linear prototypes")
    empty = UserWeights.none(1, train.comparisons.user_ids)
    model = RewardModel(shape, prototypes, empty, torch.ones(1))
    told = _told(model, train)
    theta = told.best_on(_told(model, validation), PENALTIES) if penalty is None else told.solve(penalty)
    with torch.no_grad():
        prototypes.theta.copy_(theta[None])
    present = train.comparisons.user_counts().nonzero()[0]
    n = len(present)
    counts = torch.from_numpy(train.comparisons.user_counts()[present].copy())
    users = UserWeights(train.comparisons.user_ids.gather(present), torch.ones(n, 1), counts, torch.ones(n))
    return model.with_users(users)


def _told(model: RewardModel, data: EmbeddedComparisons) -> LinearRewards:
    questions, rows = model.questions(data)
    return LinearRewards.of(questions.items().double(), questions.left, questions.right, (rows, *answers_of(data)))
