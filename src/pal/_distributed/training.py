"""A fit with users sharded: every worker runs this, in step with the others."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from pal._distributed.finishing import finish
from pal._distributed.people import keys_of, read_own
from pal._distributed.reading import Reader, Reading
from pal._distributed.shards import Shards
from pal._plurality import plurality
from pal._training.run import Run
from pal._training.tables import Tables
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel
from pal.questions import Answers
from pal.selection import _FEW, CANDIDATES, FitResult, _choose, _compare, _gain
from pal.training import TrainConfig, TrainResult, _shape_of_start, model_config
from pal.users import UserWeights, rows_of

__all__ = ["Given", "fit_shard", "read_result", "write_result"]


@dataclass(frozen=True)
class Given:
    """What every worker is told.

    Attributes:
        table: parquet of comparisons; column `split` (train, validation), or a tenth is held out.
        reading: how its rows get their vectors.
        config: of training.
        sizes: responses and prompts, where ids are numbers; see `keys_of`.
        facts: fields of `EmbeddedComparisons` that the vectors do not tell.
        sided: of the comparisons; None: as the columns say.
        checkpoint: folder of checkpoints, shared.
        start: model folder to go on from.
    """

    table: str
    reading: Reading
    config: TrainConfig
    checkpoint: str
    sizes: tuple[int, int] | None = None
    facts: dict[str, Any] | None = None
    sided: bool | None = None
    start: str | None = None


class _Shard:
    """A worker's data, and training on them."""

    def __init__(self, given: Given, rank: int, workers: int) -> None:
        own = read_own(Path(given.table), rank, workers, given.config.seed)
        read = Reader(given.reading)

        def data(frame: pl.DataFrame) -> EmbeddedComparisons:
            found = read(frame)
            if given.sided is not None:
                found = replace(found, comparisons=replace(found.comparisons, sided=given.sided))
            return replace(found, **(given.facts or {}))

        self.config, self.user_ids = given.config, own.user_ids
        self.train = data(own.train)
        # a worker of whose users nothing is held out has no validation answers: an empty table of the same kind
        self.validation = data(own.validation) if len(own.validation) else self.train.take(np.zeros(0, np.int64))
        self.shape = model_config(self.train, given.config, 1)
        self.tables = Tables.of(self.train, self.validation, self.shape, given.config)
        keys = np.empty(len(self.tables.questions), np.int64)
        keys[self.tables.answers.question.cpu().numpy()] = keys_of(self.train.comparisons, given.sizes)
        users = rows_of(self.tables.user_ids, own.user_ids)
        self.shards = Shards(users, own.answers, keys, given.config.seed)
        if given.config.balance_users:
            self.tables = replace(
                self.tables,
                answers=self._balanced(self.tables.answers),
                val_answers=self._balanced(self.tables.val_answers),
            )
        # of whom each validation answer is, in the order in which losses are gathered
        table = self.validation.comparisons
        found = rows_of(table.user_ids, own.user_ids)[table.user]
        stranger = len(own.user_ids) + (table.user.astype(np.int64) + 1) * workers + rank
        self.val_user = np.concatenate(self.shards.gathered(np.where(found < 0, stranger, found)))
        self.n_train = self.shards.n_answers

    def _balanced(self, answers: Answers) -> Answers:
        """Each user counts once among all users, not among those here."""
        if answers.weight is None:
            return answers
        people = len(torch.unique(answers.user))
        each = self.shards.count(len(answers)) / max(1, self.shards.count(people))
        return replace(answers, weight=answers.weight * (each * people / max(1, len(answers))))

    def stage(self, k: int, start: RewardModel | None, path: Path) -> TrainResult:
        """`pal.training.train` with users sharded; the result is of all users, the same in every worker."""
        config, shards, cpu = self.config, self.shards, torch.device("cpu")
        shape = replace(self.shape, n_prototypes=k)
        if start is not None:
            shape = _shape_of_start(shape, start, k)
        run = Run(self.tables, shape, config, start, shards)
        run.train(path)
        table = run.table.cpu()
        n = len(table)
        trained = UserWeights(
            self.tables.user_ids,
            torch.softmax(table[:, :-1], dim=1),
            torch.zeros(n, dtype=torch.long),
            table[:, -1].exp(),
        )
        bias = float(run.bias.detach())
        done = finish(shards, self.tables.to(cpu), shape, run.prototypes.to(cpu), trained, bias, config.refit)
        model = RewardModel(done.model.config, done.model.prototypes, self._all(done.model.users), done.model.prior)
        losses, shared = (torch.cat(shards.gathered(part)) for part in (done.validation_loss, done.shared_loss))
        if start is not None and start.n_prototypes == k:
            model = start.with_users(model.users)._with_shared_part_of(model)
        state = run.state
        speed = {
            "steps": state.step,
            "seconds": state.seconds,
            "comparisons_per_second": state.step * run.batch / max(state.seconds, 1e-9),
        }
        return TrainResult(model, pl.DataFrame(state.history), {**done.metrics, **speed}, losses, shared)

    def _all(self, people: UserWeights) -> UserWeights:
        columns = (people.weights, people.n_comparisons, people.reliability, people.concentration)
        return UserWeights(self.user_ids.alias("user_id"), *(self.shards.of_all(column) for column in columns))


def fit_shard(given: Given, rank: int, workers: int) -> FitResult:
    """`pal.fit` in one of several workers: the result is of all users, and the same in each.

    Raises:
        InputError: data or settings that do not fit.
    """
    shard, config = _Shard(given, rank, workers), given.config
    folder = Path(given.checkpoint)
    start = None if given.start is None else RewardModel.from_pretrained(given.start)

    def stage(k: int, begin: RewardModel | None, kind: str = "") -> TrainResult:
        return shard.stage(k, begin, folder / f"prototypes-{k}{kind}.safetensors")

    results = _tried(stage, config, start, shard.val_user, shard.n_train)
    losses = {k: r.validation_loss.double().numpy() for k, r in results.items()}
    shared = {k: r.shared_loss.double().numpy() for k, r in results.items()}
    several = len(losses) > 1 and 1 in losses
    p_value = plurality(losses, shard.val_user, config.seed, shared) if several else float("nan")
    asked = isinstance(config.n_prototypes, int) or start is not None
    wanted = CANDIDATES if isinstance(config.n_prototypes, str) else config.n_prototypes
    among = {k: v for k, v in losses.items() if not isinstance(wanted, tuple) or k in wanted}
    chosen = max(results) if asked else _choose(among, p_value)
    table = _compare(results, shard.val_user).with_columns(chosen=pl.col("n_prototypes") == chosen)
    rows = [r.history.insert_column(0, pl.lit(k, pl.Int64).alias("n_prototypes")) for k, r in results.items()]
    metrics = {**results[chosen].metrics, "p_value": p_value}
    models = {k: r.model for k, r in results.items()}
    return FitResult(results[chosen].model, pl.concat(rows), metrics, table, models, p_value)


def _tried(
    stage: Callable[..., TrainResult],
    config: TrainConfig,
    start: RewardModel | None,
    user: npt.NDArray[Any],
    n_train: int,
) -> dict[int, TrainResult]:
    """The numbers of prototypes that `pal.fit` tries, in its order."""
    if start is not None:
        return {start.n_prototypes: stage(start.n_prototypes, start)}
    if config.init == "random" and isinstance(config.n_prototypes, int):
        return {config.n_prototypes: stage(config.n_prototypes, None)}
    results = {1: stage(1, None)}
    asked = config.n_prototypes
    wanted = (asked,) if isinstance(asked, int) else CANDIDATES if isinstance(asked, str) else tuple(sorted(set(asked)))
    failures = 0
    for k in wanted:
        if k == 1:
            continue
        if config.init == "random":
            results[k] = stage(k, None)
        else:
            result = stage(k, results[1].model)
            gain = _gain(results[1], result, user)
            if not (gain.mean > gain.error and n_train > _FEW):
                result = min(result, stage(k, None, "-random"), key=lambda r: float(r.validation_loss.mean()))
            results[k] = result
        if asked == "auto":
            best = min(float(r.validation_loss.mean()) for j, r in results.items() if j != k)
            failures = 0 if float(results[k].validation_loss.mean()) < best else failures + 1
            if failures == 2:
                break
    return results


# -- the result on disk ------------------------------------------------------------------------------------------------


def write_result(result: FitResult, folder: Path) -> None:
    """Model folders and a JSON file; the file is last, and says that all is there."""
    for k, model in result.models.items():
        model.save_pretrained(folder / f"model-{k}")
    record = {
        "chosen": result.model.n_prototypes,
        "models": sorted(result.models),
        "metrics": result.metrics,
        "history": result.history.to_dict(as_series=False),
        "table": result.table.to_dict(as_series=False),
        "p_value": result.p_value,
    }
    fresh = folder / "result.json.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(folder / "result.json")


def read_result(folder: Path, user_ids: pl.Series | None) -> FitResult:
    """What `write_result` wrote; users that were numbers get their ids back."""
    record = json.loads((folder / "result.json").read_text())
    models = {}
    for k in record["models"]:
        model = RewardModel.from_pretrained(folder / f"model-{k}")
        if user_ids is not None:
            named = replace(model.users, ids=user_ids.gather(model.user_ids.to_numpy()).alias("user_id"))
            model = RewardModel(model.config, model.prototypes, named, model.prior)
        models[k] = model
    return FitResult(
        models[record["chosen"]],
        pl.DataFrame(record["history"]),
        record["metrics"],
        pl.DataFrame(record["table"]),
        models,
        record["p_value"],
    )
