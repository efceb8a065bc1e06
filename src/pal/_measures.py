"""Sums over each person's answers, and the measures that are made of them; the calibration error."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["both_ways", "clipped", "expected_calibration_error", "measures_of", "user_sums"]

Array = npt.NDArray[Any]


def clipped(p: Array) -> Array:
    """Probabilities as float64, off 0 and 1: their logarithms are finite."""
    return np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)


def user_sums(p: Array, y: Array, user: Array) -> dict[str, Array]:
    """Of probabilities and labels (n,) of users (n,), numbered from 0: sums over each user's answers, (U,)."""
    decided = y != 0.5
    # a prediction of exactly one half is half right: it takes no side
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)) * decided
    left, other = decided & (y > 0.5), decided & (y < 0.5)
    columns = {
        "n": np.ones_like(y),
        "decided": decided,
        "right": right,
        "left": left,
        "left_right": right * left,
        "other": other,
        "other_right": right * other,
        "log_loss": -(y * np.log(p) + (1 - y) * np.log1p(-p)),
        "brier": (p - y) ** 2,
    }
    return {name: np.bincount(user, weights=values.astype(float)) for name, values in columns.items()}


def measures_of(sums: dict[str, Array], counts: Array) -> dict[str, Array]:
    """Measures (S,) of S resamples: counts (S, U) say how often each user is in each."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = {name: counts @ values for name, values in sums.items()}
        has = sums["decided"] > 0
        own = np.where(has, sums["right"] / sums["decided"], 0.0)
        order = np.argsort(np.where(has, own, np.inf), kind="stable")
        order = order[: int(has.sum())]
        sorted_counts = counts[:, order]
        n_users = sorted_counts.sum(1)
        before = np.cumsum(sorted_counts, axis=1) - sorted_counts
        worst = np.clip(np.maximum(1.0, np.ceil(n_users / 10))[:, None] - before, 0, sorted_counts)
        sides = np.stack([total["left_right"] / total["left"], total["other_right"] / total["other"]])
        return {
            "accuracy": total["right"] / total["decided"],
            "accuracy_by_user": (counts @ np.where(has, own, 0)) / n_users,
            "balanced_accuracy": np.nansum(sides, axis=0) / (~np.isnan(sides)).sum(0),
            "worst_tenth": (worst @ own[order]) / worst.sum(1),
            "log_loss": total["log_loss"] / total["n"],
            "brier": total["brier"] / total["n"],
        }


def both_ways(x: Array) -> Array:
    """Probabilities or labels (..., n) of answers, and of the same with left and right exchanged: (..., 2n)."""
    return np.concatenate([x, 1 - x], axis=-1)


def expected_calibration_error(p: Array, y: Array, bins: int = 10) -> Array:
    """Mean over bins of equal mass of |mean label - mean probability| (Naeini et al., 2015), of labels (..., n): (...).

    Answers of one probability may fall into two bins; each has their mean label, so that no order of rows matters.
    """
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[..., order]
    first = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
    size = np.diff(np.r_[first, len(p)])
    mean = np.repeat(np.add.reduceat(y, first, axis=-1) / size, size, axis=-1)
    parts = [part[0] for part in np.array_split(np.arange(len(p)), bins) if len(part)]
    return np.asarray(np.abs(np.add.reduceat(mean - p, parts, axis=-1)).sum(-1) / len(p))
