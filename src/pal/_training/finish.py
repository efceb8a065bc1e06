"""After the loop: the shared part is frozen, weights solved, probabilities calibrated, the population learned."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adaptation.fitting import fit_weights, uncertainty
from pal._adaptation.normal import learn_precision
from pal._adaptation.prior import BARRIER, Prior, learn_population, posterior
from pal._training.alone import Alone
from pal._training.sample import Sample
from pal._training.tables import Tables
from pal._while_better import while_better
from pal.losses import get_loss, moderated
from pal.model import ModelConfig, RewardModel, margin_moments
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import Population, UserWeights, concentration_of

__all__ = ["Finished", "finish", "refitted"]

# What a person's weights are held to, and how strongly: validation chooses, for seen people and for new ones. The mean
# of the population is best where people are a continuum, as the centre of a normal prior with their covariance (a
# strength is then a factor on its precision); the posterior under it where they are of a few kinds or say little.
FEW_STRENGTHS = {"posterior": (10.0, 30.0, 100.0, 300.0, 1000.0), "normal": (2.0, 1.0, 0.5, 0.25)}
STRENGTHS = {"mean": (1.0, 3.0, 10.0, 30.0, 100.0), **FEW_STRENGTHS}
SHOTS = (2, 8, 32)  # at which seen people play new ones
FOLDS = 5  # of whom those who play are not in the population that they play in


@dataclass(frozen=True)
class Finished:
    """What `finish` made.

    Attributes:
        model: the model.
        validation_loss: (n,) log-loss on each validation answer, times its weight over the mean weight.
        shared_loss: (n,) the same with everybody's mean weights.
        metrics: plain numbers.
        size: of the margins that the model was calibrated with: their root mean square; 0 where not linear in w.
    """

    model: RewardModel
    validation_loss: Tensor
    shared_loss: Tensor
    metrics: dict[str, Any]
    size: float


@torch.no_grad()
def finish(
    tables: Tables,
    shape: ModelConfig,
    prototypes: Prototypes,
    trained: UserWeights,
    bias: float,
    before: UserWeights | None = None,
    shards: Alone | None = None,
) -> Finished:
    """Makes the model of training answers; validation answers choose, and calibrate.

    Args:
        tables: all on the CPU.
        shape: what the model is.
        prototypes: the trained shared part, on the CPU.
        trained: users as the loop left them.
        bias: of the left side, in margins.
        before: users as a model of as many prototypes knew them, from answers that are not among these.
        shards: where the users here are some of all; the metrics are of all, the rest of those here.
    """
    return _Finish(tables, shape, prototypes, trained, bias, before, shards or Alone()).run()


@torch.no_grad()
def refitted(
    tables: Tables,
    done: Finished,
    prototypes: Prototypes,
    trained: UserWeights,
    bias: float,
    before: UserWeights | None = None,
    shards: Alone | None = None,
) -> RewardModel:
    """The model of training and validation answers together, with what was chosen.

    Args:
        tables: as for `finish`.
        done: what `finish` made.
        prototypes: the shared part, as it is after the validation answers were gone over, too.
        trained: users likewise.
        bias: likewise.
        before: as for `finish`.
        shards: as for `finish`.
    """
    return _Finish(tables, done.model.config, prototypes, trained, bias, before, shards or Alone()).refit(done)


class _Finish:
    def __init__(
        self,
        tables: Tables,
        shape: ModelConfig,
        prototypes: Prototypes,
        trained: UserWeights,
        bias: float,
        before: UserWeights | None,
        shards: Alone,
    ) -> None:
        self.tables, self.prototypes, self.trained, self.bias, self.before = tables, prototypes, trained, bias, before
        self.shards, self.mean = shards, shards.mean(trained.weights)
        none = UserWeights.none(shape.n_prototypes, tables.user_ids)
        self.model = RewardModel(replace(shape, side_bias=shape.slope * bias), prototypes, none, self.mean)
        self.terms, self.val_terms = self.model.terms(tables.questions), self.model.terms(tables.val_questions)
        self.solves = shape.n_prototypes > 1 and (self.terms.margins is not None or shape.partition)
        self.precision = torch.full((shape.n_prototypes,) * 2, torch.nan)  # until it is learned

    def run(self) -> Finished:
        answers, val, n = self.tables.answers, self.tables.val_answers, len(self.trained)
        sample = Sample.of_users(self.tables, self.shards)
        some, some_val = sample.of(answers), sample.of(val)
        held, strength = "mean", self.model.config.strength
        few_strength = FEW_STRENGTHS["posterior"][1]
        new = _Held("posterior", few_strength, math.nan)
        if self.model.n_prototypes > 1:
            self._calibrate(self._judge(self.trained, val), val)
            self._learn_population(self.terms, some, sample)
        if self.solves and not self.model.config.partition and self.shards.count(len(some_val)):
            users = self.trained.take(sample.rows.numpy())
            self._learn_precision(self.terms, some, sample)
            held, strength = self._best(some, some_val, users)
            new, few_strength = self._best_for_new(sample, some, some_val, users)
        people = self._people(self.terms, answers, held, strength)
        judged = self._judge(people, val)
        self._calibrate(judged, val)
        slope = self.model.config.slope
        losses = self._weighted(_losses(*judged, val, slope), val)
        shared = self._judge(people, replace(val, user=torch.full_like(val.user, n)))
        decided = val.label != 0.5
        right = ((judged[0] > 0) == (val.label > 0.5))[decided]
        metrics = {
            "n_prototypes": self.model.n_prototypes,
            "validation_log_loss": self._mean_of(losses),
            "validation_accuracy": self._mean_of(right),
            "held_to": held,
            "strength": strength,
            "few_shot_held_to": new.to,
            "few_shot_strength": new.strength,
        }
        if self.solves:
            self._change(strength=few_strength)
        self._hold_new(metrics)
        shared_loss = self._weighted(_losses(*shared, val, slope), val)
        return Finished(self.model.with_users(people), losses, shared_loss, metrics, self._size(people.weights))

    def refit(self, done: Finished) -> RewardModel:
        self._temper(done)
        held, held_new = done.metrics["held_to"], done.metrics["few_shot_held_to"]
        known = (self.tables.val_answers.user < len(self.trained)).nonzero().squeeze(1)
        terms, both = _joined(self.terms, self.tables.answers, self.val_terms, self.tables.val_answers.take(known))
        if self.model.n_prototypes > 1:
            sample = Sample.of_users(self.tables, self.shards)
            some = sample.of(both)
            self._learn_population(terms, some, sample)
            if "normal" in (held, held_new):
                self._learn_precision(terms, some, sample)
        self._hold_new(done.metrics)
        people = self._people(terms, both, held, done.metrics["strength"])
        return self.model.with_users(people)

    def _change(self, population: Population | None = None, **config: Any) -> None:
        model = self.model
        prior = model.prior if population is None else population
        self.model = RewardModel(replace(model.config, **config), self.prototypes, model.users, prior)

    def _learn_population(self, terms: Terms, some: Answers, sample: Sample) -> None:
        """The prior that people come from, as the loop's weights show it."""
        if self.model.config.partition:
            self._change(Population(torch.eye(self.model.n_prototypes), self.mean.clamp(min=1e-6)))
            return
        self._change(self._population(terms, some, sample))

    def _population(self, terms: Terms, some: Answers, sample: Sample) -> Population:
        weights = self.shards.of_all(self.trained.weights)[sample.chosen]
        return learn_population(self.model, terms, some, len(sample.rows), weights, self.shards.total)

    def _learn_precision(self, terms: Terms, some: Answers, sample: Sample) -> None:
        """That of a normal prior with the covariance of people's weights."""
        users = self.trained.take(sample.rows.numpy())
        weights, reliability, total = users.weights, users.reliability, self.shards.total
        self.precision = learn_precision(self.model, terms, some, weights, reliability, total)

    def _hold_new(self, metrics: dict[str, Any]) -> None:
        """Gives the model the normal prior of new people, where they are held to one."""
        if metrics["few_shot_held_to"] == "normal":
            precision = metrics["few_shot_strength"] * self.precision
            self._change(replace(self.model.prior, precision=precision))

    def _mean_of(self, x: Tensor) -> float:
        """The mean of ``x`` (n,) over all processes; NaN where there is nothing."""
        total = self.shards.total(torch.stack([x.double().sum(), torch.tensor(float(len(x))).double()]))
        return float(total[0] / total[1]) if total[1] else math.nan

    def _any(self, x: Tensor) -> bool:
        return self.shards.count(int(x.any())) > 0

    # -- people -------------------------------------------------------------------------------------------------

    def _people(self, terms: Terms, answers: Answers, held: str, strength: float) -> UserWeights:
        """Seen users with weights from their answers."""
        users = self.trained
        if self.solves:
            (prior,) = self._priors(terms, answers, users, held, [strength], self.before)
            users = self._solved(terms, answers, users, prior)
        else:
            users = replace(users, n_comparisons=torch.bincount(answers.user, minlength=len(users)))
        if self.before is None:
            return users
        counts = torch.cat([self.before.n_comparisons, torch.zeros(1, dtype=torch.long)])  # the last: of the unknown
        return replace(
            users, n_comparisons=users.n_comparisons + counts[torch.from_numpy(self.before.rows(users.ids).copy())]
        )

    def _priors(
        self,
        terms: Terms,
        answers: Answers,
        users: UserWeights,
        held: str,
        strengths: Sequence[float],
        before: UserWeights | None = None,
    ) -> list[Prior]:
        """What users' weights are held to, with each strength (of a normal prior: a factor on its precision).

        Users of whom something was known before are held to that, as strongly as it was known.
        """
        model, n = self.model, len(users)
        if model.config.partition:
            likely, _ = posterior(model, model.prior, terms, answers, n)
            priors = [Prior.at(F.one_hot(likely.argmax(1), model.n_prototypes).float(), n, s) for s in strengths]
        elif held == "posterior":
            centre, variance = posterior(model, model.prior, terms, answers, n)
            priors = [Prior(centre, variance, strength) for strength in strengths]
        elif held == "normal":
            priors = [Prior.at(model.population, n, BARRIER, strength * self.precision) for strength in strengths]
        else:
            priors = [Prior.at(self.mean, n, strength) for strength in strengths]
        if before is None or model.config.partition:
            return priors
        rows = torch.from_numpy(before.rows(users.ids).copy())
        return [_known(prior, rows, before) for prior in priors]

    def _solved(self, terms: Terms, answers: Answers, users: UserWeights, prior: Prior) -> UserWeights:
        model, n, reliability = self.model, len(users), users.reliability
        weights = fit_weights(model, terms, answers, n, prior, reliability).weights
        variance, _ = uncertainty(model, terms, answers, weights, prior, reliability)
        sure = concentration_of(weights, variance) if bool((variance > 0).any()) else torch.full((n,), torch.inf)
        return UserWeights(users.ids, weights, torch.bincount(answers.user, minlength=n), reliability, sure)

    def _best(self, some: Answers, val: Answers, users: UserWeights) -> tuple[str, float]:
        """To what seen people's weights are held and how strongly, so that they predict the validation answers best."""

        def tries(held: str) -> Iterator[_Held]:
            strengths = STRENGTHS[held]
            priors = self._priors(self.terms, some, users, held, strengths, self.before)
            for strength, prior in zip(strengths, priors, strict=True):
                judged = self._judge(self._solved(self.terms, some, users, prior), val)
                yield _Held(held, strength, self._log_loss(judged, val, self._slope(judged, val)))

        best = min((while_better(tries(held)) for held in STRENGTHS), key=lambda found: found.loss)
        return best.to, best.strength

    def _best_for_new(self, sample: Sample, some: Answers, val: Answers, users: UserWeights) -> "tuple[_Held, float]":
        """To what new people's weights are held, and how strongly to their posterior: seen people play them."""
        n, answers = len(users), self.tables.answers
        users = replace(users, reliability=torch.ones(n))
        place, count = self.shards.among(sample.taken(answers))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).argsort()[place].argsort()
        order = order[torch.argsort(some.user[order], stable=True)]
        counts = torch.bincount(some.user, minlength=n)
        rank = torch.arange(len(some)) - (counts.cumsum(0) - counts)[some.user[order]]
        shown = [some.take(order[rank < shots]) for shots in SHOTS]
        # somebody's own weights among the atoms would tell of them
        of_others = [
            (mine, self._population(self.terms, others.of(answers), others))
            for mine, others in sample.folds(FOLDS, self.shards)
        ]

        def priors_of(few: Answers, held: str) -> list[Prior]:
            if held == "normal":
                return self._priors(self.terms, few, users, held, FEW_STRENGTHS[held])
            centre, variance = torch.empty(2, n, self.model.n_prototypes)
            for mine, population in of_others:
                theirs = few.take(mine[few.user].nonzero().squeeze(1))
                found = posterior(self.model, population, self.terms, theirs, n)
                centre[mine], variance[mine] = (each[mine] for each in found)
            return [Prior(centre, variance, strength) for strength in FEW_STRENGTHS[held]]

        def tries(held: str) -> Iterator[_Held]:
            all_priors = [priors_of(few, held) for few in shown]
            for strength, *priors in zip(FEW_STRENGTHS[held], *all_priors, strict=True):
                played = [self._solved(self.terms, few, users, prior) for few, prior in zip(shown, priors, strict=True)]
                losses = [self._log_loss(self._judge(people, val), val, self.model.config.slope) for people in played]
                yield _Held(held, strength, sum(losses))

        found = {held: while_better(tries(held)) for held in FEW_STRENGTHS}
        return min(found.values(), key=lambda each: each.loss), found["posterior"].strength

    # -- probabilities ------------------------------------------------------------------------------------------

    def _judge(self, people: UserWeights, val: Answers) -> tuple[Tensor, Tensor]:
        """Margins and their variances on validation answers; users unseen in training have the mean weights."""
        median = torch.cat(self.shards.gathered(people.concentration)).median()
        table = people.with_unseen(self.shards.mean(people.weights), median)
        margin, variance = margin_moments(self.prototypes, self.val_terms, table, val.question, val.user)
        return margin + self.bias, variance

    def _slope(self, judged: tuple[Tensor, Tensor], val: Answers) -> float:
        """The slope of the sigmoid that predicts best, margins being uncertain."""
        (margin, variance), start = judged, get_loss(self.model.config.loss).link or 1.0
        slope = self.shards.slope(margin, val.label, start, val.weight)
        if self._any(variance > 0):
            for _ in range(3):  # a fixed point: what moderates the margin depends on the slope
                slope = self.shards.slope(moderated(margin, slope**2 * variance), val.label, start, val.weight)
        return slope

    def _calibrate(self, judged: tuple[Tensor, Tensor], val: Answers) -> None:
        slope = self._slope(judged, val)
        self._change(slope=slope, side_bias=slope * self.bias)

    def _temper(self, done: Finished) -> None:
        """Gives margins the size at which validation answers calibrated them: those answers cannot do it again."""
        now = self._size(done.model.users.weights)
        if not done.size or not now:
            return
        factor = done.size / now
        self.prototypes.rescale(factor)
        self.bias *= factor
        self.terms, self.val_terms = self.terms.times(factor), self.val_terms.times(factor)
        self._change(side_bias=self.model.config.slope * self.bias)

    def _size(self, weights: Tensor) -> float:
        """Root mean square of everybody's margins, each question as often as it was asked; 0 where not linear in w."""
        if self.terms.margins is None:
            return 0.0
        second = _second_moment(weights, self.shards)
        margins = self.terms.margins.double()
        square = ((margins @ second) * margins).sum(1)
        return math.sqrt(self._mean_of(square[self.tables.answers.question]))

    def _log_loss(self, judged: tuple[Tensor, Tensor], val: Answers, slope: float) -> float:
        return self._mean_of(self._weighted(_losses(*judged, val, slope), val))

    def _weighted(self, losses: Tensor, val: Answers) -> Tensor:
        """Losses of answers, each times its weight over the mean weight."""
        mean = 1.0 if val.weight is None else self._mean_of(val.weight)
        return losses if val.weight is None or not mean else losses * (val.weight / mean)


@dataclass(frozen=True)
class _Held:
    """What weights were held to, how strongly, and the log-loss that came of it."""

    to: str
    strength: float
    loss: float


def _known(prior: Prior, rows: Tensor, before: UserWeights) -> Prior:
    """The prior of users, those who were known before (``rows`` (n,) of them, -1 if not) held to what was known."""
    known, n = (rows >= 0).nonzero().squeeze(1), len(rows)
    rows = rows[known]
    sure = before.concentration[rows]
    # of weights whose certainty was not kept all that is known is how many answers there were
    sure = torch.where(sure.isfinite(), sure, before.n_comparisons[rows].float() + 1)
    centre, variance = prior.centre.expand(n, -1).clone(), prior.variance.clone()
    strength = torch.as_tensor(prior.strength).expand(n).float().clone()
    centre[known], variance[known], strength[known] = before.weights[rows], 0.0, sure.clamp(min=1e-3)
    return replace(prior, centre=centre, variance=variance, strength=strength)


def _second_moment(weights: Tensor, shards: Alone) -> Tensor:
    """(K, K) float64, of all users' weights, those here (n, K)."""
    n, K = weights.shape
    total = torch.zeros(K, K, dtype=torch.float64)
    for piece in torch.split(weights, 1 << 17):  # millions of users are not copied at once
        wide = piece.double()
        total += wide.T @ wide
    return shards.total(total) / shards.count(n)


def _joined(terms: Terms, answers: Answers, more_terms: Terms, more: Answers) -> tuple[Terms, Answers]:
    """Two sets of answers to two sets of questions as one."""

    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    weight = None
    if answers.weight is not None or more.weight is not None:
        weight = torch.cat([a.counting for a in (answers, more)])
    names = ("margins", "difference", "offset", "directions")
    joined = Terms(**{name: both(getattr(terms, name), getattr(more_terms, name)) for name in names})
    first = next(getattr(terms, name) for name in names if getattr(terms, name) is not None)
    return joined, Answers(
        torch.cat([answers.user, more.user]),
        torch.cat([answers.question, more.question + len(first)]),
        torch.cat([answers.label, more.label]),
        weight,
    )


def _losses(margin: Tensor, variance: Tensor, val: Answers, slope: float) -> Tensor:
    logit = moderated(slope * margin, slope**2 * variance)
    return F.binary_cross_entropy_with_logits(logit, val.label, reduction="none")
