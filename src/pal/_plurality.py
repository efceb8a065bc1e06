"""Is there plurality? A paired test over users of what several prototypes gain on one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "LEVEL",
    "Evidence",
    "Gain",
    "agreement",
    "gain_of",
    "is_worse",
    "middle_good",
    "p_in_words",
    "personal_gains",
    "plurality",
    "smallest_good",
]

LEVEL = 0.05  # of the test; the probability of seeing plurality where there is none
_FLIPS = 4000
_ROUNDING = 1e-6  # nats an answer that a float32 probability may be off by: no gain
_SHUFFLES = 399
_SIDE = 300  # people, and questions, that are looked at
_SAME = 1e-9  # rounding
_BLOCK = 2_000_000  # flips x users at a time

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Gain:
    """How much lower one model's held-out loss is than another's.

    Attributes:
        mean: nats an answer.
        error: its standard error, answers of one user going together.
    """

    mean: float
    error: float


class Evidence(NamedTuple):
    """P-values of "all people are alike".

    Attributes:
        held_out: of what several prototypes gain on held-out answers: `plurality`.
        agreeing: of how far people agree with one another: `agreement`; NaN where it has nothing to go by.
    """

    held_out: float
    agreeing: float = math.nan

    @property
    def p(self) -> float:
        """Twice the smaller, which keeps the level; the first alone where there is no second."""
        return self.held_out if math.isnan(self.agreeing) else min(1.0, 2 * self.held_out, 2 * self.agreeing)


def gain_of(difference: Array, user: Array) -> Gain:
    """The gain of paired losses: differences (n,) on the same answers of users (n,)."""
    if not len(difference):
        return Gain(0.0, 0.0)
    centred = difference - difference.mean()
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=centred)
    return Gain(float(difference.mean()), float(np.sqrt((sums**2).sum()) / len(difference)))


def personal_gains(losses: Mapping[int, Array], shared: Mapping[int, Array] | None = None) -> dict[int, Array]:
    """What people's own weights gain on each answer (n,), by number of prototypes; see `plurality`."""
    without = {k: min([losses[1], *([] if shared is None else [shared[k]])], key=np.mean) for k in losses}
    return {k: without[k] - losses[k] for k in losses}


def plurality(
    losses: Mapping[int, Array], user: Array, seed: int = 0, shared: Mapping[int, Array] | None = None
) -> float:
    """p-value of "one prototype is as good as any number of them", against "some number is better".

    Users' summed gains on one prototype have their signs flipped at random, the same flips for every number of
    prototypes, and the largest t statistic is compared with that of the flipped ones: so trying several numbers does
    not make a false alarm likelier (Westfall and Young, 1993). Losses must be of answers that no model has seen;
    then a model that only overfits gains less than nothing, and the test is conservative.

    Args:
        losses: held-out losses (n,) of the same answers, by number of prototypes; 1 must be among them.
        user: (n,) of whom each answer is.
        seed: of the flips.
        shared: losses (n,) of the same models with the population's weights for everybody. Where these are lower than
            those of one prototype, the gain is counted from them: what a larger or longer trained map gains for all
            alike is not plurality.

    Returns:
        p, at least 1 / 4001; 1.0 where there is nothing to compare.
    """
    if 1 not in losses or len(losses) < 2 or not len(user):
        return 1.0
    row = np.unique(user, return_inverse=True)[1]
    personal = personal_gains(losses, shared)
    several = [k for k in sorted(losses) if k != 1]
    real = np.array([float(np.mean(personal[k])) > _ROUNDING for k in several])
    if not real.any():
        return 1.0
    gains = np.stack([np.bincount(row, weights=personal[k]) for k in several])
    gains = gains / np.maximum(np.sqrt((gains**2).sum(1)), 1e-300)[:, None]  # the same for every flip
    seen = float(_t(gains.sum(1), gains.shape[1])[real].max())
    rng = np.random.default_rng(seed)
    larger, done = 0, 0
    while done < _FLIPS:
        n = min(_FLIPS - done, max(1, _BLOCK // gains.shape[1]))
        signs = rng.integers(2, size=(n, gains.shape[1]), dtype=np.int8) * 2.0 - 1.0
        larger += int((_t(signs @ gains.T, gains.shape[1]).max(1) >= seen - 1e-12).sum())
        done += n
    return (larger + 1) / (_FLIPS + 1)


def agreement(user: Array, question: Array, label: Array, seed: int = 0) -> float:
    """p-value of "who gives which answer to a question is chance", against "some people agree, whatever is asked".

    The sum over pairs of people of (sum over what both were asked of z_i z_j)^2, z a label less the question's mean
    over its standard deviation, beside the same with labels shuffled among those who were asked. It takes no model, and
    tells more than held-out answers where these are few. Who was asked what nobody else was has no part in it. Of
    people and of questions the 300 with the most answers are looked at.

    Args:
        user: (n,) of whom each answer is.
        question: (n,) to what.
        label: (n,).
        seed: of the shuffles.

    Returns:
        p, at least 1 / 400; NaN where no two people share two questions that are answered in more ways than one.
    """
    for column in (0, 1):
        kept = _busiest((question, user)[column])
        user, question, label = user[kept], question[kept], label[kept]
    people, question = (np.unique(column, return_inverse=True)[1] for column in (user, question))
    width = int(people.max(initial=0)) + 1
    # who answers again as before agrees with nobody but themselves: the mean of what a person said counts once
    cell, row, times = np.unique(question * width + people, return_inverse=True, return_counts=True)
    people, question, z = cell % width, cell // width, np.bincount(row, label) / times
    asked = np.bincount(question)
    z = z - (np.bincount(question, z) / asked)[question]
    variance = np.bincount(question, z**2) / asked
    z = z / np.sqrt(np.where(variance > _SAME, variance, np.inf))[question]
    varied = np.zeros((width, len(asked)))
    varied[people, question] = z != 0
    if not (np.triu(varied @ varied.T, 1) > 1).any():
        return float("nan")

    def agreeing(z: Array) -> float:
        m = np.zeros((width, len(asked)))
        m[people, question] = z
        both = m @ m.T if width < len(asked) else m.T @ m
        return float(np.square(both).sum() - np.square(np.square(m).sum(1)).sum())  # without each beside themselves

    rng, seen = np.random.default_rng(seed), agreeing(z) * (1 - _SAME)
    larger = sum(agreeing(z[np.argsort(question + rng.random(len(z)))]) >= seen for _ in range(_SHUFFLES))
    return (larger + 1) / (_SHUFFLES + 1)


def is_worse(losses: Mapping[int, Array], user: Array) -> bool:
    """Whether the best of several prototypes predicts worse than one by a standard error or more (of nothing: yes)."""
    if not len(user):
        return True
    gain = gain_of(losses[1] - min((loss for k, loss in losses.items() if k > 1), key=np.mean), user)
    return gain.mean <= -gain.error


def _busiest(column: Array) -> Array:
    """Which rows (n,) have one of the values of a column that have the most rows."""
    _, value, count = np.unique(column, return_inverse=True, return_counts=True)
    return np.isin(value, np.argsort(-count, kind="stable")[:_SIDE])


def _t(total: Array, n: int) -> Array:
    """T statistics of sums of n numbers whose squares sum to one."""
    variance = np.clip(1.0 - total**2 / n, 1e-12, None)
    return np.asarray(total / np.sqrt(variance))


def p_in_words(p: float) -> str:
    """A p-value as it is printed, on which side of the level it stands."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.4f}" if abs(p - LEVEL) <= 1e-3 else f"p = {p:.3f}"


def _good(losses: Mapping[int, Array], user: Array) -> list[int]:
    """The numbers of prototypes whose loss is within one standard error of the best (paired), ascending."""
    best = min(losses, key=lambda k: float(losses[k].mean()))
    worse = {k: gain_of(losses[k] - losses[best], user) for k in sorted(losses)}
    return [k for k, found in worse.items() if k == best or found.mean <= found.error]


def smallest_good(losses: Mapping[int, Array], user: Array) -> int:
    """The fewest prototypes whose loss is within one standard error of the best (Breiman et al., 1984)."""
    return _good(losses, user)[0]


def middle_good(losses: Mapping[int, Array], user: Array) -> int:
    """Of the numbers within one standard error of the best, that whose loss averaged with its neighbours' is least.

    Neighbours are the numbers before and after it, at an end itself. The loss is smooth in the number of prototypes,
    single runs are not (docs/decisions.md, 85).
    """
    numbers = sorted(losses)
    loss = np.array([losses[k].mean() for k in numbers])
    left, right = np.r_[loss[:1], loss[:-1]], np.r_[loss[1:], loss[-1:]]
    smooth = dict(zip(numbers, left / 4 + loss / 2 + right / 4, strict=True))
    return min(_good(losses, user), key=lambda k: smooth[k])
