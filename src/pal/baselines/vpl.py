"""Variational preference learning.

Poddar et al. (2024), "Personalizing Reinforcement Learning from Human Feedback with Variational Preference Learning".

An encoder reads a person's answered comparisons and gives q(z | answers) = N(mu, diag sigma^2); a decoder gives the
reward r(x, z). Both maximise the evidence lower bound, its KL to N(0, I) annealed from zero to its full weight. At
test time z is the posterior mean, of the prior for people without answers; nothing is optimised for new people.
"""

from typing import Self

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pal.baselines._descend import Batch, Problem, descend, pick
from pal.baselines._features import Asked, Features, frame_of
from pal.baselines._mlp import MLPModel, RewardMLP
from pal.baselines._personal import users_of
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["VPLModel", "fit_vpl"]

WIDTH, HIDDEN = 16, 64
LR, DECAY = 3e-3, 1e-4
ANNEAL = 200  # steps until the KL has its full weight
ANSWERS = 8192  # about so many a step
NOTHING = 0.1  # share of people whose answers are hidden in a step, so that the prior mean is a good reward too


class _Encoder:
    """Answers -> mu and log sigma^2: a hidden layer an answer, their mean, and a head that knows their number."""

    def __init__(self, m: int, width: int, hidden: int, generator: torch.Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.w, self.b = normal(m, hidden) / m**0.5, torch.zeros(hidden)
        self.mid, self.mid_b = normal(hidden + 1, hidden) / hidden**0.5, torch.zeros(hidden)
        self.head, self.head_b = 0.1 * normal(hidden, 2 * width) / hidden**0.5, torch.zeros(2 * width)

    @property
    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        return [self.w, self.b, self.mid, self.mid_b, self.head, self.head_b]

    def __call__(
        self, asked: Asked | Batch, question: Tensor, user: Tensor, label: Tensor, weight: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        """Each person's mu and log sigma^2, (n, width): of N(0, I) without answers; those of weight 0 do not count."""
        projected = asked.items @ self.w
        sign = (2 * label - 1)[:, None]  # chosen minus rejected; nothing of a tie
        each = pick(pick(projected, asked.left) - pick(projected, asked.right), question)
        each = torch.relu(each * sign + self.b)
        total = each.new_zeros(n, each.shape[1]).index_add(0, user, each * weight[:, None])
        count = weight.new_zeros(n).index_add(0, user, weight)[:, None]
        mean = torch.cat([total / count.clamp(min=1e-6), 0.2 * count.log1p()], dim=1)
        out = torch.relu(mean @ self.mid + self.mid_b) @ self.head + self.head_b
        mu, log_variance = (out * (count > 0)).chunk(2, dim=1)
        return mu, log_variance.clamp(-8, 4)


class VPLModel(MLPModel):
    """Decoder r(x, z), encoder of answers, and the posterior mean z of each user; unseen users have z = 0."""

    encoder: _Encoder

    @classmethod
    def of(cls, features: Features, net: RewardMLP, encoder: _Encoder, ids: pl.Series, table: Tensor) -> Self:
        """A model that has its encoder."""
        model = cls(features, net, ids, table, torch.zeros(WIDTH))
        model.encoder = encoder
        return model

    def with_people(self, ids: pl.Series, table: Tensor) -> Self:
        """The same model with other users."""
        return self.of(self.features, self.net, self.encoder, ids, table)

    @torch.no_grad()
    def infer(self, few: EmbeddedComparisons) -> tuple[pl.Series, Tensor]:
        """The posterior means of the users."""
        ids, user = users_of(few)
        asked = self.features.asked(few)
        label, weight = self.features.answers(few)
        return ids, self.encoder(asked, asked.question, user, label, weight, len(ids))[0]


def fit_vpl(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> VPLModel:
    """Trains encoder and decoder together, on random parts of people's answers as context.

    Args:
        train: comparisons.
        validation: comparisons that stop training.
        config: its seed, max_steps and max_epochs count.
    """
    features = Features.wide(train, frame_of(train, config))
    problem = Problem(features, train, validation)
    generator = torch.Generator().manual_seed(config.seed)
    m = problem.train.items.shape[1]
    net, encoder = RewardMLP(m, WIDTH, HIDDEN, generator), _Encoder(m, WIDTH, HIDDEN, generator)
    everything = problem.train
    order = torch.argsort(everything.user, stable=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), problem.counts.long().cumsum(0)])
    steps = 0

    def loss(people: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        n = len(people)
        batch = problem.batch(torch.cat([order[int(starts[i]) : int(starts[i + 1])] for i in people.tolist()]))
        user = torch.repeat_interleave(torch.arange(n), problem.counts[people].long())
        share = torch.rand(n, generator=generator)
        share = torch.where(torch.rand(n, generator=generator) < NOTHING, 0.0, share.sqrt())
        context = (torch.rand(len(user), generator=generator) < share[user]).float()
        mu, log_variance = encoder(batch, batch.question, user, batch.label, batch.weight * context, n)
        z = mu + (0.5 * log_variance).exp() * torch.randn(mu.shape, generator=generator)
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum()
        fit = F.binary_cross_entropy_with_logits(
            net.margin(batch, z, batch.question, user), batch.label, batch.weight, reduction="sum"
        )
        return (fit + min(1.0, steps / ANNEAL) * kl) / len(user)

    def posterior() -> Tensor:
        a = everything
        return encoder(a, a.question, a.user, a.label, a.weight, problem.n_users)[0]

    def validate() -> float:
        table = torch.cat([posterior(), torch.zeros(1, WIDTH)])
        return problem.validation_loss(lambda b: net.margin(b, table, b.question, b.user))

    groups = [([*net.parameters, *encoder.parameters], LR, DECAY)]
    people = max(8, round(ANSWERS / float(problem.counts.mean())))
    descend(groups, problem.n_users, loss, validate, config, batch=people, warmup=ANNEAL)
    with torch.no_grad():
        return VPLModel.of(features, net, encoder, problem.ids, posterior())
