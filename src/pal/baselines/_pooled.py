"""Intervals over people when each of them was tested on several splits.

The splits share people, so their answers are not independent: the bootstrap draws people, each with their answers of
all splits (a cluster), and averages the measure over splits, as the mean that it is the interval of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pal._measures import both_ways, clipped, expected_calibration_error, measures_of, user_sums

__all__ = ["Predicted", "pooled_calibration", "pooled_difference", "pooled_intervals"]

Array = npt.NDArray[Any]

_DRAWS = 20


@dataclass(frozen=True, eq=False)
class Predicted:
    """The test answers of one split: probability, label and user (n,), users counted among all n_users of the data.

    Where they are not sided they are measured both ways round, as in `metrics_of`.
    """

    probability: Array
    label: Array
    user: Array
    n_users: int
    sided: bool = True

    @classmethod
    def joined(cls, parts: "Sequence[Predicted]") -> "Predicted":
        """Several draws of test answers of one split: a person's answers of all of them together."""
        columns = zip(*((part.probability, part.label, part.user) for part in parts), strict=True)
        probability, label, user = map(np.concatenate, columns)
        return cls(probability, label, user, parts[0].n_users, parts[0].sided)

    def ece(self, label: Array) -> Array:
        """Of these probabilities, had the answers been these labels (..., n): (...)."""
        p, y = self.probability, label.astype(np.float64)
        return (
            expected_calibration_error(p, y) if self.sided else expected_calibration_error(both_ways(p), both_ways(y))
        )

    def sums(self) -> dict[str, Array]:
        """Sums over each user's answers, (n_users,)."""
        p = clipped(self.probability)
        y, user = self.label.astype(np.float64), self.user
        if not self.sided:
            p, y, user = both_ways(p), both_ways(y), np.r_[user, user]
        sums = user_sums(p, y, user)
        return {name: np.pad(values, (0, self.n_users - len(values))) for name, values in sums.items()}

    def accuracy(self) -> Array:
        """Of each user, (n_users,); NaN without decided answers."""
        sums = self.sums()
        with np.errstate(invalid="ignore"):
            return np.asarray(sums["right"] / sums["decided"])


def pooled_intervals(splits: Sequence[Predicted], draws: int = 500, seed: int = 0) -> dict[str, list[float]]:
    """95% interval of the mean over splits of each measure, ECE apart: {name: [low, high]}."""
    sums = [split.sums() for split in splits]
    people = np.flatnonzero(np.sum([s["n"] for s in sums], axis=0))
    sums = [{name: values[people] for name, values in s.items()} for s in sums]
    n = len(people)
    if n < 2:
        return {}
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {}
    for low in range(0, draws, 50):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(50, draws - low)).astype(float)
        measured = [measures_of(s, counts) for s in sums]
        for name in measured[0]:
            found.setdefault(name, []).append(np.mean([m[name] for m in measured], axis=0))
    out = {}
    for name, pieces in found.items():
        values = np.concatenate(pieces)
        if not np.isnan(values).all():
            out[name] = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return out


def pooled_difference(
    first: Sequence[Predicted], second: Sequence[Predicted], draws: int = 2000, seed: int = 0
) -> list[float]:
    """Accuracy by user of the first model minus the second's, paired by person: mean over splits, low, high (95%)."""
    both = zip(first, second, strict=True)
    differences = np.stack([a.accuracy() - b.accuracy() for a, b in both])  # (splits, users)
    differences = differences[:, ~np.isnan(differences).all(0)]
    tested = ~np.isnan(differences)
    n = differences.shape[1]
    if not n:
        return [float("nan")] * 3
    # people of the same differences are drawn together
    differences, people = np.unique(np.where(tested, differences, np.inf), axis=1, return_counts=True)
    tested = differences < np.inf
    values = np.where(tested, differences, 0.0)
    splits = tested.any(1)
    values, tested = values[splits], tested[splits]

    def mean(counts: Array) -> Array:
        """Mean over splits of the mean over people, for counts (S, m) of people of each kind."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.nanmean((counts @ values.T) / (counts @ tested.T), axis=1))

    found = float(mean(people[None].astype(float))[0])
    if n < 2:
        return [found, float("nan"), float("nan")]
    counts = np.random.default_rng(seed).multinomial(n, people / n, size=draws).astype(float)
    low, high = np.nanpercentile(mean(counts), [2.5, 97.5])
    return [found, float(low), float(high)]


def pooled_calibration(splits: Sequence[Predicted], draws: int = 200, seed: int = 0) -> list[float]:
    """Mean ECE over splits, and the 97.5% quantile of a perfectly calibrated model: labels drawn from its p."""
    rng = np.random.default_rng(seed)
    perfect: list[Array] = []
    for low in range(0, draws, _DRAWS):  # so many at a time are sorted once
        drawn = [[rng.random(len(s.label)) < s.probability for s in splits] for _ in range(min(_DRAWS, draws - low))]
        perfect.extend(
            np.mean([s.ece(np.stack(y)) for s, y in zip(splits, zip(*drawn, strict=True), strict=True)], axis=0)
        )
    ours = np.mean([s.ece(s.label) for s in splits])
    return [float(ours), float(np.quantile(perfect, 0.975))]
