"""What people's weights are held to, and how strongly: validation chooses, for seen people and for new ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adaptation.fitting import fit_weights, uncertainty
from pal._adaptation.prior import BARRIER, Prior, likeliest, mixed, population_of, posterior
from pal._training.alone import Alone
from pal._training.judging import Judge
from pal._training.sample import People, Sample
from pal._while_better import while_better
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers
from pal.users import Population, UserWeights, concentration_of

__all__ = ["FEW_STRENGTHS", "Held", "Holding", "Known"]

# The mean of the population is best where people are a continuum, as the centre of a normal prior with their covariance
# (a strength is then a factor on its precision); the posterior under it where they are of a few kinds or say little.
FEW_STRENGTHS = {"posterior": (10.0, 30.0, 100.0, 300.0, 1000.0), "normal": (2.0, 1.0, 0.5, 0.25, 0.12)}
STRENGTHS = {"mean": (3.0, 10.0, 30.0, 100.0), **FEW_STRENGTHS}
ROUNDING = 1e-6  # nats an answer
SHOTS = (2, 8, 32)  # at which seen people play new ones
FOLDS = 5  # of whom those who play are not in the population that they play in


@dataclass(frozen=True)
class Held:
    """What weights are held to, how strongly, and the log-loss that came of it."""

    to: str
    strength: float
    loss: float = math.nan


@dataclass(frozen=True)
class Known:
    """What a model of as many prototypes knew of people, from answers that are not among these.

    Attributes:
        users: weights of those it knew.
        population: of all of them.
        elsewhere: how many of them there are no answers of now.
    """

    users: UserWeights
    population: Population
    elsewhere: int


@dataclass(frozen=True)
class Holding:
    """Weights from answers, with a shared part that is frozen.

    Attributes:
        model: calibrated, with its population.
        terms: of the training questions.
        trained: users as the loop left them.
        mean: (K,) of people's weights.
        precision: (K, K) of the normal prior with the covariance of people's weights; NaN where it was not learned.
        known: what was known before.
        shards: where the users here are some of all.
    """

    model: RewardModel
    terms: Terms
    trained: UserWeights
    mean: Tensor
    precision: Tensor
    known: Known | None
    shards: Alone

    @property
    def solves(self) -> bool:
        """Whether there are weights to solve."""
        return self.model.n_prototypes > 1 and (self.model.prototypes.linear or self.model.config.partition)

    def people(self, answers: Answers, held: Held) -> UserWeights:
        """Seen users with weights from their answers."""
        users = self.trained
        if self.solves:
            (prior,) = self._priors(answers, users, held.to, [held.strength], self.known)
            users = self._solved(answers, users, prior)
        else:
            users = replace(users, n_comparisons=torch.bincount(answers.user, minlength=len(users)))
        if self.known is None:
            return users
        before = self.known.users
        counts = torch.cat([before.n_comparisons, torch.zeros(1, dtype=torch.long)])  # the last: of the unknown
        return replace(
            users, n_comparisons=users.n_comparisons + counts[torch.from_numpy(before.rows(users.ids).copy())]
        )

    def population(self, people: People) -> Population:
        """The density that new people come from, as solved ones show it."""
        return self._mixed(population_of(*people), len(people.weights))

    def likely(self, people: People, answers: Answers, n: int) -> Population:
        """Where seen people are likely to be, as n of those sampled answered, who are numbered in [0, n)."""
        here = population_of(*people, linear=self.model.prototypes.linear)
        here = likeliest(here, self.model, self.terms, answers, n, self.shards.total)
        return self._mixed(here, len(people.weights))

    def _mixed(self, here: Population, n: int) -> Population:
        """With people of whom there are no answers now: as many as go with n who stand for all of whom there are."""
        if self.known is None:
            return here
        elsewhere = self.known.elsewhere * n / self.shards.count(len(self.trained))
        return mixed(here, n, self.known.population, elsewhere)

    def _priors(
        self,
        answers: Answers,
        users: UserWeights,
        held: str,
        strengths: Sequence[float],
        known: Known | None = None,
    ) -> list[Prior]:
        """What users' weights are held to, with each strength (of a normal prior: a factor on its precision).

        Users of whom something was known before are held to that, as strongly as it was known.
        """
        model, n = self.model, len(users)
        if model.config.partition:
            likely, _ = posterior(model, model.prior, self.terms, answers, n)
            priors = [Prior.at(F.one_hot(likely.argmax(1), model.n_prototypes).float(), n, s) for s in strengths]
        elif held == "posterior":
            centre, variance = posterior(model, model.prior, self.terms, answers, n)
            priors = [Prior(centre, variance, strength) for strength in strengths]
        elif held == "normal":
            priors = [Prior.at(model.population, n, BARRIER, strength * self.precision) for strength in strengths]
        else:
            priors = [Prior.at(self.mean, n, strength) for strength in strengths]
        if known is None or model.config.partition:
            return priors
        rows = torch.from_numpy(known.users.rows(users.ids).copy())
        return [_known(prior, rows, known.users) for prior in priors]

    def _solved(self, answers: Answers, users: UserWeights, prior: Prior) -> UserWeights:
        model, terms, n, reliability = self.model, self.terms, len(users), users.reliability
        weights = fit_weights(model, terms, answers, n, prior, reliability).weights
        variance, _ = uncertainty(model, terms, answers, weights, prior, reliability)
        sure = concentration_of(weights, variance) if bool((variance > 0).any()) else torch.full((n,), torch.inf)
        return UserWeights(users.ids, weights, torch.bincount(answers.user, minlength=n), reliability, sure)

    def best(self, judge: Judge, sample: Sample, some: Answers, val: Answers) -> Held:
        """To what seen people's weights are held, so that a sample of them predict their validation answers best."""
        users = self.trained.take(sample.rows.numpy())

        def tries(to: str) -> Iterator[Held]:
            strengths = STRENGTHS[to]
            for strength, prior in zip(strengths, self._priors(some, users, to, strengths, self.known), strict=True):
                judged = judge.margins(self._solved(some, users, prior), val)
                yield Held(to, strength, judge.loss(judged, val, judge.slope(judged, val)))

        found = [while_better(tries(to)) for to in STRENGTHS]
        least = min(held.loss for held in found)
        # people who are all held to what was known of them are the same in each, but for rounding
        return next(held for held in found if held.loss <= least + ROUNDING)

    def best_for_new(
        self, judge: Judge, sample: Sample, people: People, taken: Tensor, some: Answers, val: Answers
    ) -> tuple[Held, float]:
        """To what new people's weights are held, and how strongly to their posterior: seen people play them.

        Args:
            judge: what predicts their validation answers.
            sample: they.
            people: all of them, solved.
            taken: rows of their training answers, ascending.
            some: these answers.
            val: their validation answers.
        """
        users = self.trained.take(sample.rows.numpy())
        n, slope = len(users), self.model.config.slope
        users = replace(users, reliability=torch.ones(n))
        place, count = self.shards.among(taken)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).argsort()[place].argsort()
        order = order[torch.argsort(some.user[order], stable=True)]
        counts = torch.bincount(some.user, minlength=n)
        rank = torch.arange(len(some)) - (counts.cumsum(0) - counts)[some.user[order]]
        shown = [some.take(order[rank < shots]) for shots in SHOTS]
        # somebody's own weights among the atoms would tell of them
        of_others = [(mine, self.population(people.take(others))) for mine, others in sample.folds(FOLDS, self.shards)]

        def priors_of(few: Answers, to: str) -> list[Prior]:
            if to == "normal":
                return self._priors(few, users, to, FEW_STRENGTHS[to])
            centre, variance = torch.empty(2, n, self.model.n_prototypes)
            for mine, population in of_others:
                theirs = few.take(mine[few.user].nonzero().squeeze(1))
                theirs = replace(theirs, user=(mine.cumsum(0) - 1)[theirs.user])
                centre[mine], variance[mine] = posterior(self.model, population, self.terms, theirs, int(mine.sum()))
            return [Prior(centre, variance, strength) for strength in FEW_STRENGTHS[to]]

        def tries(to: str) -> Iterator[Held]:
            all_priors = [priors_of(few, to) for few in shown]
            for strength, *priors in zip(FEW_STRENGTHS[to], *all_priors, strict=True):
                played = [self._solved(few, users, prior) for few, prior in zip(shown, priors, strict=True)]
                losses = [judge.loss(judge.margins(people, val), val, slope) for people in played]
                yield Held(to, strength, sum(losses))

        found = {to: while_better(tries(to)) for to in FEW_STRENGTHS}
        return min(found.values(), key=lambda held: held.loss), found["posterior"].strength


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
