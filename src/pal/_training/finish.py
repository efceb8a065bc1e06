"""After the loop: the shared part is frozen, weights solved, probabilities calibrated, the population learned."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adaptation.fitting import fit_weights, uncertainty
from pal._adaptation.prior import learn_population, posterior
from pal._training.tables import Tables
from pal.losses import get_loss, moderated, sigmoid_slope
from pal.model import ModelConfig, RewardModel, margin_moments
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import Population, UserWeights, concentration_of

__all__ = ["Finished", "finish"]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the prior on seen users' weights
FEW_STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)  # around a new person's posterior mean
SHOTS = (2, 8, 32)  # at which seen people play new ones
_SOME = 100_000  # answers from which strengths and the population are learned


@dataclass(frozen=True)
class Finished:
    """The model, its log-loss on each validation answer (n,), that with everybody's mean weights, and metrics."""

    model: RewardModel
    validation_loss: Tensor
    shared_loss: Tensor
    metrics: dict[str, Any]


@torch.no_grad()
def finish(
    tables: Tables,
    shape: ModelConfig,
    prototypes: Prototypes,
    trained: Tensor,
    reliability: Tensor,
    bias: float,
    refit: bool,
) -> Finished:
    """Makes the model.

    Args:
        tables: all on the CPU.
        shape: what the model is.
        prototypes: the trained shared part, on the CPU.
        trained: (N, K) weights as the loop left them.
        reliability: (N,).
        bias: of the left side, in margins.
        refit: end with weights solved on training and validation answers together.
    """
    return _Finish(tables, shape, prototypes, trained, reliability, bias).run(refit)


class _Finish:
    def __init__(
        self,
        tables: Tables,
        shape: ModelConfig,
        prototypes: Prototypes,
        trained: Tensor,
        reliability: Tensor,
        bias: float,
    ) -> None:
        self.tables, self.prototypes, self.trained, self.reliability = tables, prototypes, trained, reliability
        self.bias, self.n = bias, len(tables.user_ids)
        self.model = RewardModel(
            replace(shape, side_bias=shape.slope * bias),
            prototypes,
            UserWeights.none(shape.n_prototypes, tables.user_ids),
            trained.mean(0),
        )
        self.terms, self.val_terms = self.model.terms(tables.questions), self.model.terms(tables.val_questions)
        K = shape.n_prototypes
        self.solves = K > 1 and (self.terms.margins is not None or shape.partition)

    def run(self, refit: bool) -> Finished:
        answers, val = self.tables.answers, self.tables.val_answers
        seen = (val.user < self.n).nonzero().squeeze(1)
        some, some_val = self._some()
        strength = self.model.config.strength
        if self.solves and not self.model.config.partition and len(seen):
            strength = self._best(STRENGTHS, lambda s: self._people(self.terms, some, s), some_val)
        people = self._people(self.terms, answers, strength)
        margin, variance = self._judge(people, val)
        slope = _slope(margin, variance, val, self._link)
        self._change(slope=slope, side_bias=slope * self.bias)
        losses = _losses(margin, variance, val, slope)
        shared = _losses(*self._judge(people, replace(val, user=torch.full_like(val.user, self.n))), val, slope)
        self._learn_population(people, some, some_val, len(seen) > 0)
        if refit and len(seen):
            known = val.take(seen)
            terms, both = _joined(self.terms, answers, self.val_terms, known)
            people = self._people(terms, both, strength) if self.solves else people
            counts = torch.bincount(both.user, minlength=self.n)
            people = replace(people, n_comparisons=counts)
        decided = val.label != 0.5
        right = (margin > 0) == (val.label > 0.5)
        metrics = {
            "n_prototypes": self.model.n_prototypes,
            "validation_log_loss": float(losses.mean()) if len(losses) else math.nan,
            "validation_accuracy": float(right[decided].float().mean()) if bool(decided.any()) else math.nan,
            "strength": strength,
            "few_shot_strength": self.model.config.strength,
        }
        return Finished(self.model.with_users(people), losses, shared, metrics)

    @property
    def _link(self) -> float:
        return get_loss(self.model.config.loss).link or 1.0

    def _change(self, population: Population | None = None, **config: Any) -> None:
        model = self.model
        prior = model.prior if population is None else population
        self.model = RewardModel(replace(model.config, **config), self.prototypes, model.users, prior)

    def _some(self) -> tuple[Answers, Answers]:
        """Training and validation answers of users who together have no more than enough of them."""
        mask = torch.zeros(self.n + 1, dtype=torch.bool)
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(0))
        few = self.tables.counts[order].cumsum(0) <= _SOME
        few[0] = True
        mask[order[few]] = True
        answers, val = self.tables.answers, self.tables.val_answers
        return answers.take(mask[answers.user].nonzero().squeeze(1)), val.take(mask[val.user].nonzero().squeeze(1))

    def _people(self, terms: Terms, answers: Answers, strength: float) -> UserWeights:
        """Seen users, each shrunk to the mean of all."""
        model, n = self.model, self.n
        counts = torch.bincount(answers.user, minlength=n)
        if not self.solves:
            return UserWeights(self.tables.user_ids, self.trained, counts, self.reliability)
        prior = self.trained.mean(0)
        if model.config.partition:
            corners = Population(torch.eye(model.n_prototypes), prior.clamp(min=1e-6))
            likely, _ = posterior(model, corners, terms, answers, n)
            prior = F.one_hot(likely.argmax(1), model.n_prototypes).float()
        weights = fit_weights(model, terms, answers, n, strength, prior, self.reliability).weights
        variance = uncertainty(model, terms, answers, weights, strength, prior, self.reliability)
        sure = concentration_of(weights, variance) if bool((variance > 0).any()) else torch.full((n,), torch.inf)
        return UserWeights(self.tables.user_ids, weights, counts, self.reliability, sure)

    def _judge(self, people: UserWeights, val: Answers) -> tuple[Tensor, Tensor]:
        """Margins and their variances on validation answers; users unseen in training have the mean weights."""
        table = people.with_unseen(people.weights.mean(0), people.concentration.median())
        margin, variance = margin_moments(self.prototypes, self.val_terms, table, val.question, val.user)
        return margin + self.bias, variance

    def _best(self, strengths: tuple[float, ...], people: Any, val: Answers) -> float:
        """The strength whose people predict the validation answers best."""
        losses = {}
        for strength in strengths:
            margin, variance = self._judge(people(strength), val)
            losses[strength] = _log_loss(margin, variance, val, _slope(margin, variance, val, self._link))
        return min(losses, key=lambda strength: losses[strength])

    def _learn_population(self, people: UserWeights, some: Answers, some_val: Answers, validated: bool) -> None:
        """The prior of new people, and how strongly they are held to their posterior mean: seen people play them."""
        model = self.model
        if model.n_prototypes == 1:
            return
        present, place = torch.unique(some.user.long(), return_inverse=True)
        own = replace(some, user=place)
        if model.config.partition:
            atoms = torch.eye(model.n_prototypes)
            self._change(Population(atoms, people.weights.mean(0).clamp(min=1e-6)))
            return
        generator = torch.Generator().manual_seed(0)
        self._change(learn_population(model, self.terms, own, people.weights[present], generator))
        if not self.solves or not validated:
            self._change(strength=FEW_STRENGTHS[1] if self.solves else model.config.strength)
            return
        order = torch.randperm(len(own), generator=generator)
        order = order[torch.argsort(own.user[order], stable=True)]
        counts = torch.bincount(own.user)
        rank = torch.arange(len(own)) - (counts.cumsum(0) - counts)[own.user[order]]
        total = dict.fromkeys(FEW_STRENGTHS, 0.0)
        val = some_val.take((some_val.user < self.n).nonzero().squeeze(1))
        for shots in SHOTS:
            few = own.take(order[rank < shots])
            mean, between = posterior(self.model, self.model.prior, self.terms, few, len(present))
            for strength in FEW_STRENGTHS:
                weights = fit_weights(self.model, self.terms, few, len(present), strength, mean).weights
                within = uncertainty(self.model, self.terms, few, weights, strength, mean)
                table = replace(
                    people,
                    weights=people.weights.index_copy(0, present, weights),
                    concentration=people.concentration.index_copy(
                        0, present, concentration_of(weights, between + within)
                    ),
                    reliability=torch.ones(self.n),
                )
                margin, variance = self._judge(table, val)
                total[strength] += _log_loss(margin, variance, val, self.model.config.slope)
        self._change(strength=min(total, key=lambda strength: total[strength]))


def _joined(terms: Terms, answers: Answers, more_terms: Terms, more: Answers) -> tuple[Terms, Answers]:
    """Two sets of answers to two sets of questions as one."""

    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    weight = None
    if answers.weight is not None or more.weight is not None:
        weight = torch.cat([torch.ones_like(a.label) if a.weight is None else a.weight for a in (answers, more)])
    names = ("margins", "difference", "offset", "directions")
    joined = Terms(**{name: both(getattr(terms, name), getattr(more_terms, name)) for name in names})
    first = next(getattr(terms, name) for name in names if getattr(terms, name) is not None)
    return joined, Answers(
        torch.cat([answers.user, more.user]),
        torch.cat([answers.question, more.question + len(first)]),
        torch.cat([answers.label, more.label]),
        weight,
    )


def _slope(margin: Tensor, variance: Tensor, val: Answers, start: float) -> float:
    """The slope of the sigmoid that predicts best, margins being uncertain."""
    slope = sigmoid_slope(margin, val.label, start, val.weight)
    if bool((variance > 0).any()):
        for _ in range(3):  # a fixed point: what moderates the margin depends on the slope
            slope = sigmoid_slope(moderated(margin, slope**2 * variance), val.label, start, val.weight)
    return slope


def _log_loss(margin: Tensor, variance: Tensor, val: Answers, slope: float) -> float:
    losses = _losses(margin, variance, val, slope)
    return float(losses.mean() if val.weight is None else (losses * val.weight).mean())


def _losses(margin: Tensor, variance: Tensor, val: Answers, slope: float) -> Tensor:
    logit = moderated(slope * margin, slope**2 * variance)
    return F.binary_cross_entropy_with_logits(logit, val.label, reduction="none")
