"""How well a model predicts: metrics on seen users, intervals, shot curves on unseen users."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import whole
from pal._measures import both_ways, clipped, expected_calibration_error, measures_of, user_sums
from pal.adaptation import adapt
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError
from pal.model import RewardModel
from pal.users import rows_of

__all__ = ["Metrics", "Predictor", "evaluate", "metrics_of", "paired_difference", "predict", "shot_curve"]

Array = npt.NDArray[Any]


class Predictor(Protocol):
    """What models and baselines have in common."""

    @property
    def user_ids(self) -> pl.Series:
        """Users the model knows."""

    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,)."""


@runtime_checkable
class Learner(Predictor, Protocol):
    """A baseline that finds new users' parameters in its own way."""

    def with_answers(self, few: EmbeddedComparisons) -> Predictor:
        """A model that has learned the users in ``few`` from their answers there."""


@dataclass(frozen=True)
class Metrics:
    """Quality of predictions; ties (label 0.5) count in the proper scores, not in the accuracies.

    Every answer counts once, whatever its weight.

    Attributes:
        accuracy: share of decided answers predicted right.
        accuracy_by_user: mean over users of their own accuracy.
        balanced_accuracy: mean of the accuracies among answers "left" and among answers "right"; of chosen and
            rejected responses, which have no sides, it is the accuracy.
        worst_tenth: mean accuracy of the tenth of users for whom it is lowest.
        log_loss: mean negative log-likelihood, in nats.
        brier: mean squared error of the probability.
        ece: expected calibration error, 10 bins of equal mass.
        n: answers.
        n_ties: ties among them.
        n_users: users.
        n_unseen: users the model does not know.
        interval: 95% interval of each measure but ece, by bootstrap over users: {name: (low, high)}.
    """

    accuracy: float
    accuracy_by_user: float
    balanced_accuracy: float
    worst_tenth: float
    log_loss: float
    brier: float
    ece: float
    n: int
    n_ties: int
    n_users: int
    n_unseen: int
    interval: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; NaN (nothing to measure on) becomes None."""
        values = asdict(self)
        values["interval"] = {k: list(v) for k, v in self.interval.items()}
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}


MEASURES = tuple(f.name for f in fields(Metrics) if f.type is float or f.type == "float")


def predict(model: Predictor, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
    """P(left preferred) of each row, shape (n,), in the order of the rows; unseen users by the population's weights."""
    check_embedded(data)
    _check_model(model)
    return model.predict(data)


def _check_model(model: Any) -> None:
    if not callable(getattr(model, "predict", None)) or not hasattr(model, "user_ids"):
        raise InputError(f"model must be a reward model or a baseline, found {model!r:.60}")


def evaluate(model: Predictor, data: EmbeddedComparisons, *, bootstrap: int = 500, seed: int = 0) -> Metrics:
    """Metrics of a model on comparisons.

    Args:
        model: a reward model or a baseline.
        data: comparisons it was not trained on.
        bootstrap: resamples of users for the intervals; 0: none.
        seed: of the bootstrap.

    Raises:
        InputError: there are no comparisons.
    """
    check_embedded(data)
    _check_model(model)
    whole("bootstrap", bootstrap, least=0)
    whole("seed", seed, least=0)
    table = data.comparisons
    unseen = rows_of(table.user_ids, model.user_ids) < 0
    n_unseen = int(np.count_nonzero((table.user_counts() > 0) & unseen))
    options: dict[str, Any] = {"sided": table.sided, "n_unseen": n_unseen, "bootstrap": bootstrap, "seed": seed}
    return metrics_of(predict(model, data), table.label, table.user, **options)


def metrics_of(
    probability: Array,
    label: Array,
    user: Array,
    *,
    sided: bool = True,
    n_unseen: int = 0,
    bootstrap: int = 500,
    seed: int = 0,
) -> Metrics:
    """Metrics of predicted probabilities (n,) against labels (n,) of users (n,).

    Where left and right are no sides (`Comparisons.sided`) but chosen and rejected, each answer counts both ways round.

    Raises:
        InputError: no answers, or arrays of different lengths.
    """
    probability, label, user = np.asarray(probability), np.asarray(label), np.asarray(user)
    if label.ndim != 1 or not probability.shape == label.shape == user.shape:
        shapes = ", ".join(str(each.shape) for each in (probability, label, user))
        raise InputError(f"probability, label and user must have one shape (n,), found {shapes}")
    n_answers, n_ties = len(label), int(np.count_nonzero(label == 0.5))
    if not n_answers:
        raise InputError("there are no comparisons to evaluate on")
    p = clipped(probability)
    y = label.astype(np.float64)
    _, user = np.unique(user, return_inverse=True)
    if not sided:
        p, y, user = both_ways(p), both_ways(y), np.r_[user, user]
    sums = user_sums(p, y, user)
    values = measures_of(sums, np.ones((1, len(sums["n"]))))
    values["ece"] = expected_calibration_error(p, y[None])
    interval = {}
    if bootstrap and len(sums["n"]) > 1:
        rng = np.random.default_rng(seed)
        n = len(sums["n"])
        pieces = [
            measures_of(sums, rng.multinomial(n, np.full(n, 1 / n), size=min(50, bootstrap - low)).astype(float))
            for low in range(0, bootstrap, 50)
        ]
        for name in pieces[0]:
            draws = np.concatenate([piece[name] for piece in pieces])
            if not np.isnan(draws).all():
                low, high = np.nanpercentile(draws, [2.5, 97.5])
                interval[name] = (float(low), float(high))
    return Metrics(
        **{name: float(values[name][0]) for name in MEASURES},
        n=n_answers,
        n_ties=n_ties,
        n_users=len(sums["n"]),
        n_unseen=n_unseen,
        interval=interval,
    )


def paired_difference(
    first: Predictor, second: Predictor, data: EmbeddedComparisons, *, bootstrap: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Accuracy by user of the first model minus the second's on the same answers, with its 95% interval over users.

    NaN where nobody's answers were decided; the interval is NaN of one person, who says nothing of others.

    Raises:
        InputError: no resamples, or what is no model.
    """
    check_embedded(data)
    whole("bootstrap", bootstrap)
    whole("seed", seed, least=0)
    table = data.comparisons
    user = np.unique(table.user, return_inverse=True)[1]

    def own(model: Predictor) -> Array:
        sums = user_sums(clipped(predict(model, data)), table.label.astype(float), user)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums["right"] / sums["decided"])

    difference = own(first) - own(second)
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    if n < 2:
        return float(difference.mean()) if n else float("nan"), float("nan"), float("nan")
    # people of one difference are drawn together: there are few of those, however many people
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=bootstrap) @ values / n
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def with_answers(model: Predictor, few: EmbeddedComparisons) -> Predictor:
    """A model that knows the users in ``few``."""
    if not len(few):
        return model
    if isinstance(model, RewardModel):
        return model.with_users(adapt(model, few))
    if isinstance(model, Learner):
        return model.with_answers(few)
    raise InputError(f"{type(model).__name__} cannot learn new users")


def shot_curve(
    model: Predictor,
    unseen: EmbeddedComparisons,
    shots: Sequence[int] = (0, 1, 2, 5, 10, 20),
    seeds: int = 3,
    reserve: int | None = None,
) -> pl.DataFrame:
    """Quality on new users against the number of their answers it was adapted to.

    Each seed draws `reserve` answers of each user apart; shots come from these, in a fixed order, and every number of
    shots is tested on the same answers: those left. Users with no more than `reserve` answers are left out throughout.

    Args:
        model: a reward model or a baseline.
        unseen: all comparisons of users it does not know.
        shots: numbers of answers.
        seeds: draws to average over.
        reserve: None: the largest number of shots.

    Returns:
        A row for each number of shots: shots, the measures of `Metrics` averaged over seeds, accuracy_by_user_low and
        _high (its interval, averaged), n, n_users.

    Raises:
        InputError: no user has enough answers.
    """
    rows: list[dict[str, Any]] = []
    for seed, n, test, knowing in shot_models(model, unseen, shots, seeds, reserve):
        table = test.comparisons
        unknown = len(np.unique(table.user)) if n == 0 else 0
        options: dict[str, Any] = {"sided": table.sided, "n_unseen": unknown, "bootstrap": 200, "seed": seed}
        metrics = metrics_of(predict(knowing, test), table.label, table.user, **options)
        low, high = metrics.interval.get("accuracy_by_user", (np.nan, np.nan))
        measures = {name: getattr(metrics, name) for name in MEASURES}
        rows.append(
            {
                "shots": n,
                **measures,
                "accuracy_by_user_low": low,
                "accuracy_by_user_high": high,
                "n": metrics.n,
                "n_users": metrics.n_users,
            }
        )
    frame = pl.DataFrame(rows)
    return (
        frame.group_by("shots", maintain_order=True)
        .agg(pl.exclude("n", "n_users").mean(), pl.col("n").first(), pl.col("n_users").first())
        .sort("shots")
    )


def shot_models(
    model: Predictor, unseen: EmbeddedComparisons, shots: Sequence[int], seeds: int, reserve: int | None
) -> Iterator[tuple[int, int, EmbeddedComparisons, Predictor]]:
    """What `shot_curve` measures, of each seed and number of shots: these, test answers, and the model that knows."""
    check_embedded(unseen)
    _check_model(model)
    whole("seeds", seeds)
    if not isinstance(shots, Iterable):
        raise InputError(f"shots must be a list of numbers of answers, such as (0, 5, 20), found {shots!r}")
    shots = sorted({whole("shots", n, least=0) for n in shots})
    if not shots:
        raise InputError("shots is empty: give at least one number")
    reserve = shots[-1] if reserve is None else whole("reserve", reserve, least=0)
    if reserve < shots[-1]:
        raise InputError(f"reserve={reserve} is less than the largest number of shots, {shots[-1]}")
    table = unseen.comparisons
    counts = table.user_counts()
    enough = counts[table.user] > reserve
    if not enough.any():
        raise InputError(
            f"no unseen user has more than {reserve} answers (the most is {int(counts.max(initial=0))}): "
            "use fewer shots"
        )
    known = rows_of(table.user_ids, model.user_ids) >= 0
    if known[table.user].any():
        first = table.user_ids[int(np.flatnonzero(known & (counts > 0))[0])]
        raise InputError(f"user {first!r} is known to the model: a shot curve is for unseen users")
    for seed in range(seeds):
        place = _place_in_user(table.user, np.random.default_rng(seed))
        test = unseen.take(np.flatnonzero(enough & (place >= reserve)))
        for n in shots:
            few = unseen.take(np.flatnonzero(enough & (place < n)))
            yield seed, n, test, with_answers(model, few)


def _place_in_user(user: Array, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random place of each row among the rows of its user, from 0."""
    order = np.lexsort((rng.random(len(user)), user))
    grouped = user[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    sizes = np.diff(np.r_[starts, len(user)])
    place = np.empty(len(user), dtype=np.int64)
    place[order] = np.arange(len(user)) - np.repeat(starts, sizes)
    return place
