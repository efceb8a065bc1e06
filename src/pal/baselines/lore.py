"""LoRe: personal rewards in a basis of low rank.

Bose et al. (2025), "LoRe: Personalizing LLMs via Low-Rank Reward Modeling".

``r_i(x) = w_i . (B phi(x))`` with K basis rewards linear in frozen features and w_i on the simplex. Basis and weights
are learned together; a new person's weights are the simplex-constrained minimum with the basis frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pal._while_better import while_better
from pal.baselines._descend import SOLVED, Batch, Problem, descend, pick
from pal.baselines._features import PENALTIES, Features, frame_of, pooled_regression
from pal.baselines._linear_model import Linear, LinearModel
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["LoReModel", "fit_lore"]

RANKS = (1, 2, 4, 8, 16)
STRENGTHS = (10.0, 3.0, 1.0, 0.3)
PENALTY = 3.0  # of half the squared length of the basis, in answers
STRENGTH = 10.0  # of the prior on weights in training, in answers
LR = 1e-2


class _Basis(Linear):
    """margin = w_i . B (phi(left) - phi(right))."""

    def __init__(self, features: Features, basis: Tensor) -> None:
        self.features, self.basis = features, basis

    def questions(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
        """Differences of basis rewards; no offset."""
        asked = self.features.asked(data)
        rewards = (asked.items @ self.basis.T).double()
        x = rewards[asked.left] - rewards[asked.right]
        return x, x.new_zeros(len(x)), asked.question

    def rewards(self, responses: Tensor, prompts: Tensor | None, taste: Tensor) -> Tensor:
        """Rewards w . B phi, (B,)."""
        return (self.features(responses, prompts) @ self.basis.T).double() @ taste


class LoReModel(LinearModel):
    """Basis rewards, and weights on the simplex for each user; unseen users have the mean weights."""


@dataclass(frozen=True)
class _Fit:
    """Basis (K, m), mean weights (K,), and the validation loss."""

    basis: Tensor
    pooled: Tensor
    loss: float


def fit_lore(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> LoReModel:
    """Fits basis and weights for growing K while validation gains, then each person's weights to a certificate.

    Args:
        train: comparisons.
        validation: comparisons that stop training, and choose K and the strength of the prior on weights.
        config: its seed, user_lr, batch_size, max_steps and max_epochs count.
    """
    frame = frame_of(train, config)
    features = Features.wide(train, frame)
    problem = Problem(features, train, validation)
    theta = pooled_regression(features, train, validation, PENALTIES).float()
    found = while_better((_fit(problem, theta, rank, config) for rank in RANKS), SOLVED)
    basis = _Basis(features, found.basis)
    return LoReModel.chosen(frame, basis, train, validation, found.pooled, STRENGTHS, simplex=True)


def _fit(problem: Problem, theta: Tensor, rank: int, config: TrainConfig) -> _Fit:
    generator = torch.Generator().manual_seed(config.seed)
    # rewards that start near one another would stay at the pooled one for long
    spread = theta.norm() / len(theta) ** 0.5 if rank > 1 else 0.0
    basis = theta + spread * torch.randn(rank, len(theta), generator=generator)
    logits = 0.1 * torch.randn(problem.n_users, rank, generator=generator)

    def margin(batch: Batch, weights: Tensor) -> Tensor:
        rewards = batch.items @ basis.T
        x = pick(rewards, batch.left) - pick(rewards, batch.right)
        return (pick(x, batch.question) * pick(weights, batch.user)).sum(1)

    def loss(rows: Tensor) -> Tensor:
        batch = problem.batch(rows)
        log_weights = torch.log_softmax(logits, 1)
        # the prior of the few-shot solve, KL(mean weights || w), and a ridge, each in answers
        prior = log_weights.detach().exp().mean(0)
        penalty = 0.5 * PENALTY * basis.square().sum() - STRENGTH * (log_weights @ prior).sum()
        return torch.add(batch.loss(margin(batch, log_weights.exp())), penalty / len(problem))

    def validate() -> float:
        weights = torch.softmax(logits, 1)
        table = torch.cat([weights, weights.mean(0, keepdim=True)])
        return problem.validation_loss(lambda batch: margin(batch, table))

    groups = [([basis], LR, 0.0), ([logits], config.user_lr, 0.0)]
    value = descend(groups, len(problem), loss, validate, config)
    return _Fit(basis.detach(), torch.softmax(logits.detach(), 1).mean(0).double(), value)
