"""An empirical-Bayes prior on user weights: atoms on the simplex, their masses fitted to the training users' answers.

The masses maximise the likelihood of the users as draws from the mixture (Kiefer and Wolfowitz, 1956), by EM. A new
person's posterior over the atoms is exact; its mean is where their own weights are then looked for. Where people are a
continuum, a normal density around the mean of the atoms says more than they do (`pal._adaptation.normal` learns it).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._k_means import k_means
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers, compact
from pal.users import Population

__all__ = ["BARRIER", "Prior", "learn_population", "posterior"]

ATOMS = 256
BARRIER = 0.1  # strength of the divergence beside a normal prior: keeps weights off the edges
_CELLS = 16_000_000  # users or questions x atoms at a time
_DRAWN = 2000  # at most, of a population that stands for people of whom there are no answers
_LEAST = 3  # people whose mean is an atom
_SHRINKAGE = 20.0  # people
_STEPS = 30  # of EM: the likelihood has settled


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


def learn_population(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    weights: Tensor,
    total: Callable[[Tensor], Tensor] = lambda x: x,
    before: Population | None = None,
    n_before: float = 0.0,
) -> Population:
    """The density on the simplex that users come from.

    Args:
        model: with its calibration, which says how likely an answer is.
        terms: of the questions.
        answers: of users in [0, n_users).
        n_users: users of whom there are answers here.
        weights: (U, K) of all users, as their answers alone put them.
        total: sums over all processes, where each has the answers of some users.
        before: what was known of other people.
        n_before: how many those are.
    """
    n, K = weights.shape
    if K == 1:
        return Population.of(torch.ones(1))
    others = torch.zeros(0, K) if before is None else _drawn(before, math.ceil(min(n_before, _DRAWN)))
    people = torch.cat([weights, others])
    count = torch.cat([torch.ones(n), torch.full((len(others),), n_before / max(1, len(others)))])
    # means of groups of people rather than people, who can then be removed from the model
    M = max(1, min(ATOMS, len(people) // _LEAST))
    group = k_means(people, M, torch.Generator().manual_seed(0), restarts=1)
    members = torch.bincount(group, minlength=M)
    group, members = ((members > 0).cumsum(0) - 1)[group], members[members > 0]
    size = torch.bincount(group, count)
    centres = torch.zeros(len(size), K).index_add_(0, group, count[:, None] * people) / size[:, None]
    few = members < _LEAST
    near = torch.cdist(centres[few], people).topk(min(_LEAST, len(people)), largest=False).indices
    centres[few] = people[near].mean(1)
    corners = 0.97 * torch.eye(K) + 0.03 / K
    mean = (count[:, None] * people).mean(0, keepdim=True) / count.mean()
    atoms = torch.cat([centres, mean, corners])
    atoms = atoms.clamp(min=1e-6) / atoms.clamp(min=1e-6).sum(1, keepdim=True)
    likelihood = _log_likelihood(model, terms, answers, n_users, atoms)
    # EM from the groups' shares, which count as much as some people: where answers say little, they stay
    mass = torch.cat([size / size.sum(), torch.full((1 + K,), 1e-2 / (1 + K))])
    shares = mass = mass / mass.sum()
    known = torch.bincount(group[n:], count[n:], minlength=len(mass)) + _SHRINKAGE * shares
    for _ in range(_STEPS):
        share = torch.softmax(likelihood + mass.log(), dim=1)
        mass = total(share.sum(0)) + known
        mass = mass / mass.sum()
    return Population(atoms, mass)


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
