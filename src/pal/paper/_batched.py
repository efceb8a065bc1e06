"""Many small models at once: model A with a linear map, on stacked data sets, for several numbers of prototypes.

A margin is z . (2 a - t) with z = f(left - right), t = f(left + right) and the ideal point a = sum_k w_k q_k, so the
gradients are a few products, written out here; M models on one data set share its comparisons. As in `pal.fit`:
pooled models first, the others grown from them along the directions in which users differ (or, as in the paper, all
from random starts), Adam, the checkpoint that is best on validation, and weights solved exactly in the end.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adam import Adam, RowAdam
from pal._eigen import eigh
from pal._k_means import k_means
from pal.losses import sigmoid_slope
from pal.paper._stacks import Answers, Models, Recipe

__all__ = ["train"]

PIECE = 1 << 18  # numbers that a step computes with at once: they stay in the processor's cache


def train(
    answers: Answers,
    validation: Answers,
    latent_dim: int,
    n_prototypes: Sequence[int],
    seeds: Sequence[int],
    recipe: Recipe | None = None,
) -> dict[int, tuple[Models, Tensor]]:
    """Trains a model of each number of prototypes on each data set.

    Args:
        answers: training answers of S data sets.
        validation: of the same users; chooses the checkpoint.
        latent_dim: d.
        n_prototypes: the numbers of prototypes wanted.
        seeds: (S,) of the starts.
        recipe: how.

    Returns:
        For each number of prototypes the S models (M is 1), and the log-loss of each on validation, (S,).
    """
    recipe = recipe or Recipe()
    wanted = tuple(sorted(set(n_prototypes)))
    if recipe.init == "random":
        return _split(_Run(answers, validation, _random(answers, latent_dim, wanted, seeds, recipe), recipe))
    single = _random(answers, latent_dim, (1,), seeds, recipe)
    done = _split(_Run(answers, validation, single, replace(recipe, steps=max(1, recipe.steps // 3))))
    several = tuple(k for k in wanted if k > 1)
    if several:
        done |= _split(_Run(answers, validation, _grown(answers, done[1][0], several, seeds), recipe))
    return {k: done[k] for k in wanted}


def _split(run: "_Run") -> dict[int, tuple[Models, Tensor]]:
    models, loss = run.train()
    return {k: (models.model(m), loss[:, m]) for m, k in enumerate(models.n_prototypes)}


class _Run:
    """Adam on stacked models; the best state on validation of each is kept."""

    def __init__(self, answers: Answers, validation: Answers, models: Models, recipe: Recipe) -> None:
        self.answers, self.validation, self.models, self.recipe = answers, validation, models, recipe
        S, M, _, K = models.logits.shape
        self.n_answers = answers.label.shape[1]
        self.table = models.logits.view(-1, K)
        self.users = RowAdam(len(self.table), K, recipe.user_lr, self.table.device)
        self.optimiser = Adam(
            [([models.maps], recipe.lr, recipe.weight_decay), ([models.points], recipe.prototype_lr, 0.0)]
        )
        self.best = replace(
            models, maps=models.maps.clone(), points=models.points.clone(), logits=models.logits.clone()
        )
        self.best_loss = torch.full((S, M), math.inf)
        self.prior = models.weights.mean(2, keepdim=True)

    def train(self) -> tuple[Models, Tensor]:
        """The best state of each model, and its log-loss on validation (S, M)."""
        recipe, n, steps = self.recipe, self.n_answers, self.recipe.steps
        each = min(n, max(1, round(recipe.batch_size / self.answers.label.shape[2])))  # answers of a user in a step
        generator = torch.Generator().manual_seed(0)  # the same for all: which positions, of answers in random order
        position, order = n, torch.arange(0)
        drops = {max(1, int(share * steps)) for share in recipe.drops}
        for step in range(steps):
            if position + each > n:
                position, order = 0, torch.randperm(n, generator=generator)
            rows = order[position : position + each]
            self._step(self.answers if each == n else self.answers.take(rows))
            position += each
            if (step + 1) % recipe.eval_every == 0 or step + 1 == steps:
                self._evaluate()
            if step + 1 in drops:
                self._restore()
                self.users.lr *= 0.2
                self.optimiser.factor *= 0.2
        return self.best, self.best_loss

    def _step(self, answers: Answers) -> None:
        models, n, total = self.models, answers.label.shape[1], answers.label[0].numel()
        S, M, d, D = models.maps.shape
        weights, points = models.weights, models.latent_points
        twice = 2 * (weights @ points).transpose(1, 2)[:, None].contiguous()
        to_ideal, to_maps = torch.zeros_like(twice), torch.zeros(S, M * d, D)
        for piece in torch.split(torch.arange(n), max(1, PIECE // twice.numel())):
            part = answers if len(piece) == n else answers.take(piece)
            z, t = models.latent(part.difference), models.latent(part.total)
            pull = twice - t
            error = torch.sigmoid((z * pull).sum(4, keepdim=True)).sub_(part.label[..., None, None]).div_(total)
            to_z, to_t = pull.mul_(error), z.mul_(error)
            to_ideal += to_t.sum(1, keepdim=True)
            to_maps.baddbmm_(to_z.view(S, -1, M * d).transpose(1, 2), part.difference.reshape(S, -1, D))
            to_maps.baddbmm_(to_t.view(S, -1, M * d).transpose(1, 2), part.total.reshape(S, -1, D), alpha=-1)
        to_point = 2 * to_ideal.squeeze(1).transpose(1, 2)  # (S, M, N, d), of ideal points
        to_points, to_f = weights.transpose(2, 3) @ to_point, to_maps.view(S, M, d, D)
        if models.ideal_point == "map_of_mixture":
            to_f = to_f + to_points.transpose(2, 3) @ models.points
            to_points = to_points @ models.maps
        models.maps.grad, models.points.grad = to_f, to_points
        self.optimiser.step()
        if weights.shape[3] > 1:
            to_weights = total * to_point @ points.transpose(2, 3)
            grad = weights * (to_weights - (weights * to_weights).sum(3, keepdim=True))
            grad += self.recipe.strength * n / self.n_answers * (weights - self.prior)
            self.users.step(self.table, self.table, grad.view(self.table.shape))

    def _evaluate(self) -> None:
        models, best = self.models, self.best
        self.prior = models.weights.mean(2, keepdim=True)
        margin, label = models.margins(self.validation), self.validation.label[..., None]
        loss = (F.softplus(margin) - label * margin).mean((1, 2))
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        for kept, now in ((best.maps, models.maps), (best.points, models.points), (best.logits, models.logits)):
            kept[better] = now[better]

    def _restore(self) -> None:
        self.models.maps.copy_(self.best.maps)
        self.models.points.copy_(self.best.points)
        self.models.logits.copy_(self.best.logits)


def _random(answers: Answers, d: int, wanted: tuple[int, ...], seeds: Sequence[int], recipe: Recipe) -> Models:
    """Random starts, of the sizes that `pal.fit` gives them."""
    S, _, N, D = answers.difference.shape
    M, K = len(wanted), max(wanted)
    width = d if recipe.ideal_point == "latent" else D
    maps, points = torch.empty(S, M, d, D), torch.zeros(S, M, K, width)
    logits = torch.full((S, M, N, K), -math.inf)
    for s, seed in enumerate(seeds):
        for m, k in enumerate(wanted):
            generator = torch.Generator().manual_seed(seed)
            maps[s, m] = torch.randn(d, D, generator=generator) / math.sqrt(d)
            points[s, m, :k] = torch.randn(k, width, generator=generator) / math.sqrt(width)
            logits[s, m, :, :k] = torch.randn(N, k, generator=generator)
    return Models(maps, points, logits, wanted, recipe.ideal_point)


def _grown(answers: Answers, pooled: Models, wanted: tuple[int, ...], seeds: Sequence[int]) -> Models:
    """Near copies of the pooled prototype, and users leaning to those who differ from it as they do."""
    S, _, N, _ = answers.difference.shape
    M, K, n = len(wanted), max(wanted), answers.label.shape[1]
    margin, z = pooled.margins(answers).squeeze(3), pooled.latent(answers.difference).squeeze(3)
    points = pooled.points.repeat(1, M, K, 1)
    logits = torch.full((S, M, N, K), -math.inf)
    for s, seed in enumerate(seeds):
        slope = sigmoid_slope(margin[s].flatten(), answers.label[s].flatten())
        residual = answers.label[s] - torch.sigmoid(slope * margin[s])
        scores = torch.einsum("nu,nud->ud", residual, z[s]) / (n + 5.0)
        _, vectors = eigh(scores.double().T @ scores.double())
        leading = scores @ vectors[:, -8:].float()
        for m, k in enumerate(wanted):
            generator = torch.Generator().manual_seed(seed)
            group = k_means(leading, k, generator)
            logits[s, m, :, :k] = (0.6 * F.one_hot(group, k).float() + 0.4 / k).log()
            spread = float(pooled.points[s].square().mean().sqrt())
            points[s, m, :k] += 0.1 * spread * torch.randn(k, points.shape[3], generator=generator)
    return Models(pooled.maps.repeat(1, M, 1, 1), points, logits, wanted, pooled.ideal_point)
