"""`pal._training.finish` with users sharded: the same steps, where every sum, mean and choice is over all workers."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pal._adaptation.prior import _SHRINKAGE, _STEPS, ATOMS, _log_likelihood, posterior
from pal._distributed.shards import Shards, slope_of
from pal._k_means import k_means
from pal._training.finish import _SOME, FEW_STRENGTHS, SHOTS, STRENGTHS, Finished, _Finish, _joined, _losses
from pal._training.tables import Tables
from pal.losses import moderated
from pal.model import ModelConfig, margin_moments
from pal.prototypes import Prototypes
from pal.questions import Answers
from pal.users import Population, UserWeights

__all__ = ["finish"]


@torch.no_grad()
def finish(
    shards: Shards,
    tables: Tables,
    shape: ModelConfig,
    prototypes: Prototypes,
    trained: UserWeights,
    bias: float,
    refit: bool,
) -> Finished:
    """The model with the users here, their validation losses, and the metrics of all.

    Args:
        shards: this worker's place.
        tables: of the users here, on the CPU.
        shape: what the model is.
        prototypes: the trained shared part, on the CPU.
        trained: the users here as the loop left them.
        bias: of the left side, in margins.
        refit: end with weights solved on training and validation answers together.
    """
    return _SharedFinish(shards, tables, shape, prototypes, trained, bias).run(refit)


class _SharedFinish(_Finish):
    def __init__(
        self,
        shards: Shards,
        tables: Tables,
        shape: ModelConfig,
        prototypes: Prototypes,
        trained: UserWeights,
        bias: float,
    ) -> None:
        super().__init__(tables, shape, prototypes, trained, bias)
        self.shards = shards
        self.mean = shards.mean(trained.weights)
        self._change(Population.of(self.mean))

    def run(self, refit: bool) -> Finished:
        answers, val, n = self.tables.answers, self.tables.val_answers, len(self.trained)
        seen = (val.user < n).nonzero().squeeze(1)
        any_seen = self.shards.count(len(seen)) > 0
        some, some_val, sample = self._sample()
        held, strength, few_strength = "mean", self.model.config.strength, FEW_STRENGTHS[1]
        if self.model.n_prototypes > 1:
            self._calibrate(self._judge(self.trained, val), val)
            self._learn_population(some, sample)
        if self.solves and not self.model.config.partition and any_seen:
            users = self.trained.take(sample.numpy())
            held, strength = self._best(some, some_val, users)
            few_strength = self._best_for_new(some, some_val, users)
        people = self._people(self.terms, answers, self.trained, held, strength)
        judged = self._judge(people, val)
        self._calibrate(judged, val)
        slope = self.model.config.slope
        losses = _losses(*judged, val, slope)
        shared = _losses(*self._judge(people, replace(val, user=torch.full_like(val.user, n))), val, slope)
        decided = val.label != 0.5
        right = ((judged[0] > 0) == (val.label > 0.5))[decided]
        metrics = {
            "n_prototypes": self.model.n_prototypes,
            "validation_log_loss": self._mean_of(losses),
            "validation_accuracy": self._mean_of(right.float()),
            "held_to": held,
            "strength": strength,
            "few_shot_strength": few_strength,
        }
        if self.solves:
            self._change(strength=few_strength)
        if refit and any_seen:
            terms, both = _joined(self.terms, answers, self.val_terms, val.take(seen))
            people = self._people(terms, both, self.trained, held, strength)
        return Finished(self.model.with_users(people), losses, shared, metrics)

    def _mean_of(self, x: Tensor) -> float:
        total = self.shards.total(torch.stack([x.double().sum(), torch.tensor(float(len(x))).double()]))
        return float(total[0] / total[1]) if total[1] else math.nan

    def _sample(self) -> tuple[Answers, Answers, Tensor]:
        counts = self.shards.of_all(self.tables.counts)
        order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(0))
        few = counts[order].cumsum(0) <= _SOME
        few[0] = True
        chosen = torch.zeros(len(counts), dtype=torch.bool)
        chosen[order[few]] = True
        sample = chosen[self.shards.users].nonzero().squeeze(1)
        place = torch.full((len(self.trained) + 1,), -1)
        place[sample] = torch.arange(len(sample))

        def of(answers: Answers) -> tuple[Tensor, Answers]:
            rows = (place[answers.user] >= 0).nonzero().squeeze(1)
            part = answers.take(rows)
            return rows, replace(part, user=place[part.user])

        rows, some = of(self.tables.answers)
        # where each answer of the sample stands among those of all workers
        mine = self.shards.answers[rows]
        every = torch.cat(self.shards.gathered(mine)).sort().values
        self._place, self._n_some = torch.searchsorted(every, mine), len(every)
        return some, of(self.tables.val_answers)[1], sample

    def _learn_population(self, some: Answers, sample: Tensor) -> None:
        """As `learn_population`: people's weights are known to all workers, their likelihoods to their own."""
        model, K = self.model, self.model.n_prototypes
        if model.config.partition:
            super()._learn_population(some, sample)
            return
        generator = torch.Generator().manual_seed(0)
        everywhere = self.shards.gathered((self.shards.users[sample], self.trained.weights[sample]))
        weights = torch.cat([w for _, w in everywhere])[torch.cat([u for u, _ in everywhere]).argsort()]
        n = len(weights)
        M = max(1, min(ATOMS, n // 3))
        group = k_means(weights, M, generator, restarts=1)
        size = torch.bincount(group, minlength=M)
        centres = torch.zeros(M, K).index_add_(0, group, weights)[size > 0] / size[size > 0, None]
        corners = 0.97 * torch.eye(K) + 0.03 / K
        atoms = torch.cat([centres, weights.mean(0, keepdim=True), corners])
        atoms = atoms.clamp(min=1e-6) / atoms.clamp(min=1e-6).sum(1, keepdim=True)
        likelihood = _log_likelihood(model, self.terms, some, len(sample), atoms)
        mass = torch.cat([size[size > 0] / n, torch.full((1 + K,), 1e-2 / (1 + K))])
        shares = mass = mass / mass.sum()
        for _ in range(_STEPS):
            share = torch.softmax(likelihood + mass.log(), dim=1)
            mass = (self.shards.total(share.sum(0)) + _SHRINKAGE * shares) / (n + _SHRINKAGE)
        self._change(Population(atoms, mass))

    def _best(self, some: Answers, val: Answers, users: UserWeights) -> tuple[str, float]:
        losses: dict[tuple[str, float], float] = {}
        for held, strengths in STRENGTHS.items():
            prior = self._prior(self.terms, some, users, held)
            for strength in strengths:
                judged = self._judge(self._solved(self.terms, some, users, prior, strength), val)
                losses[held, strength] = self._loss(judged, val, self._slope(judged, val))
        return min(losses, key=lambda chosen: losses[chosen])

    def _best_for_new(self, some: Answers, val: Answers, users: UserWeights) -> float:
        n = len(users)
        users = replace(users, reliability=torch.ones(n))
        drawn = torch.randperm(self._n_some, generator=torch.Generator().manual_seed(0)).argsort()[self._place]
        order = drawn.argsort()
        order = order[torch.argsort(some.user[order], stable=True)]
        counts = torch.bincount(some.user, minlength=n)
        rank = torch.arange(len(some)) - (counts.cumsum(0) - counts)[some.user[order]]
        total = dict.fromkeys(FEW_STRENGTHS, 0.0)
        for shots in SHOTS:
            few = some.take(order[rank < shots])
            prior = posterior(self.model, self.model.prior, self.terms, few, n)
            for strength in FEW_STRENGTHS:
                judged = self._judge(self._solved(self.terms, few, users, prior, strength), val)
                total[strength] += self._loss(judged, val, self.model.config.slope)
        return min(total, key=lambda strength: total[strength])

    def _judge(self, people: UserWeights, val: Answers) -> tuple[Tensor, Tensor]:
        mean = self.shards.total(people.weights.sum(0)) / self.shards.count(len(people))
        median = torch.cat(self.shards.gathered(people.concentration)).median()
        table = people.with_unseen(mean, median)
        margin, variance = margin_moments(self.prototypes, self.val_terms, table, val.question, val.user)
        return margin + self.bias, variance

    def _slope(self, judged: tuple[Tensor, Tensor], val: Answers) -> float:
        margin, variance = judged
        slope = slope_of(self.shards, margin, val.label, val.weight, self._link)
        if self.shards.count(int((variance > 0).any())):
            for _ in range(3):
                moderate = moderated(margin, slope**2 * variance)
                slope = slope_of(self.shards, moderate, val.label, val.weight, self._link)
        return slope

    def _calibrate(self, judged: tuple[Tensor, Tensor], val: Answers) -> None:
        slope = self._slope(judged, val)
        self._change(slope=slope, side_bias=slope * self.bias)

    def _loss(self, judged: tuple[Tensor, Tensor], val: Answers, slope: float) -> float:
        losses = _losses(*judged, val, slope)
        return self._mean_of(losses if val.weight is None else losses * val.weight)
