"""Kinds of people, by how their answers differ from the pooled model's: where several prototypes begin.

k-means on the directions of people's residuals, and from there a mixture of kinds fitted to their answers by EM: the
residuals of one person alone are too noisy, at some twenty answers, to tell their kind.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._eigen import eigh, gram
from pal._k_means import k_means
from pal._training.sample import Sample
from pal._training.tables import Tables
from pal.prototypes import Prototypes
from pal.questions import Answers, compact
from pal.users import simplex

if TYPE_CHECKING:
    from pal._training.alone import Alone

__all__ = ["user_groups"]

_RANK, _FIRST = 16, 8  # directions in which kinds may differ, and those that k-means looks at
_STARTS, _SHORT, _STEPS = 8, 5, 20  # of EM: starts, their steps, and the steps that the best goes on for
_SURE = 0.8  # of k-means' groups, when EM begins
_RIDGE = 0.3  # precision of a direction, where questions have a mean square of one
_HALVINGS = 6  # of a Newton step
_SAME = 1e-6  # share by which likelihoods of the same kinds differ, in rounding


@torch.no_grad()
def user_groups(
    tables: Tables, pooled: Prototypes, K: int, generator: torch.Generator, shards: "Alone"
) -> tuple[Tensor, Tensor]:
    """How likely each user here is of each of K kinds (n, K), and what a kind adds to margins: (K, m), of features."""
    pooled.eval()
    n, Q, device = len(tables.user_ids), len(tables.questions), tables.answers.user.device
    asked, nobody = torch.arange(Q, device=device), torch.zeros(Q, dtype=torch.long, device=device)
    margin = pooled.margin(pooled.terms(tables.questions), torch.ones(1, 1, device=device), asked, nobody)
    mean = shards.pooled(tables).answers
    slope = shards.slope(margin[mean.question], mean.label, 1.0, mean.weight)
    offset, features = (slope * margin).cpu(), shards.features(tables, pooled).cpu()
    answers = tables.answers.to(torch.device("cpu"))
    weight = answers.counting
    scores = answers.sums(weight * (answers.label - torch.sigmoid(offset)[answers.question]), features, n)
    scores /= (torch.bincount(answers.user, weight, minlength=n) + 5.0)[:, None]
    _, vectors = eigh(shards.total(gram(scores)))
    toward = shards.of_all(scores @ vectors[:, -_FIRST:].float())

    leading = vectors[:, -_RANK:].float()
    x = features @ leading
    square = (weight * x.square().sum(1)[answers.question]).double().sum()
    square, total = shards.total(torch.stack([square, weight.double().sum()]))
    size = max(float(square / total), 1e-30) ** 0.5
    x /= size
    sample = Sample.of_users(tables, shards)
    mixture = _Mixture.of(sample.of(answers), len(sample.rows), offset, x, shards)

    def begun() -> _Kinds:
        group = shards.own(k_means(toward, K, generator, restarts=1))[sample.rows]
        return mixture.fitted(_SURE * F.one_hot(group, K).double() + (1 - _SURE) / K, _SHORT)

    starts = [begun() for _ in range(_STARTS)]
    most = max(kinds.likelihood for kinds in starts)
    # the first of those that differ in rounding alone: the same kinds in another order, in every process
    best = next(kinds for kinds in starts if kinds.likelihood >= most - _SAME * abs(most))
    kinds = mixture.fitted(best.share, _STEPS, best.direction)
    odds = offset[:, None] + x @ kinds.direction.float().T
    share = simplex(answers.log_likelihood(odds, n) + kinds.mass.log().float())
    return share, kinds.direction.float() @ leading.T / (size * slope)


@dataclass(frozen=True)
class _Kinds:
    """K kinds of people: ``direction`` (K, r), their ``mass`` (K,), and how likely each user is of each (n, K)."""

    direction: Tensor
    mass: Tensor
    share: Tensor
    likelihood: float  # log, with that of the priors on direction and mass: no step makes it smaller


@dataclass(frozen=True)
class _Mixture:
    """People's answers, as a mixture of kinds has them: kind k says yes with log-odds offset_q + <direction_k, x_q>.

    Attributes:
        asked: (n, Q) sparse: how much a person's answers to a question count.
        yes: (n, Q) sparse: the same, times their label.
        offset: (Q, 1) log-odds of the pooled model.
        x: (Q, r) of the questions.
        shards: over whose users sums go.
    """

    asked: Any
    yes: Any
    offset: Tensor
    x: Tensor
    shards: "Alone"

    @classmethod
    def of(cls, answers: Answers, n_users: int, offset: Tensor, x: Tensor, shards: "Alone") -> "_Mixture":
        """Of answers by users in [0, n_users), to questions in [0, Q): ``offset`` (Q,), ``x`` (Q, r)."""
        used, question = compact(answers.question, len(x))
        answers = replace(answers, question=question)
        weight = answers.counting
        asked, yes = (answers.matrix(value, n_users, len(used)) for value in (weight, weight * answers.label))
        return cls(asked, yes, offset[used, None].double(), x[used].double(), shards)

    def fitted(self, share: Tensor, steps: int, direction: Tensor | None = None) -> _Kinds:
        """EM, from how likely users are of each kind (n, K)."""
        (n, K), total = share.shape, self.shards.total
        people = self.shards.count(n)
        direction = self.x.new_zeros(K, self.x.shape[1]) if direction is None else direction
        for _ in range(steps):
            mass = (total(share.sum(0)) + 1) / (people + K)
            asked, yes = (torch.from_numpy(matrix.T @ share.numpy()) for matrix in (self.asked, self.yes))
            direction = self._better(direction, asked, yes)
            odds = self._odds(direction)
            each = torch.from_numpy(self.yes @ odds.numpy() - self.asked @ F.softplus(odds).numpy()) + mass.log()
            share = torch.softmax(each, dim=1)
        known = mass.log().sum() - 0.5 * _RIDGE * direction.square().sum()
        return _Kinds(direction, mass, share, float(total(each.logsumexp(1).sum()) + known))

    def _odds(self, direction: Tensor) -> Tensor:
        return self.offset + self.x @ direction.T

    def _loss(self, direction: Tensor, asked: Tensor, yes: Tensor) -> Tensor:
        """Of K logistic regressions, (K,): of kind k, ``asked`` (Q, K) people were asked, of whom ``yes`` said yes."""
        odds = self._odds(direction)
        loss = self.shards.total((asked * F.softplus(odds) - yes * odds).sum(0))
        return loss + 0.5 * _RIDGE * direction.square().sum(1)

    def _better(self, direction: Tensor, asked: Tensor, yes: Tensor) -> Tensor:
        """A Newton step in each regression, halved until it does no harm."""
        x, total = self.x, self.shards.total
        p = torch.sigmoid(self._odds(direction))
        first = total((asked * p - yes).T @ x) + _RIDGE * direction
        second = total(torch.stack([(x * w[:, None]).T @ x for w in (asked * p * (1 - p)).T]))
        step: Tensor = torch.linalg.solve(second + _RIDGE * torch.eye(x.shape[1]).to(x), first)
        before = self._loss(direction, asked, yes)
        most = before + 1e-9 * before.abs()  # not rounding: all processes must halve as often
        for _ in range(_HALVINGS):
            worse = self._loss(direction - step, asked, yes) > most
            if not bool(worse.any()):
                return direction - step
            step[worse] /= 2
        step[self._loss(direction - step, asked, yes) > most] = 0.0
        return direction - step
