"""User weights where the margin is not linear in them: descent from several starts, without a certificate."""

import torch
from torch import Tensor

from pal._adam import RowAdam
from pal._adaptation.solver import Solution
from pal.losses import get_loss
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers

__all__ = ["descend"]

_STEPS, _RATE = 150, 0.2


def descend(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    strength: float | Tensor,
    prior: Tensor,
    reliability: Tensor | None = None,
) -> Solution:
    """Adam on the logits of the weights, from the prior and from leaning to each prototype; the best of each user.

    Args:
        model: the frozen model.
        terms: of the questions.
        answers: of users in [0, n_users).
        n_users: U.
        strength: of KL(prior || w); or (U,), of each user.
        prior: (U, K) or (1, K).
        reliability: (U,) by which a person's margins are multiplied; None: 1.
    """
    loss, K, bias = get_loss(model.config.loss), model.n_prototypes, model.config.side_bias / model.config.slope
    c = answers.counting
    everyone = torch.arange(n_users)
    times = (torch.ones(n_users) if reliability is None else reliability)[answers.user]
    log_prior = prior.float().clamp(min=1e-6).log().expand(n_users, K)

    def objective(logits: Tensor) -> Tensor:
        w = torch.log_softmax(logits, 1)
        margin = times * model.prototypes.margin(terms, w.exp(), answers.question, answers.user) + bias
        cost = c * loss(margin, answers.label)
        total = torch.zeros(n_users).index_add_(0, answers.user, cost)
        return total - strength * (log_prior.exp() * (w - log_prior)).sum(1)

    best, best_value = log_prior, torch.full((n_users,), torch.inf)
    for k in range(-1, K):
        logits = log_prior.clone() if k < 0 else log_prior + 2 * torch.eye(K)[k]
        adam = RowAdam(n_users, K, _RATE, logits.device)
        for step in range(_STEPS):
            adam.lr = _RATE * (1 - step / _STEPS)
            with torch.enable_grad():
                trial = logits.detach().requires_grad_(True)
                (grad,) = torch.autograd.grad(objective(trial).sum(), trial)
            adam.step(logits, everyone, grad)
        with torch.no_grad():
            value = objective(logits)
            better = value < best_value
            best = torch.where(better[:, None], logits, best)
            best_value = torch.where(better, value, best_value)
    return Solution(torch.softmax(best, 1), torch.full((n_users,), torch.nan, dtype=torch.float64))
