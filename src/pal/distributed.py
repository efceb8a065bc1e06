"""Past one process: fit, adapt, score and embed on Ray (extra `ray`).

Every function takes ``workers`` and ``address``: of a Ray cluster that runs (HOST:PORT, or "auto" for the one on this
machine); without it a local one is started and ended with the call. On a cluster of several machines the folders named
here must be shared by all of them. A worker that dies is replaced, and what it was doing is done again; a call that is
killed goes on where it was when it is made again, from what it left in a hidden folder beside its output.
"""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from pal._checks import number, path_of, whole
from pal._distributed import works
from pal._distributed.cluster import connected
from pal._distributed.group import train_together
from pal._distributed.handing import hand_over, numbered
from pal._distributed.pieces import Job, Piece, Pool, part_name, pieces_of, stamp
from pal._distributed.reading import Reading, as_parquet, encoder_of, store_of
from pal._distributed.training import Given, read_result
from pal._distributed.vectors import write_vectors
from pal.embeddings import EmbeddedComparisons, EmbeddingStore, Encoder
from pal.errors import InputError
from pal.model import RewardModel
from pal.selection import FitResult, checkpoint_folder, with_validation
from pal.training import TrainConfig, continued

__all__ = ["adapt", "embed", "fit", "score", "users_of"]

ROWS = 50_000  # of a piece: what a worker holds at once
CONTENTS = 4096  # texts of a bucket, about: what a killed worker embeds again


def fit(
    train: EmbeddedComparisons | str | Path,
    validation: EmbeddedComparisons | None = None,
    config: TrainConfig | None = None,
    *,
    encoder: str | None = None,
    embeddings: str | Path | None = None,
    store: str | Path | None = None,
    prompt_mode: str = "separate",
    images: bool = False,
    start: RewardModel | None = None,
    checkpoint: str | Path | None = None,
    workers: int = 2,
    threads: int = 1,
    address: str | None = None,
) -> FitResult:
    """`pal.fit` with users sharded: a user's comparisons and weights are in one worker, and stay there.

    All workers draw the same batches from the seed, and each takes the rows of its own users; gradients of the maps and
    prototypes are summed (gloo on the CPU, nccl on the GPU), so that with dropout off the loss is that of one process
    but for rounding. See docs/distributed.md for all that travels.

    Args:
        train: comparisons with their vectors, which are written once to a folder the workers share; or a parquet table
            (a file or a folder), of which each worker reads its own users' rows.
        validation: with comparisons: others of the same people; None: a tenth of each user's is held out. A table says
            it itself, by a column `split` (train or validation), else a tenth of its rows is held out (what a person
            was asked twice may then be on both sides: write the column where that happens).
        config: what and how; None for the defaults. Device "cuda" takes one GPU a worker.
        encoder: of a table of texts; what its store does not hold is embedded first.
        embeddings: own vectors of a table: a parquet file with columns id and embedding.
        store: as in `score`.
        prompt_mode: of a table, as in `pal.embed`.
        images: of a table, as in `score`.
        start: a model to go on from; its number of prototypes is kept.
        checkpoint: folder, shared by all workers, from which a killed call goes on when made again; None: one that goes
            with the call.
        workers: processes.
        threads: of each.
        address: of a Ray cluster.

    Returns:
        As `pal.fit`.

    Raises:
        InputError: data or settings that do not fit, or fewer users than workers.
        MissingExtraError: Ray is not installed.
    """
    config = continued(config, start)
    whole("threads", threads)
    in_memory = isinstance(train, EmbeddedComparisons)
    if isinstance(train, EmbeddedComparisons):
        train, validation = with_validation(train, validation, config.seed)
    with ExitStack() as stack:
        place = stack.enter_context(TemporaryDirectory()) if checkpoint is None else checkpoint
        root = checkpoint_folder(place).resolve()
        root.mkdir(parents=True, exist_ok=True)
        ray = stack.enter_context(connected(workers, address))
        user_ids: pl.Series | None = None
        if isinstance(train, EmbeddedComparisons) and validation is not None:
            key = [train.fingerprint(), validation.fingerprint(), repr(config), workers]
            job = Job(root / "fit", what="fit", key=key)
            people = train.comparisons.n_users
            if people < workers:
                raise InputError(f"{people} users are too few for {workers} workers: ask for fewer")
            given, user_ids = hand_over(train, validation, config, job.folder), train.comparisons.user_ids
        else:
            table = path_of("train", train)
            if encoder is None and embeddings is None:
                raise InputError("a table needs vectors: name the encoder= of its texts, or its own embeddings=")
            key = [_stamps(table), embeddings and _stamps(embeddings), encoder, prompt_mode, repr(config), workers]
            job = Job(root / "fit", what="fit", key=key)
            parquet = as_parquet(table, job.folder, images)
            mode = {"prompt_mode": prompt_mode, "images": images, "folder": str(table.resolve().parent)}
            pool = Pool(ray, workers, config.progress)
            reading = _vectors(pool, job, parquet, encoder, embeddings, store, mode, ROWS)
            given = Given(str(parquet.resolve()), reading, config, str(job.folder / "checkpoints"))
        if start is not None:
            begin = start if user_ids is None else numbered(start, user_ids)
            begin.save_pretrained(job.folder / "start")
            given = replace(given, start=str(job.folder / "start"))
        if not (job.folder / "result.json").is_file():
            train_together(given, workers, threads, job.folder)
        result = read_result(job.folder, user_ids if in_memory else None)
        job.end()
    if start is None:
        return result
    model = start.with_users(result.model.users)._with_shared_part_of(result.model)
    return replace(result, model=model, models={model.n_prototypes: model})


def score(
    model: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    embeddings: str | Path | None = None,
    store: str | Path | None = None,
    images: bool = False,
    workers: int = 2,
    address: str | None = None,
    rows: int | None = None,
    progress: bool = False,
) -> int:
    """Adds margin and P(left preferred) to a table of comparisons.

    Args:
        model: a model folder or a Hub id.
        table: parquet, a file or a folder of files; jsonl and csv are first written as parquet.
        out: folder to write: parts of so many rows, in the order of the table; it appears whole or not at all.
        embeddings: own vectors: a parquet file with columns id and embedding.
        store: where texts' vectors are kept; None for the encoder's default store. What is missing is embedded first.
        images: the responses are paths of images.
        workers: processes.
        address: of a Ray cluster.
        rows: of a part: what a worker holds at once; None: 50,000.
        progress: a progress bar on stderr, where that is a terminal.

    Returns:
        How many rows were written.

    Raises:
        InputError: data that do not fit the model, or an output folder that holds something else.
        MissingExtraError: Ray is not installed.
    """
    out, rows = path_of("out", out), ROWS if rows is None else whole("rows", rows)
    Job.check_replaceable(out)
    known = RewardModel.from_pretrained(model)
    with connected(workers, address) as ray:
        job = _job(out, "score", model, table, embeddings, images, rows)
        parquet = as_parquet(table, job.folder, images)
        pieces = pieces_of(parquet, rows)
        pool = Pool(ray, workers, progress)
        reading = _reading(pool, job, known, parquet, embeddings, store, images, rows)
        parts = job.stage("parts")
        pool.run("score", pieces, partial(works.Score, str(model), reading), parts)
        job.publish(parts)
    return sum(piece.rows for piece in pieces)


def adapt(
    model: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    strength: float | None = None,
    embeddings: str | Path | None = None,
    store: str | Path | None = None,
    images: bool = False,
    workers: int = 2,
    address: str | None = None,
    rows: int | None = None,
    progress: bool = False,
) -> int:
    """Weights of the users in a table, as `pal.adapt` finds them; the shared part stays as it is.

    Args:
        model: a model folder or a Hub id.
        table: their comparisons, as in `score`.
        out: folder to write: parquet parts of user_id, n_comparisons, weights, concentration and gap, a user in one
            row of one part. `users_of` reads it.
        strength: of KL(prior || w), as in `pal.adapt`; None for what was chosen in training, the normal density of a
            continuum of people included.
        embeddings: as in `score`.
        store: as in `score`.
        images: as in `score`.
        workers: processes.
        address: of a Ray cluster.
        rows: about how many comparisons a worker holds at once (None: 50,000); never less than one user's.
        progress: as in `score`.

    Returns:
        How many users were written.

    Raises:
        InputError: data that do not fit the model, or an output folder that holds something else.
        MissingExtraError: Ray is not installed.
    """
    out, rows = path_of("out", out), ROWS if rows is None else whole("rows", rows)
    Job.check_replaceable(out)
    if strength is not None:
        number("strength", strength)
    known = RewardModel.from_pretrained(model)
    with connected(workers, address) as ray:
        job = _job(out, "adapt", model, table, embeddings, images, rows, strength)
        parquet = as_parquet(table, job.folder, images)
        pieces = pieces_of(parquet, rows)
        pool = Pool(ray, workers, progress)
        reading = _reading(pool, job, known, parquet, embeddings, store, images, rows)
        dealt, parts = job.stage("dealt"), job.stage("parts")
        buckets = [Piece(number) for number in range(max(workers, len(pieces)))]
        pool.run("adapt", pieces, partial(works.Deal, len(buckets)), dealt, light=True)
        pool.run("adapt", buckets, partial(works.Adapt, str(model), reading, str(dealt), strength), parts)
        users = 0
        for piece in buckets:
            part = parts / part_name(piece.number)
            if pl.read_parquet_schema(part):
                users += int(pl.scan_parquet(part, glob=False).select(pl.len()).collect().item())
            else:
                part.unlink()  # a bucket that nobody fell into
        job.publish(parts)
    return users


def embed(
    table: str | Path,
    encoder: str | Encoder = "all-MiniLM-L6-v2",
    store: str | Path | None = None,
    *,
    prompt_mode: str = "separate",
    images: bool = False,
    dtype: str = "float32",
    batch_size: int = 64,
    workers: int = 2,
    address: str | None = None,
    rows: int | None = None,
    progress: bool = False,
) -> EmbeddingStore:
    """Embeds what is in a table into an embedding store; what the store holds already is left alone.

    Args:
        table: comparisons, as in `score`.
        encoder: a name ("hashing", "all-MiniLM-L6-v2", a folder, a Hub id) or an encoder.
        store: folder; None for the encoder's default store, where `pal.embed(store=True)` finds it.
        prompt_mode: "separate", "joint" or "none", as in `pal.embed`.
        images: the responses are paths of images.
        dtype: of a new store.
        batch_size: items encoded at once.
        workers: processes.
        address: of a Ray cluster.
        rows: of the table that a worker reads at once; None: 50,000.
        progress: as in `score`.

    Raises:
        InputError: a table or a store that cannot be used.
        EncoderError: an encoder that cannot be found or fails.
        MissingExtraError: Ray is not installed.
    """
    used, rows = encoder_of(encoder), ROWS if rows is None else whole("rows", rows)
    folder = store_of(used, store)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with connected(workers, address) as ray:
        job = Job(folder, what="embed", table=_stamps(table), encoder=[used.name, used.revision], mode=prompt_mode)
        parquet = as_parquet(table, job.folder, images)
        reading = Reading(prompt_mode=prompt_mode, images=images, folder=str(Path(table).resolve().parent))
        pool = Pool(ray, workers, progress)
        made = _embed(pool, job, parquet, encoder, used, folder, reading, rows, batch_size, dtype)
        job.end()
    return made


def users_of(out: str | Path) -> pl.DataFrame:
    """What `adapt` wrote, as one frame: a row a user.

    Raises:
        InputError: there is nothing that `adapt` wrote.
    """
    parts = sorted(path_of("out", out).glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{out}: no part-*.parquet there: give the folder that distributed.adapt wrote")
    return pl.read_parquet(parts, glob=False)


# -- steps ---------------------------------------------------------------------------------------------------------


def _stamps(table: str | Path) -> list[Any]:
    path = Path(table)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    return stamp(path)


def _job(out: Path, what: str, model: str | Path, table: str | Path, embeddings: Any, *rest: Any) -> Job:
    folder = Path(model)
    return Job(
        out,
        what=what,
        model=stamp(folder) if folder.is_dir() else str(model),
        table=_stamps(table),
        embeddings=None if embeddings is None else _stamps(embeddings),
        rest=rest,
    )


def _reading(
    pool: Pool,
    job: Job,
    model: RewardModel,
    table: Path,
    embeddings: str | Path | None,
    store: str | Path | None,
    images: bool,
    rows: int,
) -> Reading:
    """Vectors of all that the model will be asked about."""
    mode = {"prompt_mode": Reading.mode_of(model), "images": images, "folder": str(table.resolve().parent)}
    return _vectors(pool, job, table, model.config.encoder, embeddings, store, mode, rows)


def _vectors(
    pool: Pool,
    job: Job,
    table: Path,
    encoder: str | None,
    embeddings: str | Path | None,
    store: str | Path | None,
    mode: dict[str, Any],
    rows: int,
) -> Reading:
    """Vectors of a table on disk: brought along, or embedded now."""
    if embeddings is not None:
        write_vectors(Path(embeddings), job.folder / "vectors")
        return Reading(vectors=str(job.folder / "vectors"), **mode)
    used = encoder_of(encoder)
    reading = Reading(used.name, str(store_of(used, store)), **mode)
    _embed(pool, job, table, used.name, used, store_of(used, store), reading, rows)
    return reading


def _embed(
    pool: Pool,
    job: Job,
    table: Path,
    encoder: str | Encoder,
    used: Encoder,
    folder: Path,
    reading: Reading,
    rows: int,
    batch_size: int = 64,
    dtype: str = "float32",
) -> EmbeddingStore:
    pieces = pieces_of(table, rows)
    collected, vectors = job.stage("collected"), job.stage("vectors-parts")
    buckets = [Piece(n) for n in range(max(pool.workers, sum(piece.rows for piece in pieces) // CONTENTS))]
    pool.run("embed", pieces, partial(works.Collect, reading, used.kind, len(buckets)), collected, light=True)
    make = partial(works.Embed, encoder, str(folder), str(collected), batch_size, dtype)
    pool.run("embed", buckets, make, vectors)
    store: EmbeddingStore | None = None
    for piece in buckets:
        part = pl.read_parquet(vectors / part_name(piece.number), glob=False)
        if not len(part):
            continue
        ready = works.Ready(used, part["embedding"].to_numpy(), part["id"].to_list())
        store = store or EmbeddingStore(folder, ready, dtype)
        store.embed(ready, part["id"], part["id"])
    return store or EmbeddingStore(folder, used, dtype)
