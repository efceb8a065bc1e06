"""Tables by the piece: a piece is done by one worker, and appears on disk whole or not at all.

Whatever is killed is therefore simply done again: a worker's piece by another worker, a driver's job by the next call,
which leaves out the pieces that are there. Rows do not pass through Ray's object store, only the names of pieces do.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from pal import errors
from pal._distributed.cluster import plainly
from pal._progress import counted
from pal.errors import InputError, PALError

__all__ = ["Job", "Piece", "Pool", "Work", "bucket_of", "part_name", "pieces_of", "write_part"]


@dataclass(frozen=True)
class Piece:
    """Rows of a parquet file, or (without a file) a bucket of a table that was dealt out.

    Attributes:
        number: of the piece in its job.
        file: the parquet file.
        start: its first row.
        rows: how many.
    """

    number: int
    file: str = ""
    start: int = 0
    rows: int = 0

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows."""
        scan = pl.scan_parquet(self.file, glob=False)
        return (scan if columns is None else scan.select(columns)).slice(self.start, self.rows).collect()

    def __str__(self) -> str:
        return f"{self.file}, rows {self.start + 1} to {self.start + self.rows}"


class Work(Protocol):
    """What a worker does; made once in each worker."""

    def __call__(self, piece: Piece, out: Path) -> None:
        """Does a piece, and writes it as `part_name(piece.number)` in the folder."""


def pieces_of(table: Path, rows: int) -> list[Piece]:
    """A parquet file, or the parquet files of a folder in the order of their names, as pieces of so many rows.

    Raises:
        InputError: no file there, or one that is damaged.
    """
    files = sorted(p for p in table.glob("*.parquet") if p.is_file()) if table.is_dir() else [table]
    if not files or not all(file.is_file() for file in files):
        raise InputError(f"{table}: no parquet file there: check the path")
    pieces: list[Piece] = []
    for file in files:
        try:
            n = int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file} is damaged, or no parquet file ({reason}): write it again") from None
        for start in range(0, n, rows):
            pieces.append(Piece(len(pieces), str(file.resolve()), start, min(rows, n - start)))
    if not pieces:
        raise InputError(f"{table} has no rows: a table needs at least one comparison")
    return pieces


def bucket_of(ids: pl.Series, buckets: int) -> npt.NDArray[np.int64]:
    """A bucket in [0, buckets) for each id (n,): the same in every process, on every machine."""
    distinct = ids.unique()
    hashes = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in distinct]
    table = pl.DataFrame({"id": distinct, "bucket": [int.from_bytes(h, "little") % buckets for h in hashes]})
    found = ids.alias("id").to_frame().join(table, on="id", how="left", nulls_equal=True, maintain_order="left")
    return found["bucket"].cast(pl.Int64).to_numpy()


def part_name(number: int) -> str:
    """part-00007.parquet."""
    return f"part-{number:05d}.parquet"


def write_part(frame: pl.DataFrame, out: Path, number: int, row_group_size: int | None = None) -> None:
    """Writes a part in one step; done twice, it is the same part."""
    fresh = out / f".{part_name(number)}.{secrets.token_hex(4)}.new"
    try:
        with fresh.open("wb") as file:
            frame.write_parquet(file, row_group_size=row_group_size)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(out / part_name(number))
    finally:
        fresh.unlink(missing_ok=True)


class Job:
    """A job's own folder beside its output, under a name made of all that its result hangs on.

    Attributes:
        folder: of this job.
    """

    def __init__(self, out: Path, **facts: Any) -> None:
        self.out = out.resolve()
        self.root = self.out.with_name(f".{self.out.name}.pal-work")
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.folder = self.root / key
        self.folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str) -> Path:
        """A folder for the parts of a stage."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def publish(self, parts: Path) -> None:
        """Puts a folder of parts in the place of the output, and ends the job."""
        for left in parts.glob(".*.new"):
            left.unlink(missing_ok=True)
        if self.out.exists():
            shutil.rmtree(self.out)
        parts.rename(self.out)
        self.end()

    def end(self) -> None:
        """Removes what the job kept."""
        shutil.rmtree(self.root, ignore_errors=True)

    @staticmethod
    def check_replaceable(out: Path) -> None:
        """Whether parts may be written here; asked before the work.

        Raises:
            InputError: the path is a file, or a folder that holds something else than parts.
        """
        if out.is_file():
            raise InputError(f"{out} is a file: several workers write a folder of parquet files, name one")
        odd = [p.name for p in out.iterdir() if not p.match("part-*.parquet")] if out.is_dir() else []
        if odd:
            raise InputError(f"{out}: not replaced, since it holds {odd[0]!r}: choose another folder")
        if not out.resolve().parent.is_dir():
            raise InputError(f"{out}: no folder '{out.resolve().parent}'; make it first")


def stamp(path: Path) -> list[Any]:
    """What tells whether a file, or a folder's files, are the same as before: names, sizes and times."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


class _Worker:
    """A Work in a Ray actor, or (called once) in a task."""

    def __init__(self, make: Callable[[], Work], out: str) -> None:
        self._make, self._out = make, Path(out)
        self._work: Work | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Does the piece of a row; what PAL raises goes back as words, since Ray would wrap it and try again."""
        piece, error = Piece(**row), ""
        try:
            if self._work is None:
                import torch

                torch.set_num_threads(1)  # workers share the machine by processes
                self._work = self._make()
            self._work(piece, self._out)
        except PALError as found:
            where = f"{piece}: " if piece.file and isinstance(found, InputError) else ""
            error = f"{type(found).__name__}\n{where}{found}"
        return {"number": piece.number, "error": error}


def _once(make: Callable[[], Work], out: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return _Worker(make, out)(row)


@dataclass(frozen=True)
class Pool:
    """Who does pieces.

    Attributes:
        ray: connected.
        workers: how many at once.
        progress: a progress bar on stderr, where that is a terminal.
    """

    ray: Any
    workers: int
    progress: bool = False

    def run(
        self, what: str, pieces: Sequence[Piece], make: Callable[[], Work], out: Path, *, light: bool = False
    ) -> None:
        """Does the pieces that are not in the folder yet, as a stream over a pool of actors.

        Args:
            what: the job, for errors and the progress bar.
            pieces: of the job.
            make: makes what does a piece, in each worker.
            out: folder of the parts.
            light: there is nothing to load first: tasks in processes that are there will do.

        Raises:
            PALError: what a worker raised; a worker that is killed is replaced, and its piece done again.
        """
        todo = [piece for piece in pieces if not (out / part_name(piece.number)).is_file()]
        if not todo:
            return
        data = self.ray.data
        with plainly(what), counted(f"{what}, {out.name}", len(pieces), self.progress) as advance:
            advance(len(pieces) - len(todo))
            source = data.from_items([asdict(piece) for piece in todo], override_num_blocks=len(todo))
            if light:
                tasks = data.TaskPoolStrategy(size=self.workers)
                stream = source.map(partial(_once, make, str(out.resolve())), compute=tasks, num_cpus=1)
            else:
                actors = data.ActorPoolStrategy(size=min(self.workers, len(todo)), max_tasks_in_flight_per_actor=2)
                arguments = (make, str(out.resolve()))
                stream = source.map(_Worker, fn_constructor_args=arguments, compute=actors, num_cpus=1)
            for row in stream.iter_rows():
                if row["error"]:
                    kind, _, said = row["error"].partition("\n")
                    raise (getattr(errors, kind, PALError) if kind != "MissingExtraError" else PALError)(said)
                advance(1)
        missing = [piece.number for piece in pieces if not (out / part_name(piece.number)).is_file()]
        if missing:
            raise InputError(f"{what}: {len(missing)} pieces are not in {out}: is the folder shared by all workers?")
