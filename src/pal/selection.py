"""How many prototypes: the public `fit`, which tries them on validation, and `select`, which cross-validates."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import path_of, whole
from pal._kinds import Kind, Stage, best_kind, gain_over, loss_of, name_of
from pal._measures import clipped
from pal._plurality import (
    LEVEL,
    Evidence,
    agreement,
    gain_of,
    is_worse,
    middle_good,
    p_in_words,
    personal_gains,
    plurality,
    smallest_good,
)
from pal._splits import asked_again
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError
from pal.evaluation import metrics_of
from pal.model import RewardModel
from pal.training import (
    Alike,
    Prompts,
    Tabulated,
    TrainConfig,
    TrainResult,
    answered_alike,
    chance_groups,
    config_of,
    continued,
    kinds,
    train,
)

__all__ = [
    "CANDIDATES",
    "Choice",
    "FitResult",
    "Stage",
    "checkpoint_folder",
    "explore",
    "fit",
    "select",
    "with_validation",
]

CANDIDATES = (1, 2, 3, 5, 8, 12, 16, 24)  # of n_prototypes="auto"
_TELLING = 200  # training answers a prototype that "auto" asks for, but of the first few
_FEWEST = 3
_TWINS = 0.1  # of the items may have the vector of another


@dataclass(frozen=True)
class FitResult:
    """A fitted model.

    Attributes:
        model: the chosen model.
        history: a row an evaluation: n_prototypes, step, seconds, train_loss, validation_log_loss, lr.
        metrics: plain numbers of the chosen model, see `TrainResult`.
        table: a row for each number of prototypes tried: n_prototypes, validation_log_loss, gain (over pooled, nats an
            answer), gain_se (its standard error over users, or new questions), validation_accuracy, seconds, chosen.
        models: the model of each number of prototypes tried; 1 is the pooled one. Those not chosen are made of what
            training left when they are first asked for.
        p_value: of plurality, twice the smaller of two tests', of the validation and of the training answers
            (`pal.select` cross-validates); NaN where there was nothing to compare.
    """

    model: RewardModel
    history: pl.DataFrame
    metrics: dict[str, Any]
    table: pl.DataFrame
    models: Mapping[int, RewardModel]
    p_value: float

    @property
    def pooled(self) -> RewardModel | None:
        """The model with one prototype, where one was trained."""
        return self.models.get(1)


class _Models(Mapping[int, RewardModel]):
    """The model of each number of prototypes; last passes are gone over for those that somebody asks for."""

    def __init__(self, results: Mapping[int, TrainResult]) -> None:
        self._results = results

    def __getitem__(self, k: int) -> RewardModel:
        return self._results[k].model

    def __contains__(self, k: object) -> bool:  # without making it
        return k in self._results

    def __iter__(self) -> Iterator[int]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __reduce__(self) -> tuple[type, tuple[dict[int, RewardModel]]]:
        return dict, (dict(self),)


def fit(
    train_data: EmbeddedComparisons,
    validation: EmbeddedComparisons | None = None,
    config: TrainConfig | None = None,
    *,
    start: RewardModel | None = None,
    checkpoint: str | Path | None = None,
) -> FitResult:
    """Fits a personalised reward model.

    Args:
        train_data: comparisons of the users to learn.
        validation: other comparisons of theirs; None: a tenth of each user's is held out.
        config: what and how; None for the defaults.
        start: a model to go on from, on new comparisons; its number of prototypes is kept, and what it knows of its
            users is what their new answers are added to.
        checkpoint: folder in which the state is kept, and from which a killed call goes on when made again.

    Returns:
        The model, and what was tried.

    Raises:
        InputError: data or settings that do not fit.
    """
    check_embedded(train_data)
    config = continued(config, start)
    if validation is not None:
        check_embedded(validation)
    train_data, validation = with_validation(train_data, validation, config.seed)
    _warn_of_weights(train_data.comparisons.weight)
    _warn_of_twins("responses", train_data.responses)
    _warn_of_twins("prompts", train_data.prompts)
    tables = Tabulated(train_data, validation)
    folder = None if checkpoint is None else checkpoint_folder(checkpoint)

    def stage(config: TrainConfig, k: int, begin: RewardModel | None, kind: str = "") -> TrainResult:
        path = None if folder is None else folder / f"prototypes-{k}{kind}.safetensors"
        return train(train_data, validation, config, k, begin, path, tables.of(config))

    choice = kinds(train_data, config, Prompts.of(train_data))
    groups = chance_groups(tables.of(choice[0]), validation.comparisons.user)
    return explore(stage, choice, start, groups, len(train_data), lambda: answered_alike(tables.of(choice[0])))


def checkpoint_folder(given: str | Path) -> Path:
    """The folder, refused before there is something to keep if it cannot be one."""
    folder = path_of("checkpoint", given)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"checkpoint: {folder} is a file: choose a folder")
    return folder


def with_validation(
    train_data: EmbeddedComparisons, validation: EmbeddedComparisons | None, seed: int
) -> tuple[EmbeddedComparisons, EmbeddedComparisons]:
    """Both; without validation answers a tenth of each user's is held out."""
    if validation is not None and len(validation):
        return train_data, validation
    parts = train_data.split(unseen_users=0.0, test=0.0, validation=0.1, seed=seed)
    return parts.train, parts.validation


def _warn_of_weights(weight: npt.NDArray[Any] | None) -> None:
    """A person's weights are held to the population with the strength of some answers."""
    mean = 1.0 if weight is None else float(weight.mean())
    if mean and not 0.1 <= mean <= 10:
        warnings.warn(
            f"weights of answers are {mean:.3g} on average: one of weight w tells of a person as much as w answers do; "
            "divide them by their mean if that is not meant",
            stacklevel=3,
        )


def _warn_of_twins(what: str, vectors: npt.NDArray[Any] | None) -> None:
    """Of items with one vector a model says the same."""
    if vectors is None:
        return
    twins = len(vectors) - len({hash(row.tobytes()) for row in vectors})
    if twins > _TWINS * len(vectors):
        warnings.warn(
            f"{twins:,} of {len(vectors):,} {what} have the vector of another, and a model cannot tell these apart: if "
            "an encoder gave it, look whether it knows their words and reads them to the end",
            stacklevel=3,
        )


def explore(
    stage: Stage,
    choice: Sequence[TrainConfig],
    start: RewardModel | None,
    group: npt.NDArray[Any],
    n_train: int,
    alike: Callable[[], Alike],
) -> FitResult:
    """Trains the numbers of prototypes that a config asks for, and chooses.

    Args:
        stage: trains one.
        choice: configs that differ in the kind of model: the first, unless another predicts clearly better.
        start: a model to go on from.
        group: (n_validation,) which validation answers go together, a person's as a rule: `chance_groups`.
        n_train: training answers.
        alike: what `pal.training.answered_alike` says of them.
    """
    config, models = choice[0], list[Kind]()
    asked, wanted = config.n_prototypes, _numbers(config.n_prototypes)
    if asked == "auto":  # of few answers the validation part cannot tell many prototypes from noise
        wanted = tuple(k for k in wanted if k <= max(_FEWEST, n_train // _TELLING))
    if start is not None:
        results = {start.n_prototypes: stage(config, start.n_prototypes, start)}
    elif config.init == "random" and isinstance(asked, int):
        results = {asked: stage(config, asked, None)}
    else:
        tried = choice[:1] if config.init == "random" else choice
        models = [Kind(stage, each, group, n_train, name_of(each) if i else "") for i, each in enumerate(tried)]
        kind = best_kind(models, [k for k in wanted if k > 1]).settled
        results, failures = {1: kind.one}, 0
        for k in wanted:
            if k == 1:
                continue
            results[k] = kind.of(k)
            if asked == "auto":
                best = min(loss_of(r) for j, r in results.items() if j != k)
                failures = 0 if loss_of(results[k]) < best else failures + 1
                if failures == 2:
                    break
    losses = {k: r.validation_loss.double().numpy() for k, r in results.items()}
    shared = {k: r.shared_loss.double().numpy() for k, r in results.items()}
    p_value = math.nan
    if len(losses) > 1 and 1 in losses:
        # whatever people agree on: prototypes that are worse are of no use
        agreeing = math.nan if is_worse(losses, group) else agreement(*alike(), config.seed)
        p_value = Evidence(plurality(losses, group, config.seed, shared), agreeing).p
    # what was asked for; pooled was trained in any case
    given = isinstance(asked, int) or start is not None
    chosen = max(results) if given else _choose({k: v for k, v in losses.items() if k in wanted}, group, p_value)
    if chosen == 1 and models:  # of the kind that asking for one prototype alone gives: several were not looked at
        results[1] = best_kind(models, []).settled.one
    table = _compare(results, group).with_columns(chosen=pl.col("n_prototypes") == chosen)
    history = pl.concat(
        [r.history.insert_column(0, pl.lit(k, pl.Int64).alias("n_prototypes")) for k, r in results.items()]
    )
    metrics, made = {**results[chosen].metrics, "p_value": p_value}, _Models(results)
    return FitResult(made[chosen], history, metrics, table, made, p_value)


def _numbers(asked: int | str | Sequence[int]) -> tuple[int, ...]:
    """The numbers of prototypes that are asked for, ascending."""
    return (asked,) if isinstance(asked, int) else CANDIDATES if isinstance(asked, str) else tuple(sorted(set(asked)))


def _compare(results: dict[int, TrainResult], group: Any) -> pl.DataFrame:
    base = results.get(1)
    rows = []
    for k, result in sorted(results.items()):
        gain = gain_over(result if base is None else base, result, group)
        rows.append(
            {
                "n_prototypes": k,
                "validation_log_loss": result.metrics["validation_log_loss"],
                "gain": gain.mean,
                "gain_se": gain.error,
                "validation_accuracy": result.metrics["validation_accuracy"],
                "seconds": result.metrics["seconds"],
            }
        )
    return pl.DataFrame(rows)


def _choose(losses: dict[int, npt.NDArray[Any]], group: npt.NDArray[Any], p_value: float) -> int:
    """One prototype (if asked for) unless the test finds plurality; else `middle_good` of the others."""
    if 1 in losses and not p_value <= LEVEL:
        return 1
    return middle_good({k: v for k, v in losses.items() if k != 1 or len(losses) == 1}, group)


@dataclass(frozen=True)
class Choice:
    """What cross-validation says of a data set.

    Attributes:
        n_prototypes: the fewest prototypes whose cross-validated log-loss is within a standard error of the best; 1
            where the tests find no plurality, or none that predicts.
        table: a row for each number of prototypes: n_prototypes, log_loss, log_loss_by_user, accuracy_by_user, gain
            (over one prototype, nats an answer), gain_se (its standard error over users), personal_gain (what people's
            own weights gain over weights shared by all, or over one prototype where that is better), personal_gain_se,
            chosen.
        p_value: of plurality, twice the smaller of two tests': how often chance alone would give people's own weights
            such a gain on held-out answers, or make people agree with one another so much.
        verdict: the same in words.
        n_users: users whose answers were held out.
        n: answers held out.
    """

    n_prototypes: int
    table: pl.DataFrame
    p_value: float
    verdict: str
    n_users: int
    n: int


def select(
    data: EmbeddedComparisons,
    n_prototypes: int | str | Sequence[int] = (1, 2, 3, 5),
    config: TrainConfig | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Choice:
    """Chooses the number of prototypes by cross-validation, and tests whether there is plurality at all.

    Every answer is held out once, by a model trained on other answers of the same person (and stopped on yet others),
    so that nothing is judged on what it was fitted to.

    Args:
        data: comparisons of users, each with some answers.
        n_prototypes: numbers to try, or "auto" for those of `fit`; 1 is always among them.
        config: of training; its n_prototypes is not used.
        folds: parts of each user's answers, at least 2.
        seed: of the folds and of training.

    Raises:
        InputError: nothing to choose from, or too few answers.
    """
    check_embedded(data)
    whole("folds", folds, least=2)
    config = replace(config_of(config), n_prototypes=n_prototypes)
    wanted = tuple(sorted({1, *_numbers(config.n_prototypes)}))
    if wanted == (1,):
        raise InputError("one prototype alone leaves nothing to choose: give more numbers, such as 1, 2, 3 and 5")
    # the last passes make every candidate a little better, and take a good part of the time
    config = replace(config, n_prototypes=wanted, seed=seed, last_passes=0)
    table = data.comparisons
    fold = _folds(table, folds, np.random.default_rng(seed))
    if len(np.unique(fold)) < folds:
        raise InputError(
            f"{len(table):,} answers are too few for {folds} folds: gather more, or use fewer folds (two at least)"
        )
    repeated = table.user_counts()[table.user] > 1  # of the others nothing personal can be known
    if not repeated.any():
        raise InputError("no user has more than one answer: there is nothing to tell users apart by")
    probability = {k: np.full(len(table), np.nan) for k in wanted}
    of_all = {k: np.full(len(table), np.nan) for k in wanted}
    for part in range(folds):
        held_out = fold == part
        result = fit(data.take(np.flatnonzero(~held_out)), None, replace(config, seed=seed + part))
        for k, model in result.models.items():
            test = data.take(np.flatnonzero(held_out))
            probability[k][held_out] = model.predict(test)
            of_all[k][held_out] = model.without_users(model.user_ids.to_list()).predict(test)
    user, label = table.user[repeated], table.label[repeated].astype(np.float64)
    weight = np.ones(len(user)) if table.weight is None else table.weight[repeated].astype(np.float64)
    weight = weight / max(weight.mean(), 1e-300)
    losses = {k: weight * _log_loss(p[repeated], label) for k, p in probability.items()}
    shared = {k: weight * _log_loss(p[repeated], label) for k, p in of_all.items()}
    usual = kinds(data, config, Prompts.of(data))[0]
    tables = Tabulated(data, data.take(np.zeros(0, np.int64))).of(usual)
    evidence = Evidence(plurality(losses, user, seed, shared), agreement(*answered_alike(tables), seed))
    personal = personal_gains(losses, shared)
    several = {k: loss for k, loss in losses.items() if k > 1 and personal[k].mean() > 0}
    chosen = smallest_good(several, user) if evidence.p <= LEVEL and several else 1
    rows = []
    for k in wanted:
        metrics = metrics_of(probability[k][repeated], label, user, bootstrap=0)
        gain, own = gain_of(losses[1] - losses[k], user), gain_of(personal[k], user)
        rows.append(
            {
                "n_prototypes": k,
                "log_loss": float(losses[k].mean()),
                "log_loss_by_user": _mean_by_user(losses[k], user),
                "accuracy_by_user": metrics.accuracy_by_user,
                "gain": gain.mean,
                "gain_se": gain.error,
                "personal_gain": own.mean,
                "personal_gain_se": own.error,
                "chosen": k == chosen,
            }
        )
    people = len(np.unique(user))
    return Choice(chosen, pl.DataFrame(rows), evidence.p, _verdict(rows, evidence, chosen, people), people, len(user))


def _folds(table: Comparisons, folds: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A fold for each answer (n,), each user's spread evenly over all of them, answers to one question together."""
    again = asked_again(table, np.arange(len(table)))
    user = table.user if again is None else table.user[np.unique(again, return_index=True)[1]]
    order = np.lexsort((rng.random(len(user)), user))
    grouped = user[order]
    first = np.r_[True, grouped[1:] != grouped[:-1]] if len(user) else np.zeros(0, dtype=bool)
    begin = np.flatnonzero(first)
    sizes = np.diff(np.r_[begin, len(user)])
    place = np.arange(len(user)) - np.repeat(begin, sizes) + np.repeat(rng.integers(folds, size=len(sizes)), sizes)
    fold = np.empty(len(user), dtype=np.int64)
    fold[order] = place % folds
    return fold if again is None else fold[again]


def _log_loss(p: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    p = clipped(p)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


def _mean_by_user(values: npt.NDArray[Any], user: npt.NDArray[Any]) -> float:
    row = np.unique(user, return_inverse=True)[1]
    return float((np.bincount(row, weights=values) / np.bincount(row)).mean())


def _verdict(rows: list[dict[str, Any]], evidence: Evidence, chosen: int, people: int) -> str:
    """What the tests say, in words."""
    best = max(rows[1:], key=lambda row: row["personal_gain"])
    said, gain = p_in_words(evidence.p), best["personal_gain"]
    if evidence.p > LEVEL:
        seen = "held-out answers are predicted as well by one reward for all"
        if gain > 0:
            seen = f"what weights of their own gain on held-out answers, {gain:.3f} nats an answer, may be chance"
        return (
            f"No plurality found among {people} people ({said}): {seen}. People may still differ in ways that these "
            "answers and embeddings do not show."
        )
    better = f"by {gain:.3f} nats an answer with {best['n_prototypes']} prototypes"
    if math.isnan(evidence.agreeing) or 2 * evidence.held_out <= LEVEL:
        return (
            f"There is plurality among {people} people: with weights of their own, held-out answers are predicted "
            f"better than with weights shared by all, {better} ({said}); {chosen} are enough."
        )
    shown = "are predicted as well by one reward for all"
    if chosen > 1:
        shown = f"are predicted better {better} ({p_in_words(evidence.held_out)} by themselves); {chosen} are enough"
    return (
        f"There is plurality among {people} people: asked the same, some agree with one another more than chance would "
        f"have it ({said}). That hardly shows in prediction yet: held-out answers {shown}."
    )
