"""Which worker has which users, and the rows of a table that are theirs."""

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._distributed.pieces import bucket_of
from pal.comparisons import Comparisons
from pal.errors import InputError

__all__ = ["Own", "keys_of", "placement", "read_own"]

BUCKETS = 4096
_HELD_OUT = 0.1  # of the answers of a table without a column 'split', for validation

IntArray = npt.NDArray[np.int64]


def placement(users: pl.Series, workers: int) -> IntArray:
    """The worker of each row (n,) by its user: users fall into buckets by hash, the fullest go to the least laden."""
    buckets = bucket_of(users, BUCKETS)
    counts = np.bincount(buckets, minlength=BUCKETS)
    heap = [(0, worker) for worker in range(workers)]
    worker_of = np.zeros(BUCKETS, dtype=np.int64)
    for bucket in np.argsort(-counts, kind="stable"):
        laden, worker = heapq.heappop(heap)
        worker_of[bucket] = worker
        heapq.heappush(heap, (laden + int(counts[bucket]), worker))
    return np.asarray(worker_of[buckets])


@dataclass(frozen=True)
class Own:
    """A worker's rows.

    Attributes:
        train: frame of its training comparisons.
        validation: frame of its validation comparisons.
        answers: (n_train,) place of each training comparison among those of all workers.
        held_out: (n_validation,) likewise of each validation comparison.
        user_ids: (N,) ids of the training users of all workers, sorted.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    answers: IntArray
    held_out: IntArray
    user_ids: pl.Series


def read_own(table: Path, rank: int, workers: int, seed: int) -> Own:
    """A worker's rows of a parquet file (or a folder of them): of the others it reads who answered, not what.

    Raises:
        InputError: no column of users, or too few of them.
    """
    files = sorted(table.glob("*.parquet")) if table.is_dir() else [table]
    scan = pl.scan_parquet(files, glob=False)
    columns = scan.collect_schema().names()
    if "user_id" not in columns:
        raise InputError(f"{table} has no column 'user_id' (found: {', '.join(columns)}): rename one")
    who = scan.select([name for name in ("user_id", "split") if name in columns]).collect()
    users = who["user_id"]
    train = _train(who, seed)
    if not train.any() or train.all():
        raise InputError(
            f"{table}: all its rows are for {'training' if train.any() else 'validation'}: both are needed"
        )
    worker = placement(users, workers)
    empty = workers - len(np.unique(worker[train]))
    if empty:
        raise InputError(f"{empty} of {workers} workers have no user to train on: ask for fewer workers")
    mine = worker == rank
    frame = scan.filter(pl.col("user_id").is_in(users.filter(mine).unique().implode())).collect()
    own = train[mine]
    answers, held_out = (np.cumsum(train) - 1)[mine & train], (np.cumsum(~train) - 1)[mine & ~train]
    rest = frame.drop("split", strict=False)
    return Own(rest.filter(own), rest.filter(~own), answers, held_out, users.filter(train).unique().sort())


def _train(who: pl.DataFrame, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are for training: as a column 'split' says, else all but a tenth, drawn by the number of the row."""
    if "split" in who.columns:
        split = who["split"]
        odd = set(split.unique().to_list()) - {"train", "validation"}
        if odd:
            raise InputError(
                f"column 'split' holds {sorted(map(str, odd))[0]!r}: only train and validation are fitted to"
            )
        return (split == "train").to_numpy()
    drawn = np.random.default_rng(seed).random(len(who)) >= _HELD_OUT
    first = who.select(pl.col("user_id").is_first_distinct()).to_series().to_numpy()
    return np.asarray(drawn | first)


def keys_of(table: Comparisons, sizes: tuple[int, int] | None) -> IntArray:
    """A key (n,) of what each row asks, the same in every worker.

    Args:
        table: comparisons.
        sizes: how many responses and prompts there are, where ids are numbers below them: keys are then in the order
            in which one process has the questions. None: keys of a hash.
    """
    columns = [(table.responses, table.left), (table.responses, table.right)]
    if table.prompts is not None and table.prompt is not None:
        columns.append((table.prompts, table.prompt))
    if sizes is not None:
        key = np.zeros(len(table), np.int64)
        for (items, rows), size in zip(columns, (sizes[0], sizes[0], sizes[1]), strict=False):
            key = key * size + items.ids.cast(pl.Int64).to_numpy()[rows]
        return key
    mixed = np.zeros(len(table), np.uint64)
    for items, rows in columns:
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + bucket_of(items.ids, 2**63 - 1).astype(np.uint64)[rows]
    return mixed.view(np.int64)
