"""Own vectors on disk: ids in memory, numbers memory-mapped, for any number of workers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._vectors.own import VectorTable
from pal.errors import InputError

__all__ = ["DiskVectors", "write_vectors"]

_BATCH = 16_384  # rows read together


def write_vectors(table: Path, folder: Path) -> None:
    """Turns a parquet file of `id` and `embedding` into a folder that `DiskVectors` opens, a batch at a time.

    Raises:
        InputError: a table that cannot be used, as `pal.embed` says.
    """
    if (folder / "ids.parquet").is_file():
        return
    if not table.is_file():
        VectorTable(str(table))  # says what is wrong
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    ids: list[pl.Series] = []
    dim = 0
    try:
        source = pq.ParquetFile(table)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"embeddings table {table} is no parquet file, or is damaged: {error}") from None
    with source, (folder / "vectors.raw").open("wb") as file:
        for batch in source.iter_batches(_BATCH):
            part = VectorTable(pl.DataFrame(pl.from_arrow(batch)))
            dim = dim or part.matrix.shape[1]
            if part.matrix.shape[1] != dim:
                found = part.matrix.shape[1]
                raise InputError(f"embeddings table {table}: some have {found} numbers, others {dim}: use one encoder")
            file.write(np.ascontiguousarray(part.matrix, np.float32).data)
            ids.append(part.ids)
    if not ids:
        raise InputError(f"embeddings table {table} is empty: it needs a row for every item")
    all_ids = pl.concat(ids, rechunk=True)
    _finish(all_ids, f"embeddings table {table}", folder)


def write_matrix(ids: pl.Series, matrix: npt.NDArray[np.float32] | npt.NDArray[np.float16], folder: Path) -> None:
    """The same of ids (n,) and a matrix (n, D) in memory."""
    if (folder / "ids.parquet").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "vectors.raw").open("wb") as file:
        for start in range(0, len(matrix), _BATCH):
            file.write(np.ascontiguousarray(matrix[start : start + _BATCH], np.float32).data)
    _finish(ids, "embeddings", folder)


def _finish(ids: pl.Series, source: str, folder: Path) -> None:
    if ids.n_unique() != len(ids):
        again = ids.filter(ids.is_duplicated())[0]
        raise InputError(f"{source}: id {again!r} is in several rows: keep one row for each id")
    fresh = folder / "ids.parquet.new"
    ids.alias("id").to_frame().write_parquet(fresh)
    fresh.replace(folder / "ids.parquet")


class DiskVectors:
    """What `write_vectors` wrote.

    Attributes:
        ids: (n,) strings.
    """

    def __init__(self, folder: Path) -> None:
        self.ids = pl.read_parquet(folder / "ids.parquet")["id"]
        self._matrix = np.memmap(folder / "vectors.raw", np.float32, "r").reshape(len(self.ids), -1)
        self._table = self.ids.to_frame().with_row_index("row")

    def of(self, ids: pl.Series) -> tuple[pl.Series, npt.NDArray[np.float32]]:
        """Those of these ids that are here, and their vectors: what `pal.embed` takes as ``embeddings``."""
        wanted = ids.cast(pl.String).unique().alias("id").to_frame()
        found = wanted.join(self._table, on="id", how="inner").sort("row")
        if not len(found):  # one that nobody asks for, so that the error says which are missing
            return self.ids.head(1), np.array(self._matrix[:1])
        return found["id"], np.array(self._matrix[found["row"].to_numpy()])
