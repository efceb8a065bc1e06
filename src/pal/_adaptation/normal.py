"""A normal density of people's weights, for people who are a continuum: its covariance, by empirical Bayes.

Weights that were solved are shrunk, so that their own covariance is too small, most of all in directions about which
answers say little. EM adds what each person's answers leave open (Laplace's approximation).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pal._adaptation.fitting import fit_weights, uncertainty
from pal._adaptation.prior import BARRIER, Prior
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers

__all__ = ["learn_precision"]

_STEPS = 5  # of EM
_FLOOR = 1e-3  # least variance in a direction, as a share of the mean one


def learn_precision(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    weights: Tensor,
    reliability: Tensor,
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """The precision (K, K) of the normal density around the population's mean that people's weights come from.

    Args:
        model: linear in the weights, with its population.
        terms: of the questions.
        answers: of users in [0, U).
        weights: (U, K) of these users, to begin with.
        reliability: (U,) of these users.
        total: sums over all processes, where each has the answers of some users.
    """
    mean, (n, K) = model.population, weights.shape
    people = total(torch.tensor([float(n)]))

    def density(weights: Tensor, left_open: Tensor) -> Tensor:
        deviation = (weights - mean).double()
        return _inverse(total(deviation.T @ deviation + left_open) / people)

    precision = density(weights, torch.zeros(K, K, dtype=torch.float64))
    for _ in range(_STEPS):
        prior = Prior.at(mean, n, BARRIER, precision)
        weights = fit_weights(model, terms, answers, n, prior, reliability).weights
        _, left_open = uncertainty(model, terms, answers, weights, prior, reliability)
        precision = density(weights, left_open)
    return precision


def _inverse(covariance: Tensor) -> Tensor:
    """(K, K), the least variances lifted a little: across the simplex there is none."""
    K = len(covariance)
    floor = _FLOOR * covariance.trace() / K + 1e-6
    return torch.inverse(covariance + floor * torch.eye(K, dtype=torch.float64))
