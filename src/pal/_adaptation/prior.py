"""An empirical-Bayes prior on user weights: a density on the simplex, as atoms with masses.

It is the mean of what is known of each person of training, a mixture of Dirichlet distributions, of which atoms are
draws. A new person's posterior over the atoms is exact; its mean is where their own weights are then looked for. Where
people are a normal continuum, that density around the mean of the atoms may say more than they do
(`pal._adaptation.normal` learns it). What seen people are held to are the likeliest masses of the atoms.
"""

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
from pal.users import Population, concentration_of

__all__ = ["BARRIER", "Prior", "likeliest", "mixed", "population_of", "posterior"]

_GROUPS = 256  # at most, of people who are like one another
_ATOMS = 1024  # about as many are drawn
BARRIER = 0.1  # strength of the divergence beside a normal prior: keeps weights off the edges
_CELLS = 16_000_000  # users or questions x atoms at a time
_LEAST = 3  # people of a group
_LEAST_SURE, _SUREST = 0.05, 1e6  # concentration of people who are at corners, and of people who are all alike
_NEWTON = 8  # steps: people's mean is well inside the atoms
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


def population_of(weights: Tensor, concentration: Tensor, *, linear: bool = True) -> Population:
    """The density on the simplex that people come from: the mean of what is known of each.

    Of a group of people who are like one another it is the Dirichlet distribution around their mean with the variance
    that they have in all: between them, and of each of them. The mean of all and the corners have a hundredth. The mean
    of the density is that of people.

    Args:
        weights: (n, K) of people.
        concentration: (n,) how sure these are.
        linear: whether margins are linear in w; elsewhere an atom takes as long as a prediction of all answers, and the
            groups' means are all that there is of them.
    """
    n, K = weights.shape
    M = max(1, min(_GROUPS, n // _LEAST))
    group = k_means(weights, M, torch.Generator().manual_seed(0), restarts=1)
    size = torch.bincount(group, minlength=M)
    group, size = ((size > 0).cumsum(0) - 1)[group], size[size > 0]

    def mean_of(x: Tensor) -> Tensor:
        return torch.zeros(len(size), K).index_add_(0, at, x[of]) / torch.bincount(at)[:, None]

    # of groups of people rather than of people, who can then be removed from the model: one or two people have the mean
    # and the variance of the three people nearest to them
    at, of = group, torch.arange(n)
    few = (size < _LEAST).nonzero().squeeze(1)
    near = torch.cdist(mean_of(weights)[few], weights).topk(min(_LEAST, n), largest=False).indices
    many = (size >= _LEAST)[group]
    at, of = torch.cat([group[many], few.repeat_interleave(near.shape[1])]), torch.cat([of[many], near.flatten()])
    centre = mean_of(weights)
    variance = mean_of(weights.square() + weights * (1 - weights) / (concentration[:, None] + 1)) - centre.square()

    draws = (_ATOMS * size / n).ceil().long() if linear else torch.ones_like(size)
    drawn = torch.arange(len(size)).repeat_interleave(draws)
    atoms = centre[drawn]
    if linear:
        sure = concentration_of(centre, variance.clamp(min=0)).clamp(_LEAST_SURE, _SUREST)
        gamma = np.random.default_rng(0).standard_gamma((sure[drawn, None] * atoms).double().numpy())
        atoms = torch.from_numpy(gamma / gamma.sum(1, keepdims=True)).float()
    mean, corners = weights.mean(0), 0.97 * torch.eye(K) + 0.03 / K
    atoms = torch.cat([atoms, mean[None], corners]).clamp(min=1e-6)
    atoms = atoms / atoms.sum(1, keepdim=True)
    mass = torch.cat([(size / draws / n)[drawn], torch.full((1 + K,), 1e-2 / (1 + K))])
    return Population(atoms, _with_mean(atoms, mass, mean))


def _with_mean(atoms: Tensor, mass: Tensor, mean: Tensor) -> Tensor:
    """Masses (M,), in proportion to exp(a . atom) times those given, whose mean is as given: draws are off by some."""
    a, x, begin = torch.zeros_like(mean).double(), (atoms - mean).double(), mass.double().log()
    ridge = 1e-9 * torch.eye(len(mean), dtype=torch.float64)
    for _ in range(_NEWTON):
        tilted = torch.softmax(begin + x @ a, dim=0)
        off = tilted @ x
        a -= torch.linalg.solve((x * tilted[:, None]).T @ x - off[:, None] * off + ridge, off)
    tilted = torch.softmax(begin + x @ a, dim=0)
    worse = not bool(tilted.isfinite().all()) or float((tilted @ x).abs().max()) > float((mass @ x.float()).abs().max())
    kept = mass if worse else tilted.float().clamp(min=1e-12)
    return kept / kept.sum()


def likeliest(
    population: Population,
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Population:
    """The same atoms with the masses under which answers are likeliest (Kiefer and Wolfowitz, 1956), by EM.

    Args:
        population: the masses to begin from count as much as some people: where answers say little, they stay.
        model: with its calibration, which says how likely an answer is.
        terms: of the questions.
        answers: of users in [0, n_users).
        n_users: users of whom there are answers here.
        total: sums over all processes, where each has the answers of some users.
    """
    likelihood = _log_likelihood(model, terms, answers, n_users, population.atoms)
    likelihood = (likelihood - likelihood.max(1, keepdim=True).values).exp_()  # of each user, over that of their best
    mass, known = population.mass, _SHRINKAGE * population.mass
    for _ in range(_STEPS):
        mass = total(mass * ((likelihood @ mass).reciprocal() @ likelihood)) + known
        mass = mass / mass.sum()
    return replace(population, mass=mass)


def mixed(here: Population, n: float, elsewhere: Population, m: float) -> Population:
    """The population of n people and of m others: these have no more atoms than are drawn of a new one."""
    atoms, mass = elsewhere.atoms, elsewhere.mass
    if len(atoms) > _ATOMS:  # as often as their masses say
        at = torch.searchsorted(mass.double().cumsum(0), (torch.arange(_ATOMS) + 0.5).double() / _ATOMS)
        atoms = atoms[at.clamp(max=len(atoms) - 1)]
        mass = _with_mean(atoms, torch.full((_ATOMS,), 1 / _ATOMS), elsewhere.mean)
    return Population(torch.cat([here.atoms, atoms]), torch.cat([here.mass * n, mass * m]) / (n + m))


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
        margins = slope * terms.margins[asked] + bias  # on the simplex a constant stays what it is
        answers, weight = replace(answers, question=question), answers.counting
        yes = answers.sums(weight * answers.label, margins, n_users) @ atoms.T
        return yes - answers.sums(weight, F.softplus(margins @ atoms.T), n_users)
    nobody = torch.zeros_like(answers.user)
    columns = [model.prototypes.margin(terms, atom[None], answers.question, nobody) for atom in atoms]
    z = slope * torch.stack(columns, dim=1) + bias
    weight = answers.counting
    gain = (z * answers.label[:, None] - F.softplus(z)) * weight[:, None]
    return torch.zeros(n_users, len(atoms)).index_add_(0, answers.user, gain)
