"""A fit with users sharded: every worker runs this, in step with the others."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch.distributed as dist

from pal._distributed.people import keys_of, read_own
from pal._distributed.reading import Reader, Reading
from pal._distributed.shards import Shards
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel
from pal.selection import FitResult, explore
from pal.training import (
    Alike,
    Prompts,
    Tabulated,
    TrainConfig,
    TrainResult,
    answered_alike,
    chance_groups,
    kinds,
    train,
)
from pal.users import rows_of

__all__ = ["Given", "fit_shard", "progress_file", "read_result", "write_result"]


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


def progress_file(given: Given) -> Path:
    """Where the first worker tells how far the fit is."""
    return Path(given.checkpoint) / "progress.json"


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

        self.train = data(own.train)
        self.kinds = kinds(self.train, given.config, _prompts(self.train))
        # a worker of whose users nothing is held out has no validation answers: an empty table of the same kind
        self.validation = data(own.validation) if len(own.validation) else self.train.take(np.zeros(0, np.int64))
        self.tables = Tabulated(self.train, self.validation)
        tables = self.tables.of(self.kinds[0])
        keys = np.empty(len(tables.questions), np.int64)  # the same, in the same order, of every kind of model
        keys[tables.answers.question.cpu().numpy()] = keys_of(self.train.comparisons, given.sizes)
        users = rows_of(tables.user_ids, own.user_ids)
        self.shards = Shards(
            users, own.answers, own.held_out, own.user_ids, keys, given.config.seed, progress_file(given)
        )
        # of whom each validation answer is, or to what, in the order in which losses are gathered
        table = self.validation.comparisons
        found = rows_of(table.user_ids, own.user_ids)[table.user]
        stranger = len(own.user_ids) + (table.user.astype(np.int64) + 1) * workers + rank
        user = np.concatenate(self.shards.gathered(np.where(found < 0, stranger, found)))
        self.val_groups = chance_groups(tables, user, self.shards)

    def stage(self, config: TrainConfig, k: int, start: RewardModel | None, path: Path) -> TrainResult:
        """`pal.training.train` with users sharded; the result is of all users, the same in every worker."""
        return train(self.train, self.validation, config, k, start, path, self.tables.of(config), self.shards)

    def alike(self) -> Alike:
        """`pal.training.answered_alike`, the same in every worker."""
        return answered_alike(self.tables.of(self.kinds[0]), self.shards)


def _prompts(data: EmbeddedComparisons) -> Prompts:
    """Those of all workers' answers together: prompts and responses are known by a hash of their ids."""
    table, asked = data.comparisons, np.zeros(0, np.uint64)
    if table.prompts is not None and table.prompt is not None:
        asked = table.prompts.ids.gather(np.unique(table.prompt)).hash().to_numpy()
    compared = table.responses.ids.gather(np.unique(np.concatenate([table.left, table.right]))).hash().to_numpy()
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (Prompts.of(data), asked, compared))
    found, *hashes = zip(*everywhere, strict=True)
    prompts, responses = (len(np.unique(np.concatenate(each))) if data.prompts is not None else 0 for each in hashes)
    return Prompts(prompts, sum(each.pairs for each in found), sum(each.people for each in found), responses)


def fit_shard(given: Given, rank: int, workers: int) -> FitResult:
    """`pal.fit` in one of several workers: the result is of all users, and the same in each.

    Raises:
        InputError: data or settings that do not fit.
    """
    shard, folder = _Shard(given, rank, workers), Path(given.checkpoint)
    start = None if given.start is None else RewardModel.from_pretrained(given.start)

    def stage(config: TrainConfig, k: int, begin: RewardModel | None, kind: str = "") -> TrainResult:
        return shard.stage(config, k, begin, folder / f"prototypes-{k}{kind}.safetensors")

    result = explore(stage, shard.kinds, start, shard.val_groups, shard.shards.n_answers, shard.alike)
    return replace(result, models=dict(result.models))  # all of them now, while the others are in step


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
            number = model.user_ids.to_numpy()
            known = model.users.take(np.flatnonzero(number >= 0))  # the others are those of the start: as they were
            named = replace(known, ids=user_ids.gather(number[number >= 0]).alias("user_id"))
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
