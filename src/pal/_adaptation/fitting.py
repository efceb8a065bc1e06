"""Weights of users for the terms of a frozen model, by the solver that its variant allows."""

import torch
from torch import Tensor

from pal._adaptation.nonlinear import descend
from pal._adaptation.prior import Prior
from pal._adaptation.solver import Solution, solve_weights, variances
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers

__all__ = ["fit_weights", "uncertainty"]


def fit_weights(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    prior: Prior,
    reliability: Tensor | None = None,
) -> Solution:
    """Weights of users.

    Args:
        model: the model; its loss, its side bias and its variant count.
        terms: of the questions.
        answers: of users in [0, n_users) to questions that are rows of the terms.
        n_users: U.
        prior: what their weights are held to. Where each person is one prototype its centre is how probable each is,
            given the answers, and already the solution.
        reliability: (U,) by which a person's margins are multiplied.
    """
    exact = torch.zeros(n_users, dtype=torch.float64)
    if model.n_prototypes == 1:
        return Solution(torch.ones(n_users, 1), exact)
    if model.config.partition:
        return Solution(prior.centre.float().expand(n_users, -1).clone(), exact)
    if terms.margins is None:
        return descend(model, terms, answers, n_users, prior.strength, prior.centre, reliability)
    margins = _margins(model, terms, answers, reliability)
    return solve_weights(
        margins,
        answers.label,
        answers.user,
        n_users,
        prior.centre,
        prior.strength,
        model.config.loss,
        answers.weight,
        precision=prior.precision,
        dtype=torch.float32,
    )


def uncertainty(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    weights: Tensor,
    prior: Prior,
    reliability: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How sure solved weights (U, K) are.

    Returns:
        The variance of each weight (U, K), around it, where it is known how to find it, and of the prior's centre; and
        the covariances around the weights, summed over all users, (K, K) float64.
    """
    K = model.n_prototypes
    if K == 1 or model.config.partition or terms.margins is None:
        return prior.variance, torch.zeros(K, K, dtype=torch.float64)
    margins = _margins(model, terms, answers, reliability)
    around, total = variances(
        weights,
        margins,
        answers.label,
        answers.user,
        prior.centre,
        prior.strength,
        model.config.loss,
        answers.weight,
        prior.precision,
    )
    return prior.variance + around, total  # the law of total variance


def _margins(model: RewardModel, terms: Terms, answers: Answers, reliability: Tensor | None) -> Tensor:
    if terms.margins is None:
        raise TypeError("terms of a linear variant hold margins")
    # on the simplex a constant added to all K margins is added to w . m
    margins = terms.margins.index_select(0, answers.question)
    if reliability is not None and bool((reliability != 1).any()):
        margins = margins * reliability[answers.user, None]
    bias = model.config.side_bias / model.config.slope
    return margins + bias if bias else margins
