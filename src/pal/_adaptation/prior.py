"""An empirical-Bayes prior on user weights: a density on the simplex, as atoms with masses.

It is the mean of what is known of each person of training, a mixture of Dirichlet distributions, of which atoms are
draws. A new person's posterior over the atoms is exact; its mean is where their own weights are then looked for. Where
people are a normal continuum, that density around the mean of the atoms may say more than they do
(`pal._adaptation.normal` learns it). What seen people are held to are the likeliest masses of the atoms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._k_means import k_means
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers, compact
from pal.users import Population, UserWeights, concentration_of

__all__ = ["BARRIER", "Prior", "likeliest", "population_of", "posterior"]

_GROUPS = 256  # at most, of people who are like one another
_ATOMS = 1024  # about as many are drawn
BARRIER = 0.1  # strength of the divergence beside a normal prior: keeps weights off the edges
_CELLS = 16_000_000  # users or questions x atoms at a time
_DRAWN = 2000  # at most, of a population that stands for people of whom there are no answers
_LEAST = 3  # people of a group
_SHRINKAGE = 20.0  # people
_STEPS = 30  # of EM: the likelihood has settled
_SUREST = 1e6  # concentration of people who are all alike


@dataclass(frozen=True)
class Prior:
    """What the weights of U users are held to.

    Attributes:
        centre: (U, K), each on the simplex.
        variance: (U, K), how far the centre is itself uncertain.
        strength: of KL(centre || w); or (U,), of each user.
        precision: (K, K), of a normal prior around the centre; None for none.
    """

    centre: Tensor
    variance: Tensor
    strength: float | Tensor
    precision: Tensor | None = None

    @classmethod
    def at(cls, centre: Tensor, n_users: int, strength: float, precision: Tensor | None = None) -> "Prior":
        """All held as strongly, to one centre (K,) or each to their own (U, K)."""
        centre = centre.expand(n_users, -1)
        return cls(centre, torch.zeros_like(centre), strength, precision)


def population_of(
    people: UserWeights, linear: bool = True, before: Population | None = None, n_before: float = 0.0
) -> Population:
    """The density on the simplex that people come from: the mean of what is known of each.

    Of a group of people who are like one another it is the Dirichlet distribution around their mean with the variance
    that they have in all: between them, and of each of them. The mean of all and the corners have a hundredth.

    Args:
        people: with their weights and how sure these are.
        linear: whether margins are linear in w; elsewhere an atom takes as long as a prediction of all answers, and the
            groups' means are all that there is of them.
        before: what was known of other people.
        n_before: how many those are.
    """
    own = people.weights
    n, K = own.shape
    others = torch.zeros(0, K) if before is None else _drawn(before, math.ceil(min(n_before, _DRAWN)))
    weights = torch.cat([own, others])
    count = torch.cat([torch.ones(n), torch.full((len(others),), n_before / max(1, len(others)))])
    group, size, atoms = _grouped(weights, count)
    draws = math.ceil(_ATOMS / len(size)) if linear else 1
    if linear:
        square = (weights - atoms[group]).square()
        square[:n] += own * (1 - own) / (people.concentration[:, None] + 1)
        variance = torch.zeros_like(atoms).index_add_(0, group, count[:, None] * square) / size[:, None]
        atoms = _draws(atoms, concentration_of(atoms, variance).clamp(1.0, _SUREST), draws)
    corners = 0.97 * torch.eye(K) + 0.03 / K
    mean = (count[:, None] * weights).mean(0, keepdim=True) / count.mean()
    atoms = torch.cat([atoms, mean, corners]).clamp(min=1e-6)
    mass = torch.cat([(size / size.sum() / draws).repeat(draws), torch.full((1 + K,), 1e-2 / (1 + K))])
    return Population(atoms / atoms.sum(1, keepdim=True), mass / mass.sum())


def likeliest(
    population: Population,
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    n_before: float = 0.0,
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Population:
    """The same atoms with the masses under which answers are likeliest (Kiefer and Wolfowitz, 1956), by EM.

    Args:
        population: the masses to begin from count as much as some people: where answers say little, they stay.
        model: with its calibration, which says how likely an answer is.
        terms: of the questions.
        answers: of users in [0, n_users).
        n_users: users of whom there are answers here.
        n_before: people of whom there are no answers, but whom the population is of.
        total: sums over all processes, where each has the answers of some users.
    """
    likelihood = _log_likelihood(model, terms, answers, n_users, population.atoms)
    mass, known = population.mass, (_SHRINKAGE + n_before) * population.mass
    for _ in range(_STEPS):
        share = torch.softmax(likelihood + mass.log(), dim=1)
        mass = total(share.sum(0)) + known
        mass = mass / mass.sum()
    return replace(population, mass=mass)


def _draws(centre: Tensor, concentration: Tensor, n: int) -> Tensor:
    """From M Dirichlet distributions n draws of each, (n M, K)."""
    shape = (concentration[:, None] * centre).double().numpy()
    drawn = np.random.default_rng(0).standard_gamma(shape, (n, *shape.shape))
    return torch.from_numpy(drawn / drawn.sum(2, keepdims=True)).float().flatten(0, 1)


def _grouped(people: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of people (n, K), who count so many times: the group of each (n,), and the size and mean of each group.

    Means of groups of people rather than people, who can then be removed from the model: of one or two people it is
    the mean of the three nearest to them.
    """
    M = max(1, min(_GROUPS, len(people) // _LEAST))
    group = k_means(people, M, torch.Generator().manual_seed(0), restarts=1)
    members = torch.bincount(group, minlength=M)
    group, members = ((members > 0).cumsum(0) - 1)[group], members[members > 0]
    size = torch.bincount(group, count)
    centres = torch.zeros(len(size), people.shape[1]).index_add_(0, group, count[:, None] * people) / size[:, None]
    few = members < _LEAST
    near = torch.cdist(centres[few], people).topk(min(_LEAST, len(people)), largest=False).indices
    centres[few] = people[near].mean(1)
    return group, size, centres


def _drawn(population: Population, n: int) -> Tensor:
    """Weights (n, K) of people who stand for a population: atoms as often as their masses say."""
    at = torch.searchsorted(population.mass.double().cumsum(0), (torch.arange(n) + 0.5).double() / max(1, n))
    return population.atoms[at.clamp(max=len(population.mass) - 1)]


def posterior(
    model: RewardModel, population: Population, terms: Terms, answers: Answers, n_users: int
) -> tuple[Tensor, Tensor]:
    """Mean (U, K) and variance (U, K) of the weights of users, given their answers."""
    mean, variance = torch.empty(2, n_users, population.atoms.shape[1])
    step = max(1, _CELLS // len(population.mass))
    most = len(answers) if terms.margins is not None and len(terms.margins) <= step else step
    order = torch.argsort(answers.user, stable=True)
    counts = torch.bincount(answers.user, minlength=n_users)
    ends = counts.cumsum(0)
    low = 0
    while low < n_users:  # users by the piece, so that any number of them fits
        before = int(ends[low] - counts[low])
        high = int(torch.searchsorted(ends, before + most, right=True))
        high = min(n_users, max(high, low + 1), low + step)
        part = answers.take(order[before : int(ends[high - 1])])
        part = Answers(part.user - low, part.question, part.label, part.weight)
        likelihood = _log_likelihood(model, terms, part, high - low, population.atoms)
        share = torch.softmax(likelihood + population.mass.log(), dim=1)
        mean[low:high] = share @ population.atoms
        variance[low:high] = (share @ population.atoms.square() - mean[low:high].square()).clamp(min=0)
        low = high
    return mean, variance


def _log_likelihood(model: RewardModel, terms: Terms, answers: Answers, n_users: int, atoms: Tensor) -> Tensor:
    """Log-likelihood (U, M) of each user's answers under each atom; soft labels as shares of an answer."""
    slope, bias = model.config.slope, model.config.side_bias
    if terms.margins is not None:
        asked, question = compact(answers.question, len(terms.margins))
        z = slope * (terms.margins[asked] @ atoms.T) + bias
        return replace(answers, question=question).log_likelihood(z, n_users)
    nobody = torch.zeros_like(answers.user)
    columns = [model.prototypes.margin(terms, atom[None], answers.question, nobody) for atom in atoms]
    z = slope * torch.stack(columns, dim=1) + bias
    weight = answers.counting
    gain = (z * answers.label[:, None] - F.softplus(z)) * weight[:, None]
    return torch.zeros(n_users, len(atoms)).index_add_(0, answers.user, gain)
