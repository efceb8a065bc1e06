"""An empirical-Bayes prior on user weights: atoms on the simplex, their masses fitted to the training users' answers.

The masses maximise the likelihood of the users as draws from the mixture (Kiefer and Wolfowitz, 1956), by EM. A new
person's posterior over the atoms is exact; its mean is where their own weights are then looked for.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._k_means import k_means
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers
from pal.users import Population

__all__ = ["learn_population", "posterior"]

ATOMS = 256
_CELLS = 4_000_000  # answers x atoms at a time
_SHRINKAGE = 20.0  # people
_STEPS = 30  # of EM: the likelihood has settled


def learn_population(
    model: RewardModel, terms: Terms, answers: Answers, weights: Tensor, generator: torch.Generator
) -> Population:
    """The density on the simplex that users come from.

    Args:
        model: with its calibration, which says how likely an answer is.
        terms: of the questions.
        answers: of users in [0, U).
        weights: (U, K) of the users, as their answers alone put them.
        generator: for the clustering.
    """
    n, K = weights.shape
    if K == 1:
        return Population.of(torch.ones(1))
    # centres of groups of people rather than people, who can then be removed from the model
    M = max(1, min(ATOMS, n // 3))
    group = k_means(weights, M, generator, restarts=1)
    size = torch.bincount(group, minlength=M)
    centres = torch.zeros(M, K).index_add_(0, group, weights)[size > 0] / size[size > 0, None]
    corners = 0.97 * torch.eye(K) + 0.03 / K
    atoms = torch.cat([centres, weights.mean(0, keepdim=True), corners])
    atoms = atoms.clamp(min=1e-6) / atoms.clamp(min=1e-6).sum(1, keepdim=True)
    likelihood = _log_likelihood(model, terms, answers, n, atoms)
    # EM from the groups' shares, which count as much as some people: where answers say little, they stay
    mass = torch.cat([size[size > 0] / n, torch.full((1 + K,), 1e-2 / (1 + K))])
    shares = mass = mass / mass.sum()
    for _ in range(_STEPS):
        share = torch.softmax(likelihood + mass.log(), dim=1)
        mass = (share.sum(0) + _SHRINKAGE * shares) / (n + _SHRINKAGE)
    return Population(atoms, mass)


def posterior(
    model: RewardModel, population: Population, terms: Terms, answers: Answers, n_users: int
) -> tuple[Tensor, Tensor]:
    """Mean (U, K) and variance (U, K) of the weights of users, given their answers."""
    mean, variance = torch.empty(2, n_users, population.atoms.shape[1])
    step = max(1, _CELLS // len(population.mass))
    order = torch.argsort(answers.user, stable=True)
    counts = torch.bincount(answers.user, minlength=n_users)
    ends = counts.cumsum(0)
    low = 0
    while low < n_users:  # users by the piece, so that any number of them fits
        before = int(ends[low] - counts[low])
        high = int(torch.searchsorted(ends, before + step, right=True))
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
    total = torch.zeros(n_users, len(atoms))
    step = max(1, _CELLS // len(atoms))
    slope, bias = model.config.slope, model.config.side_bias
    each = terms.margins is not None and 2 * len(terms.margins) < len(answers)
    if each and len(terms.margins) * len(atoms) <= _CELLS:  # type: ignore[arg-type]
        # few questions: their probabilities once, then two sums over each user's answers
        z = slope * (terms.margins @ atoms.T) + bias  # type: ignore[operator]
        cost = F.softplus(z)
        for low in range(0, len(answers), step):
            part = answers.take(torch.arange(low, min(low + step, len(answers))))
            gain = z[part.question] * part.label[:, None] - cost[part.question]
            total.index_add_(0, part.user, gain if part.weight is None else gain * part.weight[:, None])
        return total
    for low in range(0, len(answers), step):
        part = answers.take(torch.arange(low, min(low + step, len(answers))))
        if terms.margins is not None:
            margin = terms.margins[part.question] @ atoms.T
        else:
            columns = [
                model.prototypes.margin(terms, atom[None], part.question, torch.zeros_like(part.user)) for atom in atoms
            ]
            margin = torch.stack(columns, dim=1)
        z = slope * margin + bias
        gain = z * part.label[:, None] - F.softplus(z)
        total.index_add_(0, part.user, gain if part.weight is None else gain * part.weight[:, None])
    return total
