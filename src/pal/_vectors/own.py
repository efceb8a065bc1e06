"""Vectors that people bring themselves: checked whole, then matched to items by id."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._vectors.encoders import show
from pal.comparisons import Items
from pal.errors import InputError

_PIECE = 65_536  # rows looked at together

OwnVectors = tuple[Any, Any] | str | os.PathLike[str] | pl.DataFrame


class VectorTable:
    """Ids and their vectors, from (ids, matrix), a parquet file or a frame with columns `id` and `embedding`.

    Attributes:
        source: how errors call it.
        ids: (n,) strings, unique.
        matrix: (n, D), finite.

    Raises:
        InputError: what was found, where, and what to do.
    """

    def __init__(self, given: OwnVectors) -> None:
        if isinstance(given, str | os.PathLike):
            self.source = f"embeddings table {os.fspath(given)}"
            self.ids, self.matrix = self._from_frame(_read(Path(given), self.source))
        elif isinstance(given, pl.DataFrame):
            self.source = "embeddings table"
            self.ids, self.matrix = self._from_frame(given)
        elif isinstance(given, tuple) and len(given) == 2:
            self.source = "embeddings"
            self.ids, self.matrix = self._ids(given[0]), self._matrix(given[1])
        else:
            raise InputError(
                "embeddings must be (ids, matrix), a parquet file or a polars frame with columns id and "
                f"embedding; found {type(given).__name__}"
            )
        self._check()

    def rows_of(self, items: Items, what: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Vectors of items by id, shape (len(items), D).

        Args:
            items: what to look up.
            what: "responses" or "prompts", for errors.
            dtype: to cast to.

        Raises:
            InputError: items without a vector, or numbers that dtype cannot hold.
        """
        table = pl.DataFrame({"id": self.ids}).with_row_index("row")
        found = pl.DataFrame({"id": items.ids}).join(table, on="id", how="left", maintain_order="left")["row"]
        if found.null_count():
            remedy = ", or name a prompt_encoder" if what == "prompts" and items.contents is not None else ""
            missing = items.ids.filter(found.is_null())
            named = ", ".join(show(id_) for id_ in missing.head(3)) + (", ..." if len(missing) > 3 else "")
            raise InputError(
                f"{len(missing)} of {len(items)} {what} have no embedding in {self.source}: {named}; "
                f"add rows with these ids to its {len(self.ids)}{remedy}"
            )
        with np.errstate(over="ignore"):
            vectors = np.asarray(self.matrix[found.to_numpy()], dtype)
        bad = not_finite(vectors)
        if bad is not None:
            raise InputError(f"{self.source}: id {show(items.ids[bad])} has a number beyond {dtype}: scale the vectors")
        return vectors

    def _from_frame(self, frame: pl.DataFrame) -> tuple[pl.Series, npt.NDArray[Any]]:
        for name in ("id", "embedding"):
            if name not in frame.columns:
                raise InputError(
                    f"{self.source} has no column '{name}' (found: {', '.join(frame.columns)}): rename one"
                )
        ids, column = self._ids(frame["id"]), frame["embedding"]
        inner = column.dtype.inner if isinstance(column.dtype, pl.List | pl.Array) else pl.Null()
        if not inner.is_numeric():
            raise InputError(f"{self.source}: column 'embedding' holds {column.dtype}, not lists of float: write those")
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        if not len(column):
            raise InputError(f"{self.source} is empty: it needs a row for every item")
        lengths = column.list.len()
        holes = column.list.eval(pl.element().is_null().any()).list.first().fill_null(False)
        self._refuse(ids, column.is_null() | holes, "has a null in its embedding: write numbers")
        dim = int(lengths.mode()[0])
        wrong = lengths != dim
        if wrong.any():
            row = int(wrong.arg_true()[0])
            self._refuse(ids, wrong, f"has {lengths[row]} numbers, others have {dim}: use one encoder for all")
        if dim == 0:
            raise InputError(f"{self.source}: the embeddings are empty lists: write a list of float")
        return ids, column.list.to_array(dim).to_numpy()

    def _ids(self, given: Any) -> pl.Series:
        try:
            if not isinstance(given, pl.Series):
                given = pl.Series(given if isinstance(given, np.ndarray) else list(given), strict=True)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{self.source}: ids must be strings or integers, all of one kind") from error
        if len(given) and not (given.dtype == pl.String or given.dtype.is_integer()):
            raise InputError(f"{self.source}: ids must be strings or integers, found {given.dtype}")
        ids: pl.Series = given.cast(pl.String).alias("id")
        if ids.null_count():
            row = int(ids.is_null().arg_true()[0])
            raise InputError(f"{self.source}, row {row + 1}: the id is null: give each row one")
        return ids

    def _matrix(self, given: Any) -> npt.NDArray[Any]:
        if hasattr(given, "detach"):  # a torch tensor, without importing torch here
            given = given.detach().cpu()
            given = given.float() if "bfloat16" in str(given.dtype) else given
        try:
            matrix = np.asarray(given)
        except ValueError as error:
            raise InputError(f"{self.source}: rows of the matrix differ in length: use one encoder for all") from error
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            found = f"{matrix.dtype} {matrix.shape}"
            raise InputError(f"{self.source}: the matrix must be numbers of shape (n, D), found {found}")
        return matrix

    def _check(self) -> None:
        n = len(self.ids)
        if n == 0 or self.matrix.size == 0:
            raise InputError(f"{self.source} is empty: it needs a row for every item")
        if n != len(self.matrix):
            raise InputError(f"{self.source}: {n} ids but {len(self.matrix)} rows in the matrix: give one id a row")
        repeated = self.ids.is_duplicated()
        if repeated.any():
            first = self.ids.filter(repeated)[0]
            rows = (self.ids == first).arg_true()
            extra = n - self.ids.n_unique()
            raise InputError(
                f"{self.source}: id {show(first)} is in rows {int(rows[0]) + 1} and {int(rows[1]) + 1}"
                f"{f' ({extra} rows repeat an id)' if extra > 1 else ''}: keep one row for each id"
            )
        bad = not_finite(self.matrix)
        if bad is not None:
            row = np.asarray(self.matrix[bad])
            column = int(np.flatnonzero(~np.isfinite(row))[0])
            raise InputError(
                f"{self.source}, row {bad + 1}, id {show(self.ids[bad])}: number {column + 1} of its "
                f"embedding is {row[column]}; embed it again, or drop it"
            )

    def _refuse(self, ids: pl.Series, bad: pl.Series, problem: str) -> None:
        if bad.any():
            row = int(bad.arg_true()[0])
            raise InputError(f"{self.source}, row {row + 1}: id {show(ids[row])} {problem}")


def not_finite(matrix: npt.NDArray[Any]) -> int | None:
    """The first row (of (n, D)) with a NaN or an infinity."""
    for start in range(0, len(matrix), _PIECE):
        good = np.isfinite(matrix[start : start + _PIECE]).all(1)
        if not good.all():
            return start + int(np.argmin(good))
    return None


def _read(path: Path, source: str) -> pl.DataFrame:
    if path.is_dir():
        raise InputError(f"{source} is a folder: give a parquet file; an embedding store goes to store=")
    if not path.is_file():
        raise InputError(f"{source}: there is no such file")
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{source} is no parquet file, or is damaged: {str(error).splitlines()[0]}") from error
