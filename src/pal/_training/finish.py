"""After the loop: the shared part is frozen, weights solved, probabilities calibrated, the population learned."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pal._adaptation.normal import learn_precision
from pal._eigen import gram
from pal._training.alone import Alone
from pal._training.holding import FEW_STRENGTHS, Held, Holding, Known
from pal._training.judging import Asked, Judge, mean_of
from pal._training.sample import People, Sample
from pal._training.tables import Tables
from pal.losses import get_loss
from pal.model import ModelConfig, RewardModel
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import Population, UserWeights

__all__ = ["Finished", "finish", "refitted"]

_UNSURE = 100.0  # answers: a model of no more than so many has margins that are twice too sure
_SURE_OF_SLOPE = 4.0  # precision of the log of the slope, when calibration begins
_SHUFFLED = 3.0  # standard errors of the mean margin of answers to questions whose sides were shuffled
TOLD_OF_SLOPE = 0.02  # by an answer that a model learned from: of ten one calibrated it, a fifth of a unit of precision


@dataclass(frozen=True)
class Finished:
    """What `finish` made.

    Attributes:
        model: the model.
        validation_loss: (n,) log-loss on each validation answer, times its weight over the mean weight.
        shared_loss: (n,) the same with everybody's mean weights.
        leaning: in standard errors over people, how much more often training answers are "left" than the model says; of
            one prototype, and 0 where left and right are no sides.
        metrics: plain numbers.
        size: of the margins that the model was calibrated with: their root mean square; 0 where not linear in w.
    """

    model: RewardModel
    validation_loss: Tensor
    shared_loss: Tensor
    leaning: float
    metrics: dict[str, Any]
    size: float


@torch.no_grad()
def finish(
    tables: Tables,
    shape: ModelConfig,
    prototypes: Prototypes,
    trained: UserWeights,
    bias: float,
    start: RewardModel | None = None,
    shards: Alone | None = None,
) -> Finished:
    """Makes the model of training answers; validation answers choose, and calibrate.

    Args:
        tables: all on the CPU.
        shape: what the model is.
        prototypes: the trained shared part, on the CPU.
        trained: users as the loop left them.
        bias: of the left side, in margins.
        start: the model of as many prototypes that training went on from: what it knows of people is added to.
        shards: where the users here are some of all; the metrics are of all, the rest of those here.
    """
    return _Finish(tables, shape, prototypes, trained, bias, start, shards or Alone()).run()


@torch.no_grad()
def refitted(
    tables: Tables,
    done: Finished,
    prototypes: Prototypes,
    trained: UserWeights,
    bias: float,
    start: RewardModel | None = None,
    shards: Alone | None = None,
) -> tuple[RewardModel, float]:
    """The model of training and validation answers together, with what was chosen.

    Args:
        tables: as for `finish`.
        done: what `finish` made.
        prototypes: the shared part, as it is after the validation answers were gone over, too.
        trained: users likewise.
        bias: likewise.
        start: as for `finish`.
        shards: as for `finish`.

    Returns:
        The model, and by how much margins had grown since they were calibrated: a factor; 1 where they are not linear
        in w.
    """
    return _Finish(tables, done.model.config, prototypes, trained, bias, start, shards or Alone()).refit(done)


class _Finish:
    def __init__(
        self,
        tables: Tables,
        shape: ModelConfig,
        prototypes: Prototypes,
        trained: UserWeights,
        bias: float,
        start: RewardModel | None,
        shards: Alone,
    ) -> None:
        tables = replace(tables, answers=tables.answers.telling(shape.noise, len(trained)))
        self.tables, self.prototypes, self.trained, self.bias = tables, prototypes, trained, bias
        self.shards, self.start, self.known = shards, start, None
        here, self.mean = shards.count(len(trained)), shards.mean(trained.weights)
        if start is not None:
            again = shards.count(int((start.users.rows(trained.ids) >= 0).sum()))
            self.known = Known(start.users, start.prior, len(start.users) - again)
            share = self.known.elsewhere / (self.known.elsewhere + here)
            self.mean = torch.lerp(self.mean, start.population, share)
        # what new people are held to was learned from more people than it could be now
        self.settled = self.known is not None and self.known.elsewhere > here
        none = UserWeights.none(shape.n_prototypes, tables.user_ids)
        self.model = RewardModel(replace(shape, side_bias=shape.slope * bias), prototypes, none, self.mean)
        self.terms, self.val_terms = self.model.terms(tables.questions), self.model.terms(tables.val_questions)
        self.precision = torch.full((shape.n_prototypes,) * 2, torch.nan)  # until it is learned

    def run(self) -> Finished:
        answers, val, shards = self.tables.answers, self.tables.val_answers, self.shards
        sample = Sample.of_users(self.tables, shards)
        some, some_val = sample.of(answers), sample.of(val)
        asked = Asked.of(self.tables, shards)
        judge = Judge(self.prototypes, self.val_terms, self.bias, *self._slope_before(asked), asked, shards)
        held = Held("mean", self.model.config.strength)
        new, few_strength = self._held_before(self._holding(self.terms).solves)
        if self.model.n_prototypes > 1:
            self._calibrate(judge.slope(judge.margins(self.trained, val), val))
            self._learn_likely(self.terms, some, sample)
        holding = self._holding(self.terms)
        chooses = holding.solves and not self.model.config.partition and bool(shards.count(len(some_val)))
        if chooses:
            self._learn_precision(self.terms, some, sample)
            holding = self._holding(self.terms)
            held = holding.best(judge, sample, some, some_val)
        people = holding.people(answers, held)
        judged = judge.margins(people, val)
        slope = judge.slope(judged, val)
        self._calibrate(slope)
        solved = sample.people(people, shards)
        self._learn_population(solved)
        if chooses and not self.settled:
            holding, taken = self._holding(self.terms), sample.taken(answers)
            new, few_strength = holding.best_for_new(judge, sample, solved, taken, some, some_val)
        losses = judge.losses(judged, val, slope)
        everybody = replace(val, user=torch.full_like(val.user, len(self.trained)))
        shared_loss = judge.losses(judge.margins(people, everybody), val, slope)
        right = ((judged[0] > 0) == (val.label > 0.5))[val.label != 0.5]
        metrics = {
            "n_prototypes": self.model.n_prototypes,
            "validation_log_loss": mean_of(losses, shards),
            "validation_accuracy": mean_of(right, shards),
            "held_to": held.to,
            "strength": held.strength,
            "few_shot_held_to": new.to,
            "few_shot_strength": new.strength,
        }
        self._change(strength=few_strength)
        self._hold_new(new)
        model, size = self.model.with_users(people), self._size(people.weights)
        return Finished(model, losses, shared_loss, self._leaning(), metrics, size)

    def refit(self, done: Finished) -> tuple[RewardModel, float]:
        grown = self._temper(done)
        chosen = done.metrics
        held = Held(chosen["held_to"], chosen["strength"])
        new = Held(chosen["few_shot_held_to"], chosen["few_shot_strength"])
        known = (self.tables.val_answers.user < len(self.trained)).nonzero().squeeze(1)
        held_out = self.tables.val_answers.take(known).telling(self.model.config.noise, len(self.trained))
        terms, both = _joined(self.terms, self.tables.answers, self.val_terms, held_out)
        sample = Sample.of_users(self.tables, self.shards)
        if self.model.n_prototypes > 1:
            some = sample.of(both)
            self._learn_likely(terms, some, sample)
            if "normal" in (held.to, new.to):
                self._learn_precision(terms, some, sample)
        people = self._holding(terms).people(both, held)
        self._learn_population(sample.people(people, self.shards))
        self._hold_new(new)
        return self.model.with_users(people), grown

    def _holding(self, terms: Terms) -> Holding:
        people = (self.trained, self.mean, self.precision, self.known)
        return Holding(self.model, terms, *people, self.shards)

    def _slope_before(self, asked: Asked) -> tuple[float, float]:
        """The slope of the sigmoid to begin from, and how sure it is: of new questions each known one tells once."""
        if self.start is None:
            config, new = self.model.config, asked.share_new(self.tables.val_answers, self.shards)
            n = (1 - new) * self.shards.count(len(self.tables.answers)) + new * asked.n
            link = get_loss(config.loss).link or 1.0
            return link * n / (n + _UNSURE * config.noise), _SURE_OF_SLOPE * config.noise
        return self.start.config.slope, 1.0 + TOLD_OF_SLOPE * float(self.start.users.n_comparisons.sum())

    def _held_before(self, solves: bool) -> tuple[Held, float]:
        """To what new people are held until something better is found, and how strongly to their posterior."""
        strength = self.model.config.strength  # of the start, where there is one
        if self.start is None and solves:
            strength = FEW_STRENGTHS["posterior"][1]
        if self.settled and self.start is not None and self.start.precision is not None:
            return Held("normal", 1.0), strength
        return Held("posterior", strength), strength

    def _change(self, population: Population | None = None, **config: Any) -> None:
        model = self.model
        prior = model.prior if population is None else population
        self.model = RewardModel(replace(model.config, **config), self.prototypes, model.users, prior)

    def _learn_likely(self, terms: Terms, some: Answers, sample: Sample) -> None:
        """Where seen people are likely to be, as weights from the loop and the sample's answers show it."""
        if self.model.config.partition:
            self._change(Population(torch.eye(self.model.n_prototypes), self.mean.clamp(min=1e-6)))
            return
        people = sample.people(self.trained, self.shards)
        self._change(self._holding(terms).likely(people, some, len(sample.rows)))

    def _learn_population(self, people: People) -> None:
        """What new people come from, as solved weights show it."""
        holding = self._holding(self.terms)
        if holding.solves and not self.model.config.partition:
            self._change(holding.population(people))

    def _learn_precision(self, terms: Terms, some: Answers, sample: Sample) -> None:
        """That of a normal prior with the covariance of people's weights."""
        users = self.trained.take(sample.rows.numpy())
        weights, reliability, total = users.weights, users.reliability, self.shards.total
        self.precision = learn_precision(self.model, terms, some, weights, reliability, total)

    def _hold_new(self, new: Held) -> None:
        """Gives the model the normal prior of new people, where they are held to one."""
        if new.to == "normal":
            before = None if self.start is None or not self.settled else self.start.precision
            precision = self.precision if before is None else before
            self._change(replace(self.model.prior, precision=new.strength * precision))

    def _calibrate(self, slope: float) -> None:
        self._change(slope=slope, side_bias=slope * self.bias)

    def _temper(self, done: Finished) -> float:
        """Gives margins the size at which validation answers calibrated them: those answers cannot do it again.

        Returns:
            By how much they had grown, a factor.
        """
        now = self._size(done.model.users.weights)
        if not done.size or not now:
            return 1.0
        factor = done.size / now
        self.prototypes.rescale(factor)
        self.bias *= factor
        self.terms, self.val_terms = self.terms.times(factor), self.val_terms.times(factor)
        self._change(side_bias=self.model.config.slope * self.bias)
        return now / done.size

    def _leaning(self) -> float:
        """See `Finished`."""
        if self.model.n_prototypes > 1 or self.terms.margins is None or not self.tables.sided:
            return 0.0
        answers = self.tables.answers
        margin = self.terms.margins[answers.question, 0]
        m = margin.double()
        total, square = self.shards.total(torch.stack([m.sum(), m.square().sum()]))
        if total.abs() > _SHUFFLED * square.sqrt():  # a side has what is better: of what people lean to it says nothing
            return 0.0
        p = self.model.probability(margin)
        own = torch.bincount(answers.user, answers.counting * (answers.label - p), len(self.trained)).double()
        total, square = self.shards.total(torch.stack([own.sum(), own.square().sum()]))
        return float(total / square.sqrt().clamp(min=1e-30))

    def _size(self, weights: Tensor) -> float:
        """Root mean square of everybody's margins, the bias in them, each question as often as it was asked.

        0 where they are not linear in w.
        """
        if self.terms.margins is None:
            return 0.0
        second = self.shards.total(gram(weights)) / self.shards.count(len(weights))
        margins = self.terms.margins.double()
        square = ((margins @ second) * margins).sum(1)
        square += self.bias * (2 * margins @ self.shards.mean(weights).double() + self.bias)
        return math.sqrt(mean_of(square[self.tables.answers.question], self.shards))


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
