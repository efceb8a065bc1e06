"""A logistic regression for each person, shrunk to the pooled one; of linear features, or of their squares as well."""

import torch
from torch import Tensor

from pal.baselines._features import PENALTIES, Features, frame_of, pooled_regression
from pal.baselines._linear_model import Linear, LinearModel
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["PerUserModel", "fit_per_user", "fit_per_user_quadratic"]

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
QUADRATIC = 6  # leading directions whose products are features: 21 more numbers a person


class _Regression(Linear):
    """margin = theta_i . (phi(left) - phi(right))."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def questions(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
        """Differences of features; no offset."""
        asked = self.features.asked(data)
        x = asked.difference()
        return x, x.new_zeros(len(x)), asked.question

    def rewards(self, responses: Tensor, prompts: Tensor | None, taste: Tensor) -> Tensor:
        """Rewards theta . phi, (B,)."""
        return self.features(responses, prompts).double() @ taste


class PerUserModel(LinearModel):
    """theta_i = theta + delta_i, with a penalty on delta_i chosen on validation; delta = 0 for unseen users."""


def fit_per_user(
    train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig, quadratic: int = 0
) -> PerUserModel:
    """Fits the pooled regression, then each person's.

    Args:
        train: comparisons.
        validation: comparisons that choose the penalty.
        config: its seed and its prompt count.
        quadratic: leading directions whose products are features too.
    """
    frame = frame_of(train, config)
    wide = Features.wide(train, frame)
    head = pooled_regression(wide, train, validation, PENALTIES)
    # a regression a person on all of it would have more unknowns than a person has answers
    features = Features(train, frame, head=(wide, head), quadratic=quadratic)
    pooled = pooled_regression(features, train)
    with torch.no_grad():
        return PerUserModel.chosen(frame, _Regression(features), train, validation, pooled, STRENGTHS)


def fit_per_user_quadratic(
    train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig
) -> PerUserModel:
    """Likewise with the products of leading directions: ideal points in any metric of a person's own."""
    return fit_per_user(train, validation, config, QUADRATIC)
