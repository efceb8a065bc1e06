"""Simulated populations (paper, E.1 and E.3) as stacks, and what trained stacks of models make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._training.finish import finish, refitted
from pal.adaptation import adapt, solve_weights
from pal.embeddings import EmbeddedComparisons
from pal.losses import sigmoid_slope
from pal.model import RewardModel, make_prototypes
from pal.paper._stacks import Answers, Models
from pal.simulation import Population, population
from pal.training import Tabulated, TrainConfig, model_config
from pal.users import UserWeights

__all__ = ["Stack", "accuracy", "aligned", "solved", "unseen_accuracy"]

TEST = 50  # new pairs a user (E.3)
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the prior on user weights, chosen on validation as in `pal.fit`


@dataclass(frozen=True)
class Stack:
    """Data sets of the same shape: answers to train on, to validate on (a tenth) and to test on, and the truth of each.

    Attributes:
        train: of N users.
        validation: of the same users.
        test: of the same users.
        truth: the populations: N users, and after them those whom training does not see.
        n_users: N.
        per_user: answers of a user to train and to validate on; the TEST last ones are for the test.
    """

    train: Answers
    validation: Answers
    test: Answers
    truth: tuple[Population, ...]
    n_users: int
    per_user: int

    @classmethod
    def of(
        cls,
        kinds: Sequence[str],
        seeds: Sequence[int],
        dim: int,
        n_prototypes: int,
        n_users: int,
        per_user: int,
        unseen: int = 0,
        most: int = 0,
    ) -> "Stack":
        """One data set a (kind, seed); with `unseen` more users, and at least `most` answers besides the test."""
        asked = max(per_user, most) + TEST
        truth = tuple(
            population("a", n_users + unseen, n_prototypes, dim, asked, kind, seed)
            for kind, seed in zip(kinds, seeds, strict=True)
        )
        left, right, label = (torch.stack(x) for x in zip(*(_answers(p, n_users, asked) for p in truth), strict=True))
        n = per_user - max(1, per_user // 10)
        parts = (slice(0, n), slice(n, per_user), slice(asked - TEST, asked))
        train, validation, test = (
            Answers(left[:, p] - right[:, p], left[:, p] + right[:, p], label[:, p].contiguous()) for p in parts
        )
        return cls(train, validation, test, truth, n_users, per_user)

    def comparisons(self, s: int, users: slice, answers: slice) -> EmbeddedComparisons:
        """The same answers of some users as a table."""
        asked = len(self.truth[s]) // len(self.truth[s].weights)
        user, position = np.divmod(np.arange(len(self.truth[s])), asked)
        wanted = np.isin(user, np.arange(len(self.truth[s].weights))[users])
        return self.truth[s].data.take(wanted & np.isin(position, np.arange(asked)[answers]))


def _answers(p: Population, n_users: int, asked: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right items (n, N, D) and labels (n, N); a population's rows are sorted by user."""
    rows, items, n = p.comparisons, torch.from_numpy(p.responses), n_users * asked
    left, right = (items[torch.from_numpy(side[:n]).long()] for side in (rows.left, rows.right))
    label = torch.from_numpy(rows.label[:n]).view(n_users, asked).T
    shape = (n_users, asked, -1)
    return left.view(shape).transpose(0, 1), right.view(shape).transpose(0, 1), label


def solved(models: Models, data: Stack) -> Tensor:
    """(S, N, K) user weights, as at the end of `pal.fit`: the prior's strength by validation, then all answers."""
    (k,), S, N = models.n_prototypes, len(data.truth), data.n_users
    if k == 1:
        return torch.ones(S, N, 1)
    own, held_out = (models.prototype_margins(part) for part in (data.train, data.validation))
    prior = models.weights[:, 0].mean(1)
    losses = []
    for strength in STRENGTHS:
        weights = _solve(own, data.train.label, prior, strength)
        margin = torch.einsum("snuk,suk->snu", held_out, weights)
        losses.append([_log_loss(margin[s].flatten(), data.validation.label[s].flatten()) for s in range(S)])
    best = torch.tensor(losses).argmin(0)
    both, label = torch.cat([own, held_out], 1), torch.cat([data.train.label, data.validation.label], 1)
    each = [_solve(both[s : s + 1], label[s : s + 1], prior[s : s + 1], STRENGTHS[int(best[s])]) for s in range(S)]
    return torch.cat(each)


def _solve(margins: Tensor, label: Tensor, prior: Tensor, strength: float) -> Tensor:
    """(S, N, K) weights from prototype margins (S, n, N, K), labels (S, n, N) and priors (S, K)."""
    S, n, N, K = margins.shape
    user = torch.arange(S * N).view(S, 1, N).expand(S, n, N)
    centre = prior[:, None].expand(S, N, K).reshape(-1, K)
    solution = solve_weights(margins.reshape(-1, K), label.flatten(), user.flatten(), S * N, centre, strength)
    return solution.weights.view(S, N, K)


def _log_loss(margin: Tensor, label: Tensor) -> float:
    return float(F.binary_cross_entropy_with_logits(sigmoid_slope(margin, label) * margin, label))


def accuracy(models: Models, weights: Tensor, answers: Answers) -> Tensor:
    """(S,) share of answers predicted right with weights (S, N, K)."""
    right = (models.margins(answers, weights[:, None]).squeeze(3) > 0) == (answers.label > 0.5)
    return right.float().mean((1, 2))


def reward_model(models: Models, data: Stack, s: int) -> RewardModel:
    """The s-th model as `pal.fit` would hand it back."""
    (k,), n = models.n_prototypes, data.train.label.shape[1]
    seen = slice(0, data.n_users)
    train, validation = (data.comparisons(s, seen, part) for part in (slice(0, n), slice(n, data.per_user)))
    config = TrainConfig(model="a", map="linear", latent_dim=models.maps.shape[2], ideal_point=models.ideal_point)
    shape = model_config(train, config, k)
    prototypes = make_prototypes(shape, torch.Generator())
    # what a new map takes its inputs to be, nothing taken from them and a scale of 1, is what these were trained with
    learned = {"points": models.points[s, 0], "f.weight": models.maps[s]}
    prototypes.load_state_dict(prototypes.state_dict() | learned)
    tables = Tabulated(train, validation).of(config)
    weights = models.weights[s, 0]
    users = UserWeights(tables.user_ids, weights, torch.zeros(len(weights), dtype=torch.long), torch.ones(len(weights)))
    done = finish(tables, shape, prototypes, users, 0.0)
    return refitted(tables, done, prototypes, users, 0.0)[0]


def unseen_accuracy(models: Models, data: Stack, s: int, answers: Sequence[int]) -> list[float]:
    """Accuracy on new pairs of the users whom training did not see, after each number of answers of theirs."""
    model, new = reward_model(models, data, s), slice(data.n_users, None)
    test = data.comparisons(s, new, slice(-TEST, None))
    result = []
    for n in answers:
        known = model if n == 0 else model.with_users(adapt(model, data.comparisons(s, new, slice(0, n))))
        right = (known.margins(test) > 0).numpy() == (test.comparisons.label > 0.5)
        result.append(float(right.mean()))
    return result


def aligned(models: Models, weights: Tensor, data: Stack, s: int) -> Tensor:
    """(N, d) learned ideal points in the true latent space.

    Margins do not change with a rotation of the latent space, and their signs not with its scale. Both are taken from
    the maps alone (orthogonal Procrustes of f on f*), so that the points themselves are not fitted to the true ones.
    """
    learned, true = models.maps[s, 0].double(), torch.from_numpy(data.truth[s].map)
    u, size, v = torch.linalg.svd(true @ learned.T)
    rotation = size.sum() / learned.square().sum() * (u @ v)
    points: Tensor = (weights[s] @ models.latent_points[s, 0]).double() @ rotation.T
    return points
