"""The public `fit`: the pooled model first, then as many prototypes as asked for or as validation supports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel
from pal.training import TrainConfig, TrainResult, tabulated, train

__all__ = ["CANDIDATES", "FitResult", "fit"]

CANDIDATES = (1, 2, 3, 5, 8, 12, 16)  # of n_prototypes="auto"


@dataclass(frozen=True)
class FitResult:
    """A fitted model.

    Attributes:
        model: the chosen model.
        history: a row an evaluation: n_prototypes, step, seconds, train_loss, validation_log_loss, lr.
        metrics: plain numbers of the chosen model, see `TrainResult`.
        table: a row for each number of prototypes tried: n_prototypes, validation_log_loss, gain (over pooled, nats an
            answer), gain_se (its standard error over users), validation_accuracy, seconds, chosen.
        models: the model of each number of prototypes tried; 1 is the pooled one.
    """

    model: RewardModel
    history: pl.DataFrame
    metrics: dict[str, Any]
    table: pl.DataFrame
    models: dict[int, RewardModel]

    @property
    def pooled(self) -> RewardModel | None:
        """The model with one prototype, where one was trained."""
        return self.models.get(1)


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
        start: a model to go on from, on new comparisons; its number of prototypes is kept.
        checkpoint: folder in which the state is kept, and from which a killed call goes on when made again.

    Returns:
        The model, and what was tried.

    Raises:
        InputError: data or settings that do not fit.
    """
    config = config or TrainConfig()
    if validation is None or not len(validation):
        parts = train_data.split(unseen_users=0.0, test=0.0, validation=0.1, seed=config.seed)
        train_data, validation = parts.train, parts.validation
    tables = tabulated(train_data, validation, config)
    folder = None if checkpoint is None else Path(checkpoint)

    def stage(k: int, begin: RewardModel | None, kind: str = "") -> TrainResult:
        path = None if folder is None else folder / f"prototypes-{k}{kind}.safetensors"
        return train(train_data, validation, config, k, begin, path, tables)

    def grown(k: int, pooled: TrainResult) -> TrainResult:
        if config.init == "random":
            return stage(k, None)
        result = stage(k, pooled.model)
        gain, error = _gain(pooled, result, validation.comparisons.user)
        if gain > error:
            return result
        # few people may show no direction to grow in: try once from nowhere before saying that there is none
        return min(result, stage(k, None, "-random"), key=lambda r: float(r.validation_loss.mean()))

    if start is not None:
        results = {start.n_prototypes: stage(start.n_prototypes, start)}
    elif config.init == "random" and isinstance(config.n_prototypes, int):
        results = {config.n_prototypes: stage(config.n_prototypes, None)}
    else:
        results = {1: stage(1, None)}
        if isinstance(config.n_prototypes, int):
            wanted: tuple[int, ...] = (config.n_prototypes,)
        else:
            wanted = CANDIDATES if isinstance(config.n_prototypes, str) else tuple(sorted(set(config.n_prototypes)))
        failures = 0
        for k in wanted:
            if k == 1:
                continue
            results[k] = grown(k, results[1])
            if config.n_prototypes == "auto":
                best = min(r.validation_loss.mean() for j, r in results.items() if j != k)
                failures = 0 if results[k].validation_loss.mean() < best else failures + 1
                if failures == 2:
                    break
    user = validation.comparisons.user
    table = _compare(results, user)
    asked = isinstance(config.n_prototypes, int) or start is not None
    chosen = max(results) if asked else _choose(table, config.n_prototypes)
    table = table.with_columns(chosen=pl.col("n_prototypes") == chosen)
    history = pl.concat(
        [r.history.insert_column(0, pl.lit(k, pl.Int64).alias("n_prototypes")) for k, r in results.items()]
    )
    result = results[chosen]
    return FitResult(result.model, history, result.metrics, table, {k: r.model for k, r in results.items()})


def _compare(results: dict[int, TrainResult], user: Any) -> pl.DataFrame:
    base = results.get(1)
    rows = []
    for k, result in sorted(results.items()):
        gain, se = (0.0, 0.0) if base is None or k == 1 else _gain(base, result, user)
        rows.append(
            {
                "n_prototypes": k,
                "validation_log_loss": result.metrics["validation_log_loss"],
                "gain": gain,
                "gain_se": se,
                "validation_accuracy": result.metrics["validation_accuracy"],
                "seconds": result.metrics["seconds"],
            }
        )
    return pl.DataFrame(rows)


def _gain(pooled: TrainResult, result: TrainResult, user: Any) -> tuple[float, float]:
    """How much lower the log-loss is than the pooled model's, and the standard error of that over users."""
    if not len(user):
        return 0.0, 0.0
    difference = (pooled.validation_loss - result.validation_loss).double().numpy()
    return float(difference.mean()), _clustered_error(difference, user)


def _clustered_error(values: Any, user: Any) -> float:
    """Standard error of the mean of values (n,) whose errors go together within users (n,)."""
    centred = values - values.mean()
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=centred)
    return float(np.sqrt((sums**2).sum()) / len(values))


def _choose(table: pl.DataFrame, asked: Any) -> int:
    """The number of prototypes with the least validation loss; one, unless that gains two standard errors on pooled."""
    wanted = table if asked == "auto" else table.filter(pl.col("n_prototypes").is_in(list(asked)))
    best = wanted.sort("validation_log_loss").row(0, named=True)
    has_one = 1 in wanted["n_prototypes"].to_list()
    return 1 if has_one and best["gain"] <= 2 * best["gain_se"] else int(best["n_prototypes"])
