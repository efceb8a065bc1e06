"""User embeddings: P-RLHF (Li et al., 2024, "Personalized Language Modeling from Personalized Human Feedback").

A reward net takes an item and the user's embedding, e_i = e_0 + o_i, with a generic e_0 for people of whom nothing is
known. As in the paper's objective, each answer counts alpha for its user and 1 - alpha for the generic user, so that
e_0 is learned from everybody. A new user's embedding follows the gradient of their answers alone.
"""

from typing import Self

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adam import Adam
from pal.baselines._descend import Batch, Problem, descend, pick
from pal.baselines._features import Features, frame_of
from pal.baselines._mlp import MLPModel, RewardMLP
from pal.baselines._personal import users_of
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["UserEmbeddingModel", "fit_user_embedding"]

ALPHA = 0.5
WIDTH, HIDDEN = 16, 64
LR, USER_LR = 3e-3, 1e-2
DECAY, PRIOR = 1e-4, 1.0  # L2 of the net (a mean), and of a user's o_i (in answers)
STEPS = 100  # on the embeddings of new users


class UserEmbeddingModel(MLPModel):
    """A reward net of items and user embeddings; unseen users have the generic one."""

    def with_people(self, ids: pl.Series, table: Tensor) -> Self:
        """The same model with other users."""
        return type(self)(self.features, self.net, ids, table, self.default)

    def infer(self, few: EmbeddedComparisons) -> tuple[pl.Series, Tensor]:
        """Gradient steps on the users' embeddings alone, from the generic one and shrunk to it as in training."""
        ids, user = users_of(few)
        asked = self.features.asked(few)
        label, weight = self.features.answers(few)
        own = torch.zeros(len(ids), len(self.default), requires_grad=True)
        adam = Adam([([own], 0.1, 0.0)])
        for step in range(STEPS):
            adam.factor = 1 - step / STEPS
            with torch.enable_grad():
                margin = self.net.margin(asked, self.default + own, asked.question, user)
                loss = F.binary_cross_entropy_with_logits(margin, label, weight, reduction="sum")
                adam.zero_grad()
                (loss + 0.5 * PRIOR * own.square().sum()).backward()  # type: ignore[no-untyped-call]
            adam.step()
        return ids, self.default + own.detach()


def fit_user_embedding(
    train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig
) -> UserEmbeddingModel:
    """Trains net and embeddings together.

    Args:
        train: comparisons.
        validation: comparisons that stop training.
        config: its seed, batch_size, max_steps and max_epochs count.
    """
    features = Features.wide(train, frame_of(train, config))
    problem = Problem(features, train, validation)
    generator = torch.Generator().manual_seed(config.seed)
    net = RewardMLP(problem.train.items.shape[1], WIDTH, HIDDEN, generator)
    generic = torch.zeros(WIDTH)
    own = 0.1 * torch.randn(problem.n_users, WIDTH, generator=generator)

    def loss(rows: Tensor) -> Tensor:
        batch = problem.batch(rows)
        personal = batch.loss(net.margin(batch, generic + own, batch.question, batch.user))
        shared = batch.loss(pick(net.shared_margin(batch, generic), batch.question))
        prior = 0.5 * PRIOR / len(problem) * own.square().sum()
        return ALPHA * (personal + prior) + (1 - ALPHA) * shared

    def margin(batch: Batch) -> Tensor:
        table = torch.cat([generic + own, generic[None]])
        return net.margin(batch, table, batch.question, batch.user)

    groups = [(net.parameters, LR, DECAY), ([generic, own], USER_LR, 0.0)]
    descend(groups, len(problem), loss, lambda: problem.validation_loss(margin), config)
    return UserEmbeddingModel(features, net, problem.ids, generic + own, generic)
